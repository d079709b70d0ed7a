/// A small residual network with batch normalisation on the images of Fashion-MNIST: SGD, Adam and
/// K-FAC from the same initial weights and on the same batches.

#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include <kfac/io/idx.hpp>
#include <kfac/kfac.hpp>
#include <kfac/nn/batch_norm.hpp>
#include <kfac/nn/conv.hpp>
#include <kfac/nn/describe.hpp>
#include <kfac/nn/flatten.hpp>
#include <kfac/nn/global_pooling.hpp>
#include <kfac/nn/initializers.hpp>
#include <kfac/nn/parallel.hpp>
#include <kfac/nn/residual.hpp>

#include "support/comparison.hpp"

namespace {

using examples::Comparison;
using examples::History;
using kfac::Dataset;
using kfac::Index;

constexpr Index kPixels = Index{28} * 28;
constexpr Index kClasses = 10;

/// Without a bias, which the normalisation behind it would take away.
kfac::Conv2d<float> convolution(Index in, Index out, Index kernel, Index stride, kfac::Rng& rng) {
  return kfac::Conv2d<float>({.in_channels = in,
                              .out_channels = out,
                              .kernel_size = {kernel, kernel},
                              .stride = {stride, stride},
                              .padding = {kernel / 2, kernel / 2},
                              .bias = false},
                             rng);
}

/// Two convolutions, each with its normalisation: what a block of He et al. adds to its shortcut.
auto main_path(Index in, Index out, Index stride, kfac::Rng& rng) {
  return kfac::Sequential{convolution(in, out, 3, stride, rng), kfac::BatchNorm2d<float>(out),
                          kfac::ReLU<float>{}, convolution(out, out, 3, 1, rng),
                          kfac::BatchNorm2d<float>(out)};
}

/// The shortcut is the input itself.
auto same_size(Index channels, kfac::Rng& rng) {
  return kfac::Residual(main_path(channels, channels, 1, rng));
}

/// The shortcut, too, takes every second pixel, and changes the number of channels.
auto half_size(Index in, Index out, kfac::Rng& rng) {
  auto main = main_path(in, out, 2, rng);
  return kfac::Add(std::move(main), kfac::Sequential{convolution(in, out, 1, 2, rng),
                                                     kfac::BatchNorm2d<float>(out)});
}

/// Images of 28x28 become 14x14 in the first convolution and 7x7 in the second block.
auto make_resnet(Index width, kfac::Rng& rng) {
  kfac::Sequential model{kfac::Unflatten<float>({1, 28, 28}),
                         convolution(1, width, 3, 2, rng),
                         kfac::BatchNorm2d<float>(width),
                         kfac::ReLU<float>{},
                         same_size(width, rng),
                         kfac::ReLU<float>{},
                         half_size(width, 2 * width, rng),
                         kfac::ReLU<float>{},
                         same_size(2 * width, rng),
                         kfac::ReLU<float>{},
                         kfac::SpatialMean<float>{},
                         kfac::Linear<float>(2 * width, kClasses, rng)};
  kfac::initialize(model, kfac::KaimingNormal{.fan = kfac::Fan::Out}, rng);
  return model;
}

/// The learning rates of SGD and Adam are the best of a grid. All rates go down to zero along half
/// a cosine.
Comparison defaults() {
  return {.sgd = {.learning_rate = 0.1F, .momentum = 0.9F},
          .adam = {.learning_rate = 1e-2F},
          .kfac = {.learning_rate = 0.3F,
                   .momentum = 0.9F,
                   .damping = 1e-2F,
                   .factor_every = 10,
                   .inverse_every = 20,
                   .factor_fraction = 0.5F,
                   .kl_clip = 1e-3F},
          .fisher = "monte-carlo",
          .batch_size = 128,
          .epochs = 5};
}

/// To mean 0 and variance 1 over all pixels of the training images.
void standardise(Dataset<float>& images) {
  constexpr float kMean = 0.2860F;
  constexpr float kDeviation = 0.3530F;
  images.inputs.array() = (images.inputs.array() - kMean) / kDeviation;
}

/// A share of the examples, the first ones.
void keep(Dataset<float>& data, Index examples) {
  if (examples <= 0 || examples >= data.examples()) return;
  data.inputs = kfac::Matrix<float>(data.inputs.leftCols(examples));
  data.targets = kfac::Labels(data.targets.head(examples));
}

/// Each rate down to zero at the last step, and with it the bound on K-FAC's steps, which goes with
/// the square of the rate.
void decay(Comparison& comparison, Index steps) {
  const kfac::Schedule<float> left = kfac::schedules::cosine(1.0F, 0.0F, steps);
  const auto decayed = [&](kfac::Schedule<float>& rate) {
    rate = comparison.learning_rate.value_or(rate(0)) * left;
  };
  decayed(comparison.sgd.learning_rate);
  decayed(comparison.adam.learning_rate);
  decayed(comparison.kfac.learning_rate);
  comparison.learning_rate.reset();
  comparison.kfac.kl_clip = comparison.kfac_numbers->kl_clip * left * left;
}

}  // namespace

int main(int argc, char** argv) {
  std::string folder = "/usr/share/datasets/fashion-mnist";
  Index width = 16;
  Index examples = 0;
  Comparison comparison = defaults();

  examples::Flags flags(
      "SGD, Adam and K-FAC train a small residual network with batch normalisation on the 28x28 "
      "images of Fashion-MNIST, from the same initial weights and on the same batches.");
  flags.add("--data", folder, "folder with the four files of the data set");
  flags.add("--width", width, "channels of the first layer; the last have twice as many");
  flags.add("--examples", examples, "training images to use; 0: all");
  comparison.add_flags(flags);
  if (const auto exit_code = flags.parse(argc, argv)) return *exit_code;

  try {
    auto [train, test] = kfac::io::fashion_mnist<float>(folder);
    keep(train, examples);
    standardise(train);
    standardise(test);
    kfac::Rng rng(comparison.seed);
    const Index steps = comparison.steps(train.examples());
    comparison.evaluate_every = steps / comparison.epochs;
    decay(comparison, steps);

    auto model = make_resnet(width, rng);
    std::cout << kfac::describe(model, {kPixels}) << '\n';

    const kfac::SoftmaxCrossEntropy<float> loss;
    const examples::Task<kfac::SoftmaxCrossEntropy<float>> task{loss, train, test};
    std::vector<History> runs;
    {
      examples::Progress progress(comparison.optimizer_count() * steps);
      examples::compare(comparison, task, model, rng, progress,
                        [&](const History& finished, const auto&) { runs.push_back(finished); });
    }
    std::cout << "Training loss and test accuracy after each epoch\n";
    examples::print_progress(std::cout, runs);
    if (!comparison.csv.empty()) examples::write_csv(comparison.csv, runs);
    if (!comparison.plot.empty()) {
      auto panels = examples::history_panels(runs, "Test accuracy");
      panels.pop_back();  // there are too many layers to show the norm of each one's step
      examples::draw(comparison.plot, panels, 3);
    }
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
