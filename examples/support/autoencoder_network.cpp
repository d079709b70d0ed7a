#include "support/autoencoder_network.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <utility>

#include <kfac/io/idx.hpp>
#include <kfac/nn/activations.hpp>
#include <kfac/nn/linear.hpp>

namespace examples {

using kfac::Index;

namespace {

constexpr std::array<Index, 9> kWidths{784, 1000, 500, 250, 30, 250, 500, 1000, 784};
constexpr std::size_t kCode = 4;  // the width that is the code's

void draw_glorot(kfac::MatrixMap<float> weights, kfac::Rng& rng) {
  const double bound = std::sqrt(6.0 / static_cast<double>(weights.rows() + weights.cols()));
  rng.fill_uniform(weights, -bound, bound);
}

void draw_sparse(kfac::MatrixMap<float> weights, kfac::Rng& rng) {
  constexpr Index kConnections = 15;
  const Index connections = std::min(kConnections, weights.cols());
  weights.setZero();
  for (Index unit = 0; unit < weights.rows(); ++unit)
    for (Index drawn = 0; drawn < connections;) {
      float& weight = weights(unit, rng.below(weights.cols()));
      if (weight != 0) continue;
      weight = static_cast<float>(rng.normal());
      ++drawn;
    }
}

}  // namespace

const std::vector<std::string>& initializations() {
  static const std::vector<std::string> kNames{"uniform", "glorot", "sparse"};
  return kNames;
}

Autoencoder make_autoencoder(const std::string& initialization, kfac::Rng& rng) {
  Autoencoder model;
  for (std::size_t i = 1; i < kWidths.size(); ++i) {
    const Index inputs = kWidths[i - 1];
    kfac::Linear<float> layer(inputs, kWidths[i], rng);
    if (initialization != "uniform") {
      kfac::MatrixMap<float> augmented = layer.augmented_weight();
      augmented.col(inputs).setZero();
      const kfac::MatrixMap<float> weights(augmented.data(), augmented.rows(), inputs);
      initialization == "glorot" ? draw_glorot(weights, rng) : draw_sparse(weights, rng);
    }
    model.push_back(std::move(layer));
    if (i != kCode && i + 1 != kWidths.size()) model.push_back(kfac::Tanh<float>{});
  }
  return model;
}

Images training_images(const std::string& folder, bool standardised) {
  auto pixels = kfac::io::fashion_mnist<float>(folder).train.inputs;
  Images images{pixels, std::move(pixels)};
  if (standardised) {
    constexpr float kMean = 0.2860F;
    constexpr float kDeviation = 0.3530F;
    images.inputs.array() = (images.inputs.array() - kMean) / kDeviation;
  }
  return images;
}

Images evaluation_images(const Images& images, Index count) {
  // Those of the training set stand in random order.
  const Index all = std::min(count, images.examples());
  return {images.inputs.leftCols(all), images.targets.leftCols(all)};
}

}  // namespace examples
