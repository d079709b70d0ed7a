/// Networks that were trained on different classes of Fashion-MNIST, or on different shares of it,
/// are merged into one, without any data.

#include <deque>
#include <exception>
#include <iostream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <kfac/curvature/estimate_curvature.hpp>
#include <kfac/data/subset.hpp>
#include <kfac/io/idx.hpp>
#include <kfac/kfac.hpp>
#include <kfac/merging/merge.hpp>

#include "support/flags.hpp"
#include "support/plot.hpp"
#include "support/table.hpp"

namespace {

using examples::fixed;
using examples::significant;
using kfac::Index;
using kfac::MergeMethod;
using kfac::linalg::KroneckerSumPreconditioner;
using Images = kfac::Dataset<float>;
using Network = kfac::Sequential<kfac::Linear<float>, kfac::ReLU<float>, kfac::Linear<float>,
                                 kfac::ReLU<float>, kfac::Linear<float>>;

struct Settings {
  std::string folder = "/usr/share/datasets/fashion-mnist";
  Index pretraining = 10000;
  Index examples = 30000;
  Index epochs = 3;
  float learning_rate = 1e-3F;
  std::vector<double> dampings{1e-6, 1e-4, 1e-2};
  std::uint64_t seed = 1;
  std::string plot;
};

/// What each network is trained on.
struct Split {
  std::string name;
  std::vector<Images> parts;
  Index epochs;
};

/// A way to merge, the accuracies that it gives at each damping and, of conjugate gradients, how it
/// went for the first layer, whose equations are the hardest.
struct Method {
  std::string name;
  kfac::MergeOptions options;
  bool damp_alike = false;  // the damping of A is also that of G
  bool shown = true;        // in the table of accuracies
  std::vector<double> accuracies = {};
  std::vector<kfac::MergedBlock> first_layer = {};
};

struct Outcome {
  std::vector<double> individuals;
  double average = 0;
  std::vector<Method> methods;
  std::vector<double> by_output_damping;
};

constexpr double kOutputDampings[] = {1e-2, 1e-1, 1, 10};

Images some(const Images& data, Index first, Index count) {
  std::vector<Index> numbers;
  for (Index n = first; n < first + count; ++n) numbers.push_back(n);
  return kfac::subset(data, numbers);
}

/// The images of the classes that are on.
Images of_classes(const Images& data, const std::vector<bool>& on) {
  std::vector<Index> numbers;
  for (Index n = 0; n < data.examples(); ++n)
    if (on[static_cast<std::size_t>(data.targets(n))]) numbers.push_back(n);
  return kfac::subset(data, numbers);
}

Split by_classes(std::string name, const Images& data, std::vector<bool> on, Index epochs) {
  std::vector<Images> parts{of_classes(data, on)};
  on.flip();
  parts.push_back(of_classes(data, on));
  return {std::move(name), std::move(parts), epochs};
}

std::vector<Split> make_splits(const Images& data, Index epochs) {
  std::vector<bool> first_half(10), clothes(10);
  for (const std::size_t label : {0U, 1U, 2U, 3U, 4U}) first_half[label] = true;
  for (const std::size_t label : {1U, 3U, 5U, 7U, 8U, 9U}) clothes[label] = true;
  std::vector<Split> splits{by_classes("0-4 | 5-9", data, first_half, epochs),
                            by_classes("135789 | 0246", data, clothes, epochs),
                            {"4 shards", {}, 2 * epochs}};
  constexpr Index kShards = 4;
  const Index share = data.examples() / kShards;
  for (Index shard = 0; shard < kShards; ++shard)
    splits.back().parts.push_back(some(data, shard * share, share));
  return splits;
}

void train(Network& model, const Images& data, Index epochs, float learning_rate, kfac::Rng rng) {
  const kfac::SoftmaxCrossEntropy<float> loss;
  auto adam = kfac::make_optimizer<kfac::Adam>(model, loss, {.learning_rate = learning_rate});
  for (Index epoch = 0; epoch < epochs; ++epoch)
    for (const auto& [x, y] : kfac::batches(data, 128, rng)) adam.step(x, y);
}

/// The networks that a split makes of one, and their curvatures.
struct Candidates {
  std::deque<Network> networks;
  std::deque<kfac::CurvatureEstimate<float>> factors, diagonals;
  std::vector<kfac::MergeModel<float>> with_factors, with_diagonals;
};

void train_parts(const Network& start, const Split& split, const Settings& settings,
                 const kfac::Rng& rng, Candidates& candidates) {
  const kfac::SoftmaxCrossEntropy<float> loss;
  for (const Images& part : split.parts) {
    Network& network = candidates.networks.emplace_back(start);
    train(network, part, split.epochs, settings.learning_rate, rng);
    const auto data = kfac::slices(part, 500);
    candidates.factors.push_back(kfac::estimate_curvature(network, loss, data));
    candidates.diagonals.push_back(kfac::estimate_curvature(
        network, loss, data, {.structure = kfac::CurvatureStructure::Diagonal}));
    candidates.with_factors.push_back(kfac::merge_model(network, &candidates.factors.back()));
    candidates.with_diagonals.push_back(kfac::merge_model(network, &candidates.diagonals.back()));
  }
}

std::vector<Method> make_methods(std::size_t models) {
  const kfac::MergeOptions cg{.solver = kfac::MergeSolver::ConjugateGradients,
                              .max_iterations = 200};
  kfac::MergeOptions diagonally = cg;
  diagonally.preconditioner = KroneckerSumPreconditioner::Diagonal;
  std::vector<Method> methods{{"diagonal Fisher", {.method = MergeMethod::Diagonal}},
                              {"RegMean", {.method = MergeMethod::RegMean}},
                              {"K-FAC, CG", cg},
                              {"K-FAC, CG, diagonal preconditioner", diagonally, false, false},
                              {"K-FAC, CG, G damped as A", cg, true}};
  if (models == 2)
    methods.insert(methods.begin() + 3, {"K-FAC, exact", {.solver = kfac::MergeSolver::Exact}});
  return methods;
}

Outcome study(const Network& start, const Split& split, const Images& test,
              const Settings& settings, const kfac::Rng& rng) {
  Outcome outcome;
  Candidates candidates;
  train_parts(start, split, settings, rng, candidates);
  for (Network& network : candidates.networks)
    outcome.individuals.push_back(kfac::accuracy(network, test));
  Network network = start;
  const auto accuracy_of = [&](const kfac::MergeResult<float>& merged) {
    kfac::set_flat_parameters(network, merged.parameters);
    return kfac::accuracy(network, test);
  };
  outcome.average =
      accuracy_of(kfac::merge(candidates.with_factors, {.method = MergeMethod::Average}));
  outcome.methods = make_methods(split.parts.size());
  for (Method& method : outcome.methods)
    for (const double damping : settings.dampings) {
      kfac::MergeOptions options = method.options;
      options.damping = damping;
      if (method.damp_alike) options.output_damping = damping;
      const auto merged =
          kfac::merge(options.method == MergeMethod::Diagonal ? candidates.with_diagonals
                                                              : candidates.with_factors,
                      options);
      method.accuracies.push_back(accuracy_of(merged));
      method.first_layer.push_back(merged.blocks[0]);
    }
  for (const double output_damping : kOutputDampings)
    outcome.by_output_damping.push_back(accuracy_of(
        kfac::merge(candidates.with_factors,
                    {.output_damping = output_damping, .tolerance = 1e-6, .max_iterations = 200})));
  return outcome;
}

std::string percent(double share) {
  return fixed(100 * share, 2);
}

/// The accuracies of the methods, one row each, a group of columns for each split.
void print_accuracies(const Settings& settings, const std::vector<Split>& splits,
                      const std::vector<Outcome>& outcomes, const std::vector<double>& joint) {
  std::vector<std::string> dampings;
  for (const double damping : settings.dampings) dampings.push_back(significant(damping, 2));
  examples::Table table;
  table.add_columns("", {"damping"});
  for (const Split& split : splits) table.add_columns(split.name, dampings);
  const auto add = [&](const std::string& name, auto&& cell) {
    std::vector<std::string> cells{name};
    for (std::size_t i = 0; i < splits.size(); ++i)
      for (std::size_t k = 0; k < dampings.size(); ++k) cells.push_back(cell(i, k));
    table.add_row(cells);
  };
  const auto once = [&](const std::string& name, auto&& value) {
    add(name, [&](std::size_t i, std::size_t k) { return k == 0 ? percent(value(i)) : ""; });
  };
  once("average", [&](std::size_t i) { return outcomes[i].average; });
  for (const Method& method : outcomes[0].methods) {
    if (!method.shown) continue;
    add(method.name, [&](std::size_t i, std::size_t k) {
      for (const Method& own : outcomes[i].methods)
        if (own.name == method.name) return percent(own.accuracies[k]);
      return std::string();
    });
  }
  once("jointly trained", [&](std::size_t i) { return joint[i]; });
  std::cout << "Accuracy on all ten classes, %\n" << table;
}

void print_output_dampings(const std::vector<Split>& splits, const std::vector<Outcome>& outcomes) {
  examples::Table table;
  table.add_columns("", {"split"});
  std::vector<std::string> names;
  for (const double damping : kOutputDampings) names.push_back(significant(damping, 2));
  table.add_columns("damping of G", names);
  for (std::size_t i = 0; i < splits.size(); ++i) {
    std::vector<std::string> cells{splits[i].name};
    for (const double accuracy : outcomes[i].by_output_damping) cells.push_back(percent(accuracy));
    table.add_row(cells);
  }
  std::cout << "\nK-FAC where A is damped by 1e-4, %\n" << table;
}

void print_solves(const Settings& settings, const std::vector<Split>& splits,
                  const std::vector<Outcome>& outcomes) {
  examples::Table table;
  table.add_columns("", {"split", "solver", "damping", "iterations", "residual"});
  for (std::size_t i = 0; i < splits.size(); ++i)
    for (const Method& method : outcomes[i].methods)
      for (std::size_t k = 0; k < settings.dampings.size(); ++k) {
        const kfac::MergedBlock& block = method.first_layer[k];
        if (block.merge != kfac::BlockMerge::Exact &&
            block.merge != kfac::BlockMerge::ConjugateGradients)
          continue;
        table.add_row(
            {splits[i].name, method.name, significant(settings.dampings[k], 2),
             block.merge == kfac::BlockMerge::Exact ? "" : std::to_string(block.iterations),
             significant(block.relative_residual, 2)});
      }
  std::cout << "\nThe equations of the first layer (at most 200 iterations, tolerance 1e-8)\n"
            << table;
}

void draw(const Settings& settings, const std::vector<Split>& splits,
          const std::vector<Outcome>& outcomes, const std::vector<double>& joint) {
  using examples::Colour;
  using examples::Series;
  std::vector<examples::Panel> panels;
  const auto size = static_cast<Index>(settings.dampings.size());
  for (std::size_t i = 0; i < splits.size(); ++i) {
    examples::Panel panel{.title = splits[i].name,
                          .x_label = "damping",
                          .y_label = "Test accuracy, %",
                          .logarithmic_x = true};
    const auto add = [&](const std::string& name, Colour colour, Series::Style style,
                         auto&& value) {
      Series series{.label = name, .colour = colour, .style = style};
      series.points.resize(2, size);
      for (Index k = 0; k < size; ++k)
        series.points.col(k) << settings.dampings[static_cast<std::size_t>(k)],
            100 * value(static_cast<std::size_t>(k));
      panel.series.push_back(std::move(series));
    };
    add("jointly trained", Colour::Black, Series::Style::Dotted,
        [&](std::size_t) { return joint[i]; });
    add("average", Colour::Black, Series::Style::Dashed,
        [&](std::size_t) { return outcomes[i].average; });
    for (const Method& method : outcomes[i].methods) {
      const auto line = [&](const char* name, Colour colour) {
        if (method.name == name)
          add(name, colour, Series::Style::LinePoints,
              [&](std::size_t k) { return method.accuracies[k]; });
      };
      line("diagonal Fisher", Colour::SkyBlue);
      line("RegMean", Colour::Orange);
      line("K-FAC, CG", Colour::Green);
      line("K-FAC, CG, G damped as A", Colour::Vermilion);
    }
    panels.push_back(std::move(panel));
  }
  examples::draw(settings.plot, panels, static_cast<int>(panels.size()));
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  examples::Flags flags(
      "Networks that were trained on different classes of Fashion-MNIST, or on different shares of "
      "it, are merged into one, without any data.");
  flags.add("--data", settings.folder, "folder with the four files of the data set");
  flags.add("--pretraining", settings.pretraining, "examples that all networks learn first");
  flags.add("--examples", settings.examples, "examples that are shared out between the networks");
  flags.add("--epochs", settings.epochs, "epochs of each (twice as many where each has a shard)");
  flags.add("--learning-rate", settings.learning_rate, "of Adam");
  flags.add("--dampings", settings.dampings, "dampings of the curvature, all of which are shown");
  flags.add("--seed", settings.seed, "of initial weights and the order of batches");
  flags.add("--plot", settings.plot, "draws the accuracies to this SVG or PNG file");
  if (const auto exit_code = flags.parse(argc, argv)) return *exit_code;

  try {
    const auto [train_images, test] = kfac::io::fashion_mnist<float>(settings.folder);
    const Images pretraining = some(train_images, 0, settings.pretraining);
    const Images shared = some(train_images, settings.pretraining, settings.examples);

    kfac::Rng rng(settings.seed);
    Network start{kfac::Linear<float>(784, 128, rng), kfac::ReLU<float>{},
                  kfac::Linear<float>(128, 64, rng), kfac::ReLU<float>{},
                  kfac::Linear<float>(64, 10, rng)};
    train(start, pretraining, settings.epochs, settings.learning_rate, rng);

    const std::vector<Split> splits = make_splits(shared, settings.epochs);
    std::vector<Outcome> outcomes(splits.size());
    std::vector<double> joint(splits.size());
    std::vector<std::thread> threads;
    threads.emplace_back([&] {
      for (std::size_t i = 0; i < splits.size(); ++i) {
        if (i > 0 && splits[i].epochs == splits[i - 1].epochs) {
          joint[i] = joint[i - 1];
          continue;
        }
        Network network = start;
        train(network, shared, splits[i].epochs, settings.learning_rate, rng);
        joint[i] = kfac::accuracy(network, test);
      }
    });
    for (std::size_t i = 0; i < splits.size(); ++i)
      threads.emplace_back([&, i] { outcomes[i] = study(start, splits[i], test, settings, rng); });
    for (std::thread& thread : threads) thread.join();

    std::cout << "Pretrained: " << percent(kfac::accuracy(start, test)) << " %\n";
    for (std::size_t i = 0; i < splits.size(); ++i) {
      std::cout << "Then trained on " << splits[i].name << ':';
      for (const double accuracy : outcomes[i].individuals) std::cout << ' ' << percent(accuracy);
      std::cout << " %\n";
    }
    std::cout << '\n';
    print_accuracies(settings, splits, outcomes, joint);
    print_output_dampings(splits, outcomes);
    print_solves(settings, splits, outcomes);
    if (!settings.plot.empty()) draw(settings, splits, outcomes, joint);
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
