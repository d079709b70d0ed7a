// Whole steps of the four workloads: K-FAC by schedule and threads, with its breakdown, floor and
// memory, beside SGD and Adam. An iteration is a step; those of K-FAC come in whole periods.

#include <map>
#include <memory>
#include <string>
#include <utility>

#include <benchmark/benchmark.h>

#include "support/heap.hpp"
#include "support/measurement.hpp"

namespace {

using benchmarks::Schedule;
using benchmarks::Training;
using benchmarks::Workload;
using kfac::Index;

constexpr std::size_t kMostPeriods = 100000;

/// Measured once for all schedules.
const benchmarks::SgdTimes& sgd_times(const Workload& workload, Index threads) {
  static std::map<std::pair<std::string, Index>, benchmarks::SgdTimes> all;
  const auto key = std::pair(workload.name(), threads);
  const auto found = all.find(key);
  if (found != all.end()) return found->second;
  return all[key] = benchmarks::measure_sgd(workload, threads);
}

void count_bytes(benchmark::State& state, const benchmarks::HeapPeak& peak, double expected) {
  if (!benchmarks::heap_is_measured()) return;
  state.counters["bytes"] = static_cast<double>(peak.bytes());
  state.counters["bytes ratio"] = static_cast<double>(peak.bytes()) / expected;
}

void kfac_steps(benchmark::State& state, const Workload& workload, const Schedule& schedule,
                Index threads) {
  const double rate = benchmarks::product_rate<float>(threads).best();
  const benchmarks::SgdTimes sgd = sgd_times(workload, threads);
  benchmarks::StepTimes times(schedule, kMostPeriods);
  const benchmarks::HeapPeak peak;
  const auto training = workload.kfac(schedule, kfac::FisherType::Empirical, threads);
  times.start_at(benchmarks::warm_up(*training, schedule));
  const Index period = schedule.period();
  while (state.KeepRunningBatch(period))
    for (Index step = 0; step < period; ++step)
      if (times.full())
        training->step();
      else
        benchmarks::add_step(*training, times);
  count_bytes(state, peak, workload.memory().total());

  const double floor = benchmarks::step_floor(workload, schedule, rate);
  const benchmarks::Breakdown parts = benchmarks::breakdown(times.best_parts(), sgd);
  state.counters["best ms"] = 1e3 * times.best();
  state.counters["floor ms"] = 1e3 * floor;
  state.counters["ratio"] = times.best() / floor;
  state.counters["cpu ratio"] = times.best_cpu() / floor;
  state.counters["forward ms"] = 1e3 * parts.forward;
  state.counters["backward ms"] = 1e3 * parts.backward;
  state.counters["factors ms"] = 1e3 * parts.factors;
  state.counters["inverses ms"] = 1e3 * parts.inverses;
  state.counters["precondition ms"] = 1e3 * parts.precondition;
  state.counters["update ms"] = 1e3 * parts.update;
}

void first_order_steps(benchmark::State& state, const std::unique_ptr<Training>& training) {
  benchmarks::warm_up(*training, {});
  for (auto _ : state) training->step();
}

template <class Run>
void add(const std::string& name, Run run) {
  benchmark::RegisterBenchmark(name.c_str(), run)->UseRealTime()->Unit(benchmark::kMillisecond);
}

void add_all() {
  for (const std::string& name : benchmarks::workload_names()) {
    const std::shared_ptr<const Workload> workload = benchmarks::make_workload(name);
    for (const Index threads : {1, 2}) {
      const std::string end = "/threads:" + std::to_string(threads);
      add(name + "/sgd" + end,
          [=](benchmark::State& state) { first_order_steps(state, workload->sgd(threads)); });
      add(name + "/adam" + end,
          [=](benchmark::State& state) { first_order_steps(state, workload->adam(threads)); });
      for (const Schedule schedule : {Schedule{1, 1}, Schedule{1, 10}, Schedule{10, 100}})
        add(name + "/kfac/" + schedule.text() + end,
            [=](benchmark::State& state) { kfac_steps(state, *workload, schedule, threads); });
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  add_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::AddCustomContext("BLAS", benchmarks::blas_text(benchmarks::product_rate<float>(1)));
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
