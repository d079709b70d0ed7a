#include "support/small_images.hpp"

#include <kfac/data/batches.hpp>
#include <kfac/io/idx.hpp>
#include <kfac/nn/activations.hpp>
#include <kfac/nn/conv.hpp>
#include <kfac/nn/flatten.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/optim/kfac_optimizer.hpp>

#include "support/progress.hpp"

namespace examples {

using kfac::Dataset;
using kfac::Index;

namespace {

constexpr Index kSide = 7;
constexpr Index kFactor = 4;
constexpr Index kClasses = 10;

/// To about mean 0 and variance 1.
Dataset<double> shrunk(const Dataset<float>& images) {
  constexpr double kMean = 0.286;
  constexpr double kDeviation = 0.32;
  Dataset<double> result{Eigen::MatrixXd(kSide * kSide, images.examples()), images.targets};
  for (Index n = 0; n < images.examples(); ++n) {
    const Eigen::Map<const Eigen::MatrixXf> from(images.inputs.col(n).data(), kFactor * kSide,
                                                 kFactor * kSide);
    Eigen::Map<Eigen::MatrixXd> to(result.inputs.col(n).data(), kSide, kSide);
    for (Index j = 0; j < kSide; ++j)
      for (Index i = 0; i < kSide; ++i) {
        const float mean = from.block<kFactor, kFactor>(kFactor * i, kFactor * j).mean();
        to(i, j) = (static_cast<double>(mean) - kMean) / kDeviation;
      }
  }
  return result;
}

}  // namespace

SmallImages small_images(const std::string& folder) {
  const auto images = kfac::io::fashion_mnist<float>(folder);
  return {shrunk(images.train), shrunk(images.test)};
}

SmallNetwork small_network(Index channels, kfac::Rng& rng) {
  SmallNetwork model;
  model.push_back(kfac::Unflatten<double>({1, kSide, kSide}));
  model.push_back(kfac::Conv2d<double>({.in_channels = 1, .out_channels = channels}, rng));
  model.push_back(kfac::ReLU<double>{});
  model.push_back(kfac::Conv2d<double>({.in_channels = channels, .out_channels = channels}, rng));
  model.push_back(kfac::ReLU<double>{});
  model.push_back(kfac::Flatten<double>{});
  // Each convolution, without padding, takes a pixel from every side.
  constexpr Index kPixels = (kSide - 4) * (kSide - 4);
  model.push_back(kfac::Linear<double>(channels * kPixels, kClasses, rng));
  return model;
}

void train(SmallNetwork& model, const kfac::SoftmaxCrossEntropy<double>& loss,
           const Dataset<double>& data, Index epochs, std::uint64_t seed) {
  constexpr Index kBatchSize = 128;
  kfac::KfacOptimizer optimizer(model, loss,
                                kfac::KfacOptions<double>{.learning_rate = 1,
                                                          .damping = 1e-3,
                                                          .factor_every = 5,
                                                          .inverse_every = 25,
                                                          .kl_clip = 1e-4,
                                                          .fisher = kfac::FisherType::MonteCarlo,
                                                          .seed = seed});
  kfac::Rng order(seed);
  Progress progress(epochs * ((data.examples() + kBatchSize - 1) / kBatchSize));
  for (Index epoch = 0; epoch < epochs; ++epoch)
    for (const auto& [x, y] : kfac::batches(data, kBatchSize, order)) {
      optimizer.step(x, y);
      progress.advance();
    }
}

}  // namespace examples
