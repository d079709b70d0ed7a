#pragma once

#include <string>
#include <vector>

#include <kfac/core/random.hpp>
#include <kfac/data/dataset.hpp>
#include <kfac/nn/dynamic_sequential.hpp>

namespace examples {

using Autoencoder = kfac::DynamicSequential<float>;

/// What `make_autoencoder` can draw the weights from.
///
/// - "uniform": +-1/sqrt(inputs), biases too, as `kfac::Linear` has it
/// - "glorot": +-sqrt(6 / (inputs + outputs)), biases zero
/// - "sparse": 15 standard normal weights to each unit and the rest zero, biases zero
/// \source Glorot and Bengio, Understanding the difficulty of training deep feedforward neural
///         networks, 2010; Martens, Deep learning via Hessian-free optimization, 2010, section 5
const std::vector<std::string>& initializations();

/// 784-1000-500-250-30-250-500-1000-784 with tanh, except at the code of 30 and at the outputs,
/// which are logits of the pixels.
/// \source Hinton and Salakhutdinov, Reducing the dimensionality of data with neural networks, 2006
Autoencoder make_autoencoder(const std::string& initialization, kfac::Rng& rng);

using Images = kfac::Dataset<float, kfac::Matrix<float>>;

/// The training images of Fashion-MNIST, with pixels from 0 to 1, as inputs and as targets. With
/// `standardised` the inputs have mean 0 and variance 1, over all pixels.
/// \throws kfac::FileError if a file of the data set is missing from the folder or is not intact
Images training_images(const std::string& folder, bool standardised);

/// `count` of the images, or all if there are not as many: the same ones always.
Images evaluation_images(const Images& images, kfac::Index count);

}  // namespace examples
