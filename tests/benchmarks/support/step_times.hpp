#pragma once

#include <array>
#include <cstddef>
#include <vector>

#include <kfac/optim/step_report.hpp>

#include "support/schedule.hpp"

namespace benchmarks {

/// The times of consecutive steps of a schedule, which come in four kinds: with and without new
/// factors, with and without new inverses. Allocates in its constructor alone.
class StepTimes {
 public:
  /// Up to `periods` periods are kept.
  StepTimes(const Schedule& schedule, std::size_t periods);

  /// The number of the first step that will be added.
  void start_at(kfac::Index step);
  /// Seconds of the wall clock, and of all processors.
  void add(double seconds, double cpu_seconds, const kfac::StepSeconds& parts);

  bool full() const { return periods_.size() == periods_.capacity(); }
  bool at_end_of_period() const { return in_period_ == 0; }
  kfac::Index steps() const { return step_ - first_; }
  /// Of the means of the periods. \pre there is one, for this and what follows
  double median() const;
  /// A mean step of which each kind takes the time of the fastest of that kind.
  double best() const;
  /// The same by processor time, which other programs do not add to.
  double best_cpu() const;
  /// Of the steps of `best`, where the time went.
  kfac::StepSeconds best_parts() const;

 private:
  struct Kind {
    double seconds;
    double cpu_seconds;
    kfac::StepSeconds parts;
    kfac::Index count;
  };
  template <class Value>
  double mean_of_kinds(Value value) const;

  Schedule schedule_;
  kfac::Index first_ = 0;
  kfac::Index step_ = 0;
  kfac::Index in_period_ = 0;
  double period_seconds_ = 0;
  std::vector<double> periods_;
  std::array<Kind, 4> kinds_{};
};

}  // namespace benchmarks
