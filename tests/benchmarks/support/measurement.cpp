#include "support/measurement.hpp"

#include <algorithm>
#include <chrono>
#include <ctime>

#include "support/heap.hpp"

namespace benchmarks {
namespace {

using kfac::Index;
using Clock = std::chrono::steady_clock;

constexpr Index kWarmSteps = 12;  // at most two inverses
constexpr double kWarmSeconds = 0.1;
constexpr double kSgdSeconds = 0.5;
constexpr std::size_t kMostPeriods = 20000;

double since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void add_steps(Training& training, const Effort& effort, StepTimes& times) {
  const Clock::time_point start = Clock::now();
  const auto is_done = [&] {
    if (!times.at_end_of_period() || times.steps() == 0) return false;
    if (times.full()) return true;
    return effort.steps > 0 ? times.steps() >= effort.steps : since(start) >= effort.seconds;
  };
  while (!is_done()) add_step(training, times);
}

double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

}  // namespace

void add_step(Training& training, StepTimes& times) {
  const double cpu_start = cpu_seconds();
  const Clock::time_point start = Clock::now();
  const kfac::StepSeconds parts = training.step();
  const double seconds = since(start);
  times.add(seconds, cpu_seconds() - cpu_start, parts);
}

Index warm_up(Training& training, const Schedule& schedule) {
  const Index least = std::min(kWarmSteps, 2 * schedule.period() + 2);
  const Clock::time_point start = Clock::now();
  Index steps = 0;
  for (; steps < least || since(start) < kWarmSeconds; ++steps) training.step();
  return steps;
}

SgdTimes measure_sgd(const Workload& workload, Index threads) {
  StepTimes times({}, kMostPeriods);
  const auto training = workload.sgd(threads);
  warm_up(*training, {});
  add_steps(*training, {.steps = 0, .seconds = kSgdSeconds}, times);
  const kfac::StepSeconds parts = times.best_parts();
  return {times.best(), parts.forward, parts.gradient};
}

Breakdown breakdown(const kfac::StepSeconds& kfac, const SgdTimes& sgd) {
  const double passes = kfac.forward + kfac.gradient + kfac.factors;
  return {.forward = sgd.forward,
          .backward = sgd.backward,
          .factors = std::max(0.0, passes - sgd.forward - sgd.backward),
          .inverses = kfac.inverses,
          .precondition = kfac.precondition,
          .update = kfac.update + kfac.evaluation + kfac.quadratic_model};
}

double step_floor(const Workload& workload, const Schedule& schedule, double rate) {
  return workload.operations().step(schedule) / rate;
}

Measurement measure(const Workload& workload, const Schedule& schedule, kfac::FisherType fisher,
                    Index threads, const Effort& effort) {
  Measurement result;
  result.rate = measure_product_rate<float>(threads);
  result.sgd = measure_sgd(workload, threads);
  {
    const auto whole_periods = static_cast<std::size_t>(effort.steps / schedule.period() + 1);
    StepTimes times(schedule, effort.steps > 0 ? whole_periods : kMostPeriods);
    const HeapPeak peak;
    const auto training = workload.kfac(schedule, fisher, threads);
    times.start_at(warm_up(*training, schedule));
    add_steps(*training, effort, times);
    if (heap_is_measured()) result.bytes = peak.bytes();
    result.predicted_bytes = training->predicted_bytes();
    result.steps = times.steps();
    result.median = times.median();
    result.best = times.best();
    result.cpu = times.best_cpu();
    result.breakdown = breakdown(times.best_parts(), result.sgd);
  }
  const ProductRate after = measure_product_rate<float>(threads);
  if (after.best() > result.rate.best()) result.rate = after;
  return result;
}

}  // namespace benchmarks
