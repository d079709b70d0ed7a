/// Which training examples does a network owe its answers to? Trains small networks on handwritten
/// digits, asks influence functions with several kinds of curvature, and checks what they say by
/// training again on halves of the data. With --mislabels 1000, looks for wrong labels in
/// Fashion-MNIST.

#include <algorithm>
#include <exception>
#include <iostream>
#include <numeric>
#include <string>
#include <vector>

#include "support/flags.hpp"
#include "support/influence_study.hpp"
#include "support/mislabels.hpp"
#include "support/plot.hpp"
#include "support/progress.hpp"
#include "support/table.hpp"

namespace {

using examples::Index;

constexpr Index kSide = 8;
constexpr Index kShown = 3;     // training images on each side, in the picture
constexpr Index kPictured = 8;  // queries

struct Settings {
  examples::InfluenceSettings study;
  examples::MislabelSettings mislabels;
  std::string plot;

  void add_flags(examples::Flags& flags) {
    flags.add("--training", study.training, "digits to train on");
    flags.add("--queries", study.queries, "other digits, whose margins are explained");
    flags.add("--subsets", study.subsets, "random halves of the training data to train on", 2);
    flags.add("--seeds", study.seeds, "networks trained on each");
    flags.add("--epochs", study.epochs, "of training on digits");
    flags.add("--damping", study.dampings, "at which kinds of curvature are compared");
    flags.add("--mislabels", mislabels.flipped,
              "look for so many wrong labels among images of Fashion-MNIST instead", 0);
    flags.add("--data", mislabels.data, "of --mislabels: folder with the four files of the data");
    flags.add("--images", mislabels.training, "of --mislabels: training images");
    flags.add("--image-epochs", mislabels.epochs, "of --mislabels: of training");
    flags.add("--seed", study.seed, "of the data's order, the weights and the halves");
    flags.add("--plot", plot, "file to draw to by gnuplot: .svg or .png");
  }
};

/// The training examples by what they do for a query, the most helpful first.
std::vector<Index> by_score(const examples::InfluenceStudy& study, Index query) {
  std::vector<Index> order(static_cast<std::size_t>(study.training.examples()));
  std::iota(order.begin(), order.end(), Index{0});
  std::sort(order.begin(), order.end(),
            [&](Index a, Index b) { return study.scores(query, a) > study.scores(query, b); });
  return order;
}

/// For each of the first digits, the first query that shows it.
std::vector<Index> pictured_queries(const examples::InfluenceStudy& study) {
  std::vector<Index> result;
  for (int digit = 0; digit < kPictured; ++digit)
    for (Index q = 0; q < study.queries.examples(); ++q)
      if (study.queries.targets(q) == digit) {
        result.push_back(q);
        break;
      }
  return result;
}

/// A row for each of some queries: itself, the training images that help it most, and those that
/// harm it most (in the colour of negative numbers).
examples::Panel picture(const examples::InfluenceStudy& study) {
  constexpr Index kGap = 3;
  constexpr Index kCell = kSide + 1;
  const std::vector<Index> queries = pictured_queries(study);
  Eigen::MatrixXd canvas = Eigen::MatrixXd::Zero(static_cast<Index>(queries.size()) * kCell,
                                                 (2 * kShown + 1) * kCell + 2 * kGap);
  const auto draw = [&](const kfac::Dataset<double>& data, Index n, Index row, Index column,
                        double sign) {
    // The bytes of an image go by rows.
    canvas.block(row, column, kSide, kSide) =
        sign * data.inputs.col(n).reshaped(kSide, kSide).transpose();
  };
  for (std::size_t i = 0; i < queries.size(); ++i) {
    const Index row = static_cast<Index>(i) * kCell;
    const std::vector<Index> order = by_score(study, queries[i]);
    draw(study.queries, queries[i], row, 0, 1);
    for (Index k = 0; k < kShown; ++k) {
      draw(study.training, order[static_cast<std::size_t>(k)], row, kGap + (1 + k) * kCell, 1);
      draw(study.training, order[order.size() - 1 - static_cast<std::size_t>(k)], row,
           2 * kGap + (1 + kShown + k) * kCell, -1);
    }
  }
  return {.title = "Queries, and what helped and harmed them most",
          .x_label = "query | most helpful | most harmful (blue)",
          .heat_map = examples::HeatMap{canvas, 0.05, 1}};
}

/// The linear data-modelling score against the damping.
examples::Panel score_panel(const examples::InfluenceSettings& settings,
                            const examples::InfluenceStudy& study) {
  using examples::Colour;
  using Style = examples::Series::Style;
  const std::vector<Colour> colours{Colour::Black,  Colour::Green,     Colour::Blue,
                                    Colour::Orange, Colour::Vermilion, Colour::SkyBlue};
  examples::Panel panel{.title = "How well scores predict retraining",
                        .x_label = "damping",
                        .y_label = "linear data-modelling score",
                        .logarithmic_x = true};
  const auto count = static_cast<Index>(settings.dampings.size());
  for (std::size_t kind = 0; kind < study.predictions.size(); ++kind) {
    const examples::Prediction& prediction = study.predictions[kind];
    const bool is_flat = prediction.at_damping.empty();
    Eigen::Matrix2Xd points(2, count);
    for (Index i = 0; i < count; ++i) {
      const auto at = static_cast<std::size_t>(i);
      points.col(i) << settings.dampings[at],
          is_flat ? prediction.by_default : prediction.at_damping[at];
    }
    panel.series.push_back(
        {prediction.name, colours[kind], is_flat ? Style::Dashed : Style::LinePoints, points});
  }
  return panel;
}

void print_scores(const examples::InfluenceSettings& settings,
                  const examples::InfluenceStudy& study) {
  examples::Table table;
  table.add_columns("", {"curvature", "0.1 x mean"});
  std::vector<std::string> names;
  for (const double damping : settings.dampings) names.push_back(examples::significant(damping, 1));
  table.add_columns("damping", names);
  for (const examples::Prediction& prediction : study.predictions) {
    std::vector<std::string> cells{prediction.name, examples::fixed(prediction.by_default, 3)};
    for (std::size_t i = 0; i < settings.dampings.size(); ++i)
      cells.push_back(prediction.at_damping.empty() ? "-"
                                                    : examples::fixed(prediction.at_damping[i], 3));
    table.add_row(cells);
  }
  std::cout << table;
}

void run_retraining(const Settings& settings) {
  examples::InfluenceStudy study;
  {
    examples::Progress progress((settings.study.subsets + 1) * settings.study.seeds);
    study = examples::study_influence(settings.study, [&] { progress.advance(); });
  }
  std::cout
      << "Networks of 2410 parameters (64-32-10, tanh) trained on " << settings.study.training
      << " digits: accuracy " << examples::fixed(study.training_accuracy, 3) << " on these, "
      << examples::fixed(study.query_accuracy, 3) << " on " << settings.study.queries
      << " others, the queries.\n"
      << settings.study.subsets * settings.study.seeds << " more trained on "
      << settings.study.subsets << " random halves ("
      << examples::fixed(study.retraining_seconds, 1) << " s). Influence and exact curvature took "
      << examples::fixed(study.attribution_seconds, 1) << " s.\n\n"
      << "Linear data-modelling score: how well the scores of the examples in a half, summed, "
         "rank the margins\nthat networks trained on it have (Spearman's correlation over "
         "halves, mean over queries and networks)\n\n";
  print_scores(settings.study, study);

  std::cout << "\nWhat some queries owe to the training data, by EKFAC: the labels of the examples "
               "that help and harm most\n\n";
  examples::Table table;
  table.add_columns("", {"query", "shows", "helped by", "harmed by"});
  for (const Index query : pictured_queries(study)) {
    const std::vector<Index> order = by_score(study, query);
    std::string helpful, harmful;
    for (std::size_t k = 0; k < 5; ++k) {
      helpful += ' ' + std::to_string(study.training.targets(order[k]));
      harmful += ' ' + std::to_string(study.training.targets(order[order.size() - 1 - k]));
    }
    table.add_row(
        {std::to_string(query), std::to_string(study.queries.targets(query)), helpful, harmful});
  }
  std::cout << table;
  if (!settings.plot.empty())
    examples::draw(settings.plot, {score_panel(settings.study, study), picture(study)}, 2);
}

void run_mislabels(const Settings& settings) {
  const examples::MislabelStudy study = examples::study_mislabels(settings.mislabels);
  std::cout << "A network 784-128-64-10 trained on " << settings.mislabels.training
            << " images of Fashion-MNIST, of which " << settings.mislabels.flipped
            << " have a wrong label (" << examples::fixed(study.training_seconds, 1)
            << " s):\naccuracy " << examples::fixed(study.training_accuracy, 3)
            << " on the training labels, " << examples::fixed(study.test_accuracy, 3)
            << " on the test images. How well the wrong ones are found ("
            << examples::fixed(study.attribution_seconds, 1) << " s):\n\n";
  examples::Table table;
  table.add_columns("", {"by its", "AUC", "precision"});
  for (const examples::Detection& detection : study.detections)
    table.add_row({detection.name, examples::fixed(detection.auc, 3),
                   examples::fixed(detection.precision, 2)});
  std::cout << table
            << "\nAUC: how often a wrong label has the higher number. Precision: wrong "
               "labels' share of the "
            << settings.mislabels.flipped << " highest.\n";
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  examples::Flags flags(
      "Which training examples does a network owe its answers to? Trains small networks on "
      "handwritten digits, asks influence functions with several kinds of curvature, and checks "
      "what they say by training again on halves of the data. With --mislabels 1000, looks for "
      "wrong labels in Fashion-MNIST.");
  settings.add_flags(flags);
  if (const auto exit_code = flags.parse(argc, argv)) return *exit_code;
  settings.mislabels.seed = settings.study.seed;

  try {
    if (settings.mislabels.flipped > 0)
      run_mislabels(settings);
    else
      run_retraining(settings);
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
