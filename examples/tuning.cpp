/// What the options of K-FAC and the statistics of its steps have to do with each other: every
/// claim of docs/tuning.md as a few short runs on Fashion-MNIST in 14x14 pixels.

#include <exception>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "support/flags.hpp"
#include "support/progress.hpp"
#include "support/table.hpp"
#include "support/tuning_cases.hpp"

namespace {

using examples::TuningCase;
using examples::TuningColumn;
using examples::TuningData;
using examples::TuningOutcome;
using examples::TuningRun;
using kfac::Index;

void show(const TuningCase& shown, const TuningData& all_data) {
  const TuningData data = shown.data ? shown.data(all_data) : all_data;
  std::vector<std::pair<TuningRun, TuningOutcome>> results;
  {
    examples::Progress progress(static_cast<Index>(shown.runs.size()));
    for (const TuningRun& run : shown.runs) {
      TuningOutcome outcome = examples::train(data, run, shown.losses_after);
      progress.advance();
      const bool same =
          run.best_of_its_name && !results.empty() && results.back().first.name == run.name;
      if (!same)
        results.emplace_back(run, std::move(outcome));
      else if (outcome.last_loss() < results.back().second.last_loss())
        results.back() = {run, std::move(outcome)};
    }
  }

  examples::Table table;
  table.add_columns("", {""});
  std::vector<std::string> names;
  for (const Index step : shown.losses_after) names.push_back(std::to_string(step));
  table.add_columns("loss after", names);
  names.clear();
  for (const TuningColumn& column : shown.columns) names.push_back(column.name);
  table.add_columns("", names);
  for (const auto& [run, outcome] : results) {
    std::vector<std::string> cells{run.name};
    for (const Index step : shown.losses_after)
      cells.push_back(examples::fixed(outcome.loss_after(step), 3));
    for (const TuningColumn& column : shown.columns) cells.push_back(column.text(outcome));
    table.add_row(cells);
  }
  std::cout << shown.title << " (" << shown.name << ")\n" << table << '\n';
  for (const auto& [run, outcome] : results)
    if (run.name == shown.summary_of) std::cout << outcome.summary << '\n';
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<TuningCase> all = examples::tuning_cases();
  std::vector<std::string> choices{"all"};
  for (const TuningCase& one : all) choices.push_back(one.name);
  std::string chosen = "all";
  std::string folder = "/usr/share/datasets/fashion-mnist";

  examples::Flags flags(
      "What the options of K-FAC do, and what the statistics of its steps say of it, on "
      "Fashion-MNIST in 14x14 pixels: medians over the steps, where nothing else is said.");
  flags.add("--case", chosen, "what to show", choices);
  flags.add("--data", folder, "folder with the four files of the data set");
  if (const auto exit_code = flags.parse(argc, argv)) return *exit_code;

  try {
    const TuningData data = examples::tuning_data(folder);
    for (const TuningCase& one : all)
      if (chosen == "all" || chosen == one.name) show(one, data);
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
