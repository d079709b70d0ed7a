#pragma once

#include <functional>
#include <string>
#include <vector>

#include "support/tuning_columns.hpp"
#include "support/tuning_run.hpp"

namespace examples {

/// A question, and the runs that answer it.
struct TuningCase {
  std::string name;
  std::string title;
  std::vector<TuningRun> runs = {};
  std::vector<kfac::Index> losses_after;  ///< steps after which the loss is shown
  std::vector<TuningColumn> columns;      ///< after those of the loss
  /// What to make of the data; empty: nothing.
  std::function<TuningData(const TuningData&)> data = {};
  std::string summary_of = {};  ///< the run whose layers are listed too; empty: none
};

std::vector<TuningCase> tuning_cases();

}  // namespace examples
