/// SGD, Adam and K-FAC train a network on the 28x28 images of Fashion-MNIST, from the same initial
/// weights and on the same batches.

#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include <kfac/io/idx.hpp>
#include <kfac/kfac.hpp>
#include <kfac/nn/conv.hpp>
#include <kfac/nn/flatten.hpp>

#include "support/comparison.hpp"

namespace {

using examples::Comparison;
using examples::History;
using kfac::Dataset;
using kfac::Index;

constexpr Index kPixels = 28 * 28;
constexpr Index kClasses = 10;

auto make_mlp(kfac::Rng& rng) {
  return kfac::Sequential{kfac::Linear<float>(kPixels, 512, rng), kfac::ReLU<float>{},
                          kfac::Linear<float>(512, 512, rng), kfac::ReLU<float>{},
                          kfac::Linear<float>(512, kClasses, rng)};
}

auto make_cnn(kfac::Rng& rng) {
  const auto conv = [&rng](Index in_channels, Index out_channels, Index stride) {
    return kfac::Conv2d<float>({.in_channels = in_channels,
                                .out_channels = out_channels,
                                .kernel_size = {3, 3},
                                .stride = {stride, stride}},
                               rng);
  };
  // Without padding the images shrink from 28x28 to 26x26, 12x12 and 5x5.
  constexpr Index kFeatures = 64 * 5 * 5;
  return kfac::Sequential{kfac::Unflatten<float>({1, 28, 28}),
                          conv(1, 32, 1),
                          kfac::ReLU<float>{},
                          conv(32, 64, 2),
                          kfac::ReLU<float>{},
                          conv(64, 64, 2),
                          kfac::ReLU<float>{},
                          kfac::Flatten<float>{},
                          kfac::Linear<float>(kFeatures, kClasses, rng)};
}

// The learning rates of SGD and Adam are the best of a grid, by the training loss at the end. Every
// step of K-FAC is shortened to `kl_clip`, which so takes the place of its learning rate.

Comparison mlp_defaults() {
  return {.sgd = {.learning_rate = 0.05F, .momentum = 0.9F},
          .adam = {.learning_rate = 1.5e-3F},
          .kfac = {.learning_rate = 1.0F,
                   .momentum = 0.5F,
                   .damping = 1e-4F,
                   .factor_every = 5,
                   .inverse_every = 15,
                   .factor_fraction = 0.5F,
                   .kl_clip = 2.5e-4F},
          .fisher = "monte-carlo",
          .batch_size = 256,
          .epochs = 3,
          .evaluate_every = 235};
}

Comparison cnn_defaults() {
  return {.sgd = {.learning_rate = 0.05F, .momentum = 0.9F},
          .adam = {.learning_rate = 5e-3F},
          .kfac = {.learning_rate = 1.0F,
                   .momentum = 0.5F,
                   .damping = 1e-4F,
                   .factor_every = 5,
                   .inverse_every = 25,
                   .factor_fraction = 0.25F,
                   .kl_clip = 2.5e-4F},
          .fisher = "monte-carlo",
          .batch_size = 128,
          .epochs = 1,
          .evaluate_every = 235};
}

/// To mean 0 and variance 1 over all pixels of the training images.
void standardise(Dataset<float>& images) {
  constexpr float kMean = 0.2860F;
  constexpr float kDeviation = 0.3530F;
  images.inputs.array() = (images.inputs.array() - kMean) / kDeviation;
}

template <class Model>
void run(const Comparison& comparison, const Model& model, const Dataset<float>& train,
         const Dataset<float>& test, const kfac::Rng& batch_order) {
  const kfac::SoftmaxCrossEntropy<float> loss;
  const examples::Task<kfac::SoftmaxCrossEntropy<float>> task{loss, train, test};
  std::vector<History> runs;
  {
    examples::Progress progress(comparison.optimizer_count() * comparison.steps(train.examples()));
    examples::compare(comparison, task, model, batch_order, progress,
                      [&](const History& finished, const Model&) { runs.push_back(finished); });
  }

  std::cout << "Training loss and test accuracy\n";
  examples::print_progress(std::cout, runs);
  std::cout << "\nNorm of each layer's step\n";
  examples::print_step_norms(std::cout, runs);

  if (!comparison.csv.empty()) examples::write_csv(comparison.csv, runs);
  if (!comparison.plot.empty())
    examples::draw(comparison.plot, examples::history_panels(runs, "Test accuracy"), 2);
}

}  // namespace

int main(int argc, char** argv) {
  std::string model = examples::peek(argc, argv, "--model").value_or("mlp");
  std::string folder = "/usr/share/datasets/fashion-mnist";
  Comparison comparison = model == "cnn" ? cnn_defaults() : mlp_defaults();

  examples::Flags flags(
      "SGD, Adam and K-FAC train a network on the 28x28 images of Fashion-MNIST, from the same "
      "initial weights and on the same batches.");
  flags.add("--model", model, "what to train, which decides the defaults below", {"mlp", "cnn"});
  flags.add("--data", folder, "folder with the four files of the data set");
  comparison.add_flags(flags);
  if (const auto exit_code = flags.parse(argc, argv)) return *exit_code;

  try {
    auto [train, test] = kfac::io::fashion_mnist<float>(folder);
    standardise(train);
    standardise(test);
    kfac::Rng rng(comparison.seed);
    if (model == "cnn")
      run(comparison, make_cnn(rng), train, test, rng);
    else
      run(comparison, make_mlp(rng), train, test, rng);
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
