#pragma once

#include <cstdint>
#include <string>

#include <kfac/core/random.hpp>
#include <kfac/data/dataset.hpp>
#include <kfac/loss/softmax_cross_entropy.hpp>
#include <kfac/nn/dynamic_sequential.hpp>

namespace examples {

/// Fashion-MNIST with images of 7x7 pixels, each the mean of 4x4, in 10 classes.
struct SmallImages {
  kfac::Dataset<double> train;
  kfac::Dataset<double> test;
};

/// \throws kfac::FileError if a file of the data set is missing from the folder or is not intact
SmallImages small_images(const std::string& folder);

using SmallNetwork = kfac::DynamicSequential<double>;

/// Two 3x3 convolutions, layers "1" and "3", then a linear layer, "6".
SmallNetwork small_network(kfac::Index channels, kfac::Rng& rng);

/// Trains it with K-FAC.
void train(SmallNetwork& model, const kfac::SoftmaxCrossEntropy<double>& loss,
           const kfac::Dataset<double>& data, kfac::Index epochs, std::uint64_t seed);

}  // namespace examples
