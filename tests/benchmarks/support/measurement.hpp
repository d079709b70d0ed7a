#pragma once

#include <cstddef>

#include "support/product_rate.hpp"
#include "support/step_times.hpp"
#include "workloads/workload.hpp"

namespace benchmarks {

/// How long to measure.
struct Effort {
  kfac::Index steps = 0;  ///< rounded up to whole periods of the schedule; 0: by `seconds`
  double seconds = 2;     ///< whole periods, one at least
};

/// The fastest step of a network under SGD, in seconds.
struct SgdTimes {
  double step = 0;
  double forward = 0;
  double backward = 0;
};
SgdTimes measure_sgd(const Workload& workload, kfac::Index threads);

/// Where the time of a step goes, in seconds. Forward and backward are those of SGD, and factors
/// all that K-FAC's passes take beyond them.
struct Breakdown {
  double forward = 0;
  double backward = 0;
  double factors = 0;
  double inverses = 0;
  double precondition = 0;
  double update = 0;
};
Breakdown breakdown(const kfac::StepSeconds& kfac, const SgdTimes& sgd);

/// Takes a step and adds what it took.
void add_step(Training& training, StepTimes& times);

/// Steps until new factors and inverses find their memory warm. Returns how many there were.
kfac::Index warm_up(Training& training, const Schedule& schedule);

/// Seconds that the operations of a step take at a rate of operations a second.
double step_floor(const Workload& workload, const Schedule& schedule, double rate);

/// What a workload took, in seconds and bytes.
struct Measurement {
  kfac::Index steps = 0;
  double median = 0;    ///< of the schedule's periods: the mean step
  double best = 0;      ///< the mean step, if each kind of step takes what the fastest of it took
  double cpu = 0;       ///< the same by processor time of all threads together
  Breakdown breakdown;  ///< of those fastest steps
  SgdTimes sgd;
  std::size_t bytes = 0;  ///< the heap's peak, of the network with its optimizer; 0: not measured
  double predicted_bytes = 0;  ///< what the optimizer says of them
  ProductRate rate;            ///< the higher of before and after
};

/// Runs a workload. \throws std::runtime_error if a step fails
Measurement measure(const Workload& workload, const Schedule& schedule, kfac::FisherType fisher,
                    kfac::Index threads, const Effort& effort);

}  // namespace benchmarks
