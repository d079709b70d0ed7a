/// A recurrent network reads the images of Fashion-MNIST row by row and says at the end what they
/// show. K-FAC trains it with the curvature of steps that are independent in time, and with both
/// chain-structured approximations of how they are correlated, beside Adam and SGD: from the same
/// initial weights, on the same batches.

#include <algorithm>
#include <exception>
#include <iostream>
#include <string>
#include <tuple>
#include <vector>

#include <kfac/curvature/chain_block.hpp>
#include <kfac/io/idx.hpp>
#include <kfac/kfac.hpp>
#include <kfac/nn/dynamic_sequential.hpp>
#include <kfac/nn/flatten.hpp>
#include <kfac/nn/gru.hpp>
#include <kfac/nn/lstm.hpp>
#include <kfac/nn/rnn.hpp>

#include "support/comparison.hpp"

namespace {

using examples::Comparison;
using examples::History;
using kfac::ChainStructure;
using kfac::Dataset;
using kfac::Index;
using Loss = kfac::SoftmaxCrossEntropy<float>;

constexpr Index kRows = 28, kPixels = 28, kClasses = 10;

// Learning rates are the best of a grid, by the training loss at the end. So are damping and
// `kl_clip` of K-FAC with independent steps on the RNN, which all others take over; the GRU has the
// LSTM's rates. Every step of K-FAC is shortened to `kl_clip`, which takes the place of its rate.
Comparison defaults_of(const std::string& cell) {
  const bool is_plain = cell == "rnn";
  return {
      .sgd = {.learning_rate = is_plain ? 0.02F : 0.2F, .momentum = 0.9F, .gradient_clip = 1.0F},
      .adam = {.learning_rate = is_plain ? 1e-3F : 4e-3F, .gradient_clip = 1.0F},
      .kfac = {.learning_rate = 1.0F,
               .momentum = 0.5F,
               .damping = 1e-3F,
               .factor_every = 5,
               .inverse_every = 20,
               .kl_clip = 3e-4F},
      .fisher = "monte-carlo",
      .batch_size = 128,
      .epochs = 4,
      .evaluate_every = 94};
}

/// To mean 0 and variance 1 over all pixels of the training images.
void standardise(Dataset<float>& images) {
  constexpr float kMean = 0.2860F;
  constexpr float kDeviation = 0.3530F;
  images.inputs.array() = (images.inputs.array() - kMean) / kDeviation;
}

Dataset<float> first(const Dataset<float>& data, Index count) {
  count = std::min(count, data.examples());
  return {data.inputs.leftCols(count), data.targets.head(count)};
}

using Network = kfac::DynamicSequential<float>;

Network make_network(const std::string& cell, Index hidden, kfac::Rng& rng) {
  const kfac::RecurrentOptions options{.return_last = true};
  Network model;
  model.push_back(kfac::Unflatten<float>({kRows, kPixels}));
  if (cell == "lstm")
    model.push_back(kfac::LSTM<float>(kPixels, hidden, rng, options));
  else if (cell == "gru")
    model.push_back(kfac::GRU<float>(kPixels, hidden, rng, options));
  else
    model.push_back(kfac::RNN<float>(kPixels, hidden, rng, options));
  model.push_back(kfac::Linear<float>(hidden, kClasses, rng));
  return model;
}

void run(const Comparison& comparison, const Network& model, const Dataset<float>& train,
         const Dataset<float>& test, const kfac::Rng& rng) {
  const Loss loss;
  const examples::Task<Loss> task{loss, train, test};
  const Index chains = comparison.runs("kfac") ? 2 : 0;
  std::vector<History> runs;
  {
    examples::Progress progress((comparison.optimizer_count() + chains) *
                                comparison.steps(train.examples()));
    examples::compare(comparison, task, model, rng, progress,
                      [&](const History& finished, const Network&) { runs.push_back(finished); });
    for (const auto& [name, colour, structure] :
         {std::tuple{"symmetric", examples::Colour::Orange, ChainStructure::Symmetric},
          std::tuple{"long", examples::Colour::Black, ChainStructure::LongSequence}}) {
      if (chains == 0) break;
      Network trained = model;
      kfac::KfacOptimizer optimizer(trained, loss, comparison.kfac_options(),
                                    kfac::chain_blocks<float>(structure));
      History history{.optimizer = std::string("K-FAC, ") + name + " chain",
                      .colour = colour,
                      .seed = comparison.seed,
                      .learning_rate = static_cast<double>(optimizer.options().learning_rate(0))};
      examples::train(
          trained, task, comparison, rng, progress,
          history, [&](const auto& x, const auto& y) -> const auto& {
            return optimizer.step(x, y);
          });
      runs.push_back(history);
    }
  }

  std::cout << "Training loss and test accuracy\n";
  examples::print_progress(std::cout, runs);
  if (!comparison.csv.empty()) examples::write_csv(comparison.csv, runs);
  if (!comparison.plot.empty()) {
    auto panels = examples::history_panels(runs, "Test accuracy");
    panels.pop_back();  // the norms of steps
    examples::draw(comparison.plot, panels, 3);
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::string cell = examples::peek(argc, argv, "--cell").value_or("rnn");
  std::string folder = "/usr/share/datasets/fashion-mnist";
  Index hidden = 64, train_examples = 24000, test_examples = 10000;
  Comparison comparison = defaults_of(cell);

  examples::Flags flags(
      "A recurrent network reads the images of Fashion-MNIST row by row; K-FAC with independent "
      "and with chain-structured curvature in time trains it, and Adam and SGD.");
  flags.add("--cell", cell, "what to train, which decides the defaults below",
            {"rnn", "gru", "lstm"});
  flags.add("--data", folder, "folder with the four files of the data set");
  flags.add("--hidden", hidden, "units of the recurrent layer");
  flags.add("--train-examples", train_examples, "images to train on, the first of the data set");
  flags.add("--test-examples", test_examples, "images to test on");
  comparison.add_flags(flags);
  if (const auto exit_code = flags.parse(argc, argv)) return *exit_code;

  try {
    auto [train, test] = kfac::io::fashion_mnist<float>(folder);
    train = first(train, train_examples);
    test = first(test, test_examples);
    standardise(train);
    standardise(test);
    kfac::Rng rng(comparison.seed);
    const Network model = make_network(cell, hidden, rng);
    run(comparison, model, train, test, rng);
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
