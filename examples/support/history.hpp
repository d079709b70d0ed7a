#pragma once

#include <cstddef>
#include <cstdint>
#include <iosfwd>
#include <string>
#include <vector>

#include <kfac/core/types.hpp>

#include "support/plot.hpp"

namespace examples {

/// The state of a training run after some step.
struct Record {
  kfac::Index step = 0;
  double seconds = 0;   ///< spent on training until then
  double loss = 0;      ///< on all of the training data
  double accuracy = 0;  ///< on the data held out
  /// Of the last step, one for each layer with parameters; NaN before the first step.
  std::vector<double> layer_step_norms;
};

/// A training run of one optimizer.
struct History {
  std::string optimizer = {};  ///< as it is called in tables: "K-FAC"
  Colour colour = Colour::Black;
  std::uint64_t seed = 0;
  double learning_rate = 0;
  std::vector<std::string> layers = {};  ///< those with parameters: "0 Linear"
  std::vector<Record> records = {};      ///< the first is that of the untrained model
  std::vector<Eigen::VectorXf> trajectory =
      {};                    ///< all parameters at each record, if they were kept
  std::string stopped = {};  ///< why training ended early, if it did
};

/// Loss and accuracy of each run against its steps and seconds, of every `every`-th record and the
/// last. The runs are of the same length, except those that stopped.
void print_progress(std::ostream& out, const std::vector<History>& runs, std::size_t every = 1);

/// The norm of each layer's last step, of the same records.
void print_step_norms(std::ostream& out, const std::vector<History>& runs, std::size_t every = 1);

/// The last record of each optimizer, as medians over the runs that have the same optimizer.
void print_medians(std::ostream& out, const std::vector<History>& runs);

/// Every record of every run. \throws kfac::FileError
void write_csv(const std::string& path, const std::vector<History>& runs);

/// A curve for each run, of any member of its records against any other.
template <class X, class Y>
std::vector<Series> curves(const std::vector<History>& runs, X&& x, Y&& y) {
  std::vector<Series> result;
  for (const History& run : runs) {
    Series curve{run.optimizer, run.colour, Series::Style::LinePoints,
                 Eigen::Matrix2Xd(2, static_cast<Eigen::Index>(run.records.size()))};
    for (std::size_t i = 0; i < run.records.size(); ++i)
      curve.points.col(static_cast<Eigen::Index>(i)) << x(run.records[i]), y(run.records[i]);
    result.push_back(curve);
  }
  return result;
}

/// Training loss against steps and seconds, held-out accuracy, and the norms of the steps.
std::vector<Panel> history_panels(const std::vector<History>& runs, const std::string& accuracy);

/// How the parameters move, in the plane in which all runs together move most.
/// \pre the trajectories were kept
Panel trajectory_panel(const std::vector<History>& runs);

}  // namespace examples
