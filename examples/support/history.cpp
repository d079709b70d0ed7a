#include "support/history.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <limits>
#include <ostream>

#include "support/csv.hpp"
#include "support/principal_components.hpp"
#include "support/table.hpp"

namespace examples {

namespace {

constexpr int kDigits = 4;

/// The indices of every `every`-th record of the longest run, and of its last.
std::vector<std::size_t> chosen_records(const std::vector<History>& runs, std::size_t every) {
  std::size_t count = 0;
  for (const History& run : runs) count = std::max(count, run.records.size());
  std::vector<std::size_t> chosen;
  for (std::size_t i = 0; i < count; ++i)
    if (i % every == 0 || i + 1 == count) chosen.push_back(i);
  return chosen;
}

/// A table with a row for each chosen record; `cells(record)` are those of one run, which are empty
/// from where it stopped.
template <class Cells>
Table record_table(const std::vector<History>& runs, const std::vector<std::size_t>& chosen,
                   const std::vector<std::vector<std::string>>& names, Cells&& cells) {
  Table table;
  table.add_columns("", {"step"});
  for (std::size_t i = 0; i < runs.size(); ++i) table.add_columns(runs[i].optimizer, names[i]);
  for (const std::size_t at : chosen) {
    std::vector<std::string> row(1);
    for (std::size_t i = 0; i < runs.size(); ++i) {
      const auto& records = runs[i].records;
      if (at < records.size()) {
        row.front() = std::to_string(records[at].step);
        const std::vector<std::string> filled = cells(records[at]);
        row.insert(row.end(), filled.begin(), filled.end());
      } else {
        row.insert(row.end(), names[i].size(), "");
      }
    }
    table.add_row(row);
  }
  return table;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

}  // namespace

void print_progress(std::ostream& out, const std::vector<History>& runs, std::size_t every) {
  const std::vector<std::vector<std::string>> names(runs.size(), {"seconds", "loss", "accuracy"});
  out << record_table(runs, chosen_records(runs, every), names, [](const Record& record) {
    return std::vector<std::string>{significant(record.seconds, 3), fixed(record.loss, kDigits),
                                    fixed(record.accuracy, kDigits)};
  });
  for (const History& run : runs)
    if (!run.stopped.empty()) out << run.optimizer << " stopped: " << run.stopped << '\n';
}

void print_step_norms(std::ostream& out, const std::vector<History>& runs, std::size_t every) {
  std::vector<std::size_t> chosen = chosen_records(runs, every);
  chosen.erase(chosen.begin());  // no step leads to the untrained model
  std::vector<std::vector<std::string>> names;
  for (const History& run : runs) names.push_back(run.layers);
  out << record_table(runs, chosen, names, [](const Record& record) {
    std::vector<std::string> cells;
    for (const double norm : record.layer_step_norms) cells.push_back(fixed(norm, kDigits));
    return cells;
  });
}

void print_medians(std::ostream& out, const std::vector<History>& runs) {
  std::vector<std::string> optimizers;
  for (const History& run : runs)
    if (std::find(optimizers.begin(), optimizers.end(), run.optimizer) == optimizers.end())
      optimizers.push_back(run.optimizer);

  Table table;
  table.add_columns("", {"optimizer", "learning rate", "steps", "seconds", "loss", "accuracy"});
  for (const std::string& optimizer : optimizers) {
    std::vector<double> rates, steps, seconds, losses, accuracies;
    for (const History& run : runs) {
      if (run.optimizer != optimizer) continue;
      const Record& last = run.records.back();
      rates.push_back(run.learning_rate);
      steps.push_back(static_cast<double>(last.step));
      seconds.push_back(last.seconds);
      losses.push_back(last.loss);
      accuracies.push_back(last.accuracy);
    }
    table.add_row({optimizer, significant(median(rates), 3), significant(median(steps), 6),
                   significant(median(seconds), 3), fixed(median(losses), kDigits),
                   fixed(median(accuracies), kDigits)});
  }
  out << table;
}

void write_csv(const std::string& path, const std::vector<History>& runs) {
  CsvFile file(path);
  std::vector<std::string> header{"optimizer", "learning_rate", "seed",    "step",
                                  "seconds",   "loss",          "accuracy"};
  for (const std::string& layer : runs.front().layers) header.push_back("step norm of " + layer);
  file.write_row(header);
  for (const History& run : runs)
    for (const Record& record : run.records) {
      std::vector<std::string> row{run.optimizer,
                                   significant(run.learning_rate, 6),
                                   std::to_string(run.seed),
                                   std::to_string(record.step),
                                   significant(record.seconds, 6),
                                   significant(record.loss, 8),
                                   significant(record.accuracy, 8)};
      for (const double norm : record.layer_step_norms) row.push_back(significant(norm, 8));
      file.write_row(row);
    }
  file.close();
}

std::vector<Panel> history_panels(const std::vector<History>& runs, const std::string& accuracy) {
  double longest = 0;
  for (const History& run : runs) longest = std::max(longest, run.records.back().seconds);
  const bool is_short = longest < 1;

  const auto step = [](const Record& record) { return static_cast<double>(record.step); };
  const auto time = [&](const Record& record) { return (is_short ? 1e3 : 1.0) * record.seconds; };
  const auto loss = [](const Record& record) { return record.loss; };
  const auto correct = [](const Record& record) {
    // That of the untrained model would only squeeze all others together.
    return record.step == 0 ? std::numeric_limits<double>::quiet_NaN() : record.accuracy;
  };

  Panel norms{.title = "Norm of each layer's step",
              .x_label = "step",
              .y_label = "step norm",
              .logarithmic_y = true};
  static constexpr std::array kStyles{Series::Style::Line, Series::Style::Dashed,
                                      Series::Style::Dotted, Series::Style::DashDotted};
  for (std::size_t layer = 0; layer < runs.front().layers.size(); ++layer)
    for (Series curve : curves(runs, step, [layer](const Record& record) {
           return record.layer_step_norms[layer];
         })) {
      curve.label += ", " + runs.front().layers[layer];
      curve.style = kStyles[layer % kStyles.size()];
      norms.series.push_back(curve);
    }

  return {{.title = "Training loss, step by step",
           .x_label = "step",
           .y_label = "loss",
           .logarithmic_y = true,
           .series = curves(runs, step, loss)},
          {.title = "Training loss over time",
           .x_label = is_short ? "milliseconds of training" : "seconds of training",
           .y_label = "loss",
           .logarithmic_y = true,
           .series = curves(runs, time, loss)},
          {.title = accuracy,
           .x_label = "step",
           .y_label = "accuracy",
           .series = curves(runs, step, correct)},
          norms};
}

Panel trajectory_panel(const std::vector<History>& runs) {
  Eigen::Index points = 0;
  for (const History& run : runs) points += static_cast<Eigen::Index>(run.trajectory.size());
  Eigen::MatrixXd all(runs.front().trajectory.front().size(), points);
  Eigen::Index next = 0;
  for (const History& run : runs)
    for (const auto& parameters : run.trajectory) all.col(next++) = parameters.cast<double>();
  const Eigen::Matrix2Xd projected = first_two_components(all);

  Panel panel{.title = "Paths of the parameters",
              .x_label = "first principal component",
              .y_label = "second principal component"};
  Eigen::Index first = 0;
  for (const History& run : runs) {
    const auto length = static_cast<Eigen::Index>(run.trajectory.size());
    panel.series.push_back({run.optimizer, run.colour, Series::Style::LinePoints,
                            projected.middleCols(first, length)});
    first += length;
  }
  panel.series.push_back({"start", Colour::Black, Series::Style::Points, projected.leftCols(1)});
  return panel;
}

}  // namespace examples
