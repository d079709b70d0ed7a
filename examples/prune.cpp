/// What curvature does for pruning: takes weights, neurons and ranks out of LeNet-300-100, trained
/// on Fashion-MNIST, without training it afterwards, and makes up for them with the weights that
/// are left. Then saves a network that is really smaller, loads it, and measures how much faster it
/// is.

#include <algorithm>
#include <array>
#include <ctime>
#include <exception>
#include <filesystem>
#include <iostream>
#include <limits>
#include <string>
#include <vector>

#include <kfac/compression/cost.hpp>
#include <kfac/data/metrics.hpp>
#include <kfac/io/idx.hpp>
#include <kfac/io/network_file.hpp>

#include "support/flags.hpp"
#include "support/plot.hpp"
#include "support/prune_study.hpp"
#include "support/table.hpp"

namespace {

using examples::PruneRow;
using examples::PruneStudy;
using kfac::Dataset;
using kfac::Index;

struct Settings {
  std::string data = "/usr/share/datasets/fashion-mnist";
  Index examples = 20000;
  std::vector<double> ratios = {0.7, 0.8, 0.9, 0.95};
  std::vector<double> unit_ratios = {0.5, 0.75};
  Index fine_tune = 0;
  PruneStudy::Options study = {};
  std::string network = {};
  std::string plot = {};

  void add_flags(examples::Flags& flags) {
    flags.add("--data", data, "folder with the four files of the data set");
    flags.add("--examples", examples, "training images");
    flags.add("--epochs", study.epochs, "of training by Adam");
    flags.add("--ratios", ratios, "shares of the weights to remove, below 1");
    flags.add("--unit-ratios", unit_ratios, "shares of the hidden neurons to remove, below 1");
    flags.add("--iterations", study.iterations, "of conjugate gradients, to compensate a mask");
    flags.add("--fine-tune", fine_tune, "epochs of training after pruning, to compare with", 0);
    flags.add("--seed", study.seed, "of the initial weights and the order of the batches");
    flags.add("--network", network,
              "file for the network with three quarters of its neurons removed; else it is "
              "temporary");
    flags.add("--plot", plot, "file to draw to by gnuplot: .svg or .png");
  }
};

Dataset<float> first(const Dataset<float>& data, Index count) {
  const Index taken = std::min(count, data.examples());
  return {data.inputs.leftCols(taken), data.targets.head(taken)};
}

std::string percent(double share) {
  return examples::fixed(100 * share, 2);
}

void print(const std::string& title, const std::vector<double>& ratios,
           const std::vector<PruneRow>& rows) {
  examples::Table table;
  table.add_columns("", {"chosen by"});
  for (const double ratio : ratios)
    table.add_columns(examples::significant(100 * ratio, 3) + " % removed", {"alone", "made up"});
  for (const PruneRow& row : rows) {
    std::vector<std::string> cells{row.name};
    for (const auto& [before, after] : row.accuracies) {
      cells.push_back(percent(before));
      cells.push_back(percent(after));
    }
    table.add_row(cells);
  }
  std::cout << '\n' << title << '\n' << table;
}

/// The seconds of processor time that networks take for all images: of several passes, in turn, the
/// fastest.
std::array<double, 2> seconds_for(const std::array<examples::PruneModel*, 2>& models,
                                  const Dataset<float>& images) {
  constexpr int kPasses = 20;
  std::array<double, 2> best{};
  best.fill(std::numeric_limits<double>::infinity());
  for (int pass = 0; pass < kPasses; ++pass)
    for (std::size_t i = 0; i < models.size(); ++i) {
      const std::clock_t start = std::clock();
      kfac::accuracy(*models[i], images);
      const auto ticks = static_cast<double>(std::clock() - start);
      best[i] = std::min(best[i], ticks / static_cast<double>(CLOCKS_PER_SEC));
    }
  return best;
}

/// Saves the smaller network, loads it, and compares it with the large one.
void compare(PruneStudy& study, const Settings& settings, const Dataset<float>& test) {
  const double ratio = settings.unit_ratios.back();
  examples::PruneModel smaller = study.without_units(ratio);
  const bool temporary = settings.network.empty();
  const std::filesystem::path path =
      temporary ? std::filesystem::temp_directory_path() / "kfac-prune.safetensors"
                : std::filesystem::path(settings.network);
  kfac::io::save_network(path, smaller);
  examples::PruneModel loaded = kfac::io::load_network<float>(path);

  const std::array<examples::PruneModel*, 2> models{&study.model(), &loaded};
  const std::array<double, 2> seconds = seconds_for(models, test);
  examples::Table table;
  table.add_columns("", {"network", "parameters", "multiply-adds", "accuracy", "seconds"});
  for (std::size_t i = 0; i < models.size(); ++i) {
    const kfac::NetworkCost cost = kfac::network_cost(*models[i], kfac::Shape{test.inputs.rows()});
    table.add_row({i == 0 ? "all of it" : "loaded, smaller", std::to_string(cost.parameters()),
                   std::to_string(static_cast<Index>(cost.multiply_adds())),
                   percent(study.accuracy(*models[i])), examples::fixed(seconds[i], 4)});
  }
  std::cout << "\nThe network without " << examples::significant(100 * ratio, 3)
            << " % of its neurons (Kron-OBS, compensated), from its file of "
            << std::filesystem::file_size(path)
            << " bytes: " << examples::fixed(seconds[0] / seconds[1], 1) << " times as fast on "
            << test.examples() << " images\n"
            << table;
  if (temporary) std::filesystem::remove(path);
}

examples::Series series(const std::string& label, examples::Colour colour,
                        examples::Series::Style style, const std::vector<double>& left,
                        const std::vector<double>& accuracies) {
  examples::Series line{label, colour, style, Eigen::Matrix2Xd(2, left.size())};
  for (std::size_t i = 0; i < left.size(); ++i)
    line.points.col(static_cast<Index>(i)) << 100 * left[i], 100 * accuracies[i];
  return line;
}

void draw(const std::string& file, const std::vector<double>& ratios,
          const std::vector<PruneRow>& weights,
          const std::vector<examples::SmallNetwork>& networks) {
  using Style = examples::Series::Style;
  constexpr examples::Colour kColours[] = {examples::Colour::Black, examples::Colour::SkyBlue,
                                           examples::Colour::Vermilion};
  examples::Panel masks{.title = "Weights removed, no training after it",
                        .x_label = "weights left [%]",
                        .y_label = "test accuracy [%]"};
  std::vector<double> left;
  for (const double ratio : ratios) left.push_back(1 - ratio);
  for (const std::size_t i : {std::size_t{0}, std::size_t{2}})  // the magnitude, and K-FAC OBD
    for (const bool after : {false, true}) {
      std::vector<double> accuracies;
      for (const auto& pair : weights[i].accuracies)
        accuracies.push_back(after ? pair.after : pair.before);
      masks.series.push_back(series(weights[i].name + (after ? ", compensated" : ""), kColours[i],
                                    after ? Style::LinePoints : Style::Dashed, left, accuracies));
    }
  examples::Panel ranks{.title = "Two layers factorized, no training after it",
                        .x_label = "parameters left [%]",
                        .y_label = "test accuracy [%]"};
  std::size_t colour = 0;
  for (std::size_t i = 0; i < networks.size(); ++colour) {
    const std::string name = networks[i].name;
    std::vector<double> parameters, accuracies;
    for (; i < networks.size() && networks[i].name == name; ++i) {
      parameters.push_back(networks[i].parameters);
      accuracies.push_back(networks[i].accuracy);
    }
    ranks.series.push_back(
        series(name, kColours[colour], Style::LinePoints, parameters, accuracies));
  }
  examples::draw(file, {masks, ranks}, 2);
}

void run(const Settings& settings, const Dataset<float>& train, const Dataset<float>& test) {
  PruneStudy study(train, test, settings.study);
  std::cout << "LeNet-300-100 of " << study.model().parameter_count() << " parameters, trained on "
            << train.examples() << " images: accuracy " << percent(study.accuracy(study.model()))
            << " % on " << test.examples() << " others\n";
  study.estimate();

  const std::vector<PruneRow> weights = study.weights(settings.ratios);
  std::vector<PruneRow> rows = weights;
  rows.push_back(study.inputs_only(settings.ratios));
  if (settings.fine_tune > 0) rows.push_back(study.fine_tuned(settings.ratios, settings.fine_tune));
  print("Weights: accuracy in % with a mask alone, and made up for by the weights that are left",
        settings.ratios, rows);
  print("Neurons of both hidden layers: the same, made up for by the next layer",
        settings.unit_ratios, study.units(settings.unit_ratios));
  compare(study, settings, test);

  const std::vector<examples::SmallNetwork> networks = study.low_rank();
  examples::Table table;
  table.add_columns("", {"method", "parameters left", "multiply-adds left", "accuracy"});
  for (const examples::SmallNetwork& network : networks)
    table.add_row({network.name, examples::fixed(100 * network.parameters, 1),
                   examples::fixed(100 * network.multiply_adds, 1), percent(network.accuracy)});
  std::cout << "\nThe first two layers as products of smaller ones, all in %\n" << table;
  if (!settings.plot.empty()) draw(settings.plot, settings.ratios, weights, networks);
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  examples::Flags flags(
      "Weights, neurons and ranks taken out of a network by its curvature, and made up for.");
  settings.add_flags(flags);
  if (const auto exit_code = flags.parse(argc, argv)) return *exit_code;
  try {
    const auto [train, test] = kfac::io::fashion_mnist<float>(settings.data);
    run(settings, first(train, settings.examples), test);
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
