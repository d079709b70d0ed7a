/// One workload in training: how long a step takes beside the time that its operations take at the
/// rate of matrix products, where the time goes, and how much memory is in use.

#include <cstdio>
#include <exception>
#include <fstream>
#include <iostream>
#include <string>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "support/measurement.hpp"

namespace {

using benchmarks::Measurement;
using benchmarks::Schedule;
using benchmarks::Workload;

struct Run {
  std::string workload = "W1";
  std::string schedule = "1/10";
  std::string fisher = "empirical";
  kfac::Index threads = 1;
  benchmarks::Effort effort;
  std::string json;
};

kfac::FisherType fisher_type(const std::string& name) {
  if (name == "type-2") return kfac::FisherType::Type2;
  if (name == "monte-carlo") return kfac::FisherType::MonteCarlo;
  return kfac::FisherType::Empirical;
}

/// 2 if the command line is wrong, 0 if the program is to end all the same, -1 otherwise.
int parse(int argc, char** argv, Run& run) {
  CLI::App app(
      "Trains one of four networks with K-FAC and prints what a step takes: its time, that of its "
      "operations at the rate of matrix products measured in the same run, and memory.");
  app.get_formatter()->column_width(34);
  app.add_option("--workload", run.workload, "network, loss and batch")
      ->check(CLI::IsMember(benchmarks::workload_names()))
      ->capture_default_str();
  const CLI::Validator is_schedule(
      [](const std::string& text) -> std::string {
        if (Schedule::parse(text)) return {};
        return "'" + text + "' is not two whole numbers from 1 to 10000, such as 1/10";
      },
      "FACTORS/INVERSES");
  app.add_option("--schedule", run.schedule, "new factors and new inverses every so many steps")
      ->check(is_schedule)
      ->capture_default_str();
  app.add_option("--fisher", run.fisher,
                 "whose gradients make the curvature; the floor is that of the empirical one")
      ->check(CLI::IsMember({"empirical", "monte-carlo", "type-2"}))
      ->capture_default_str();
  app.add_option("--threads", run.threads, "in total")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--steps", run.effort.steps,
                 "to time, rounded up to whole periods of the schedule; 0: by --seconds")
      ->check(CLI::Range(0, 1000000))
      ->capture_default_str();
  app.add_option("--seconds", run.effort.seconds, "to time steps for, one period at least")
      ->check(CLI::Range(0.0, 3600.0))
      ->capture_default_str();
  app.add_option("--json", run.json, "file to write the numbers to");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  return -1;
}

nlohmann::ordered_json to_json(const Run& run, const Schedule& schedule, const Workload& workload,
                               const Measurement& measured) {
  const benchmarks::Operations operations = workload.operations();
  const benchmarks::Memory memory = workload.memory();
  const double floor = benchmarks::step_floor(workload, schedule, measured.rate.best());
  const benchmarks::Breakdown& parts = measured.breakdown;
  const auto ms = [](double seconds) { return 1e3 * seconds; };
  nlohmann::ordered_json bytes{{"parameters", memory.parameters},
                               {"factors", memory.factors},
                               {"inverses", memory.inverses},
                               {"activations", memory.activations},
                               {"expected", memory.total()},
                               {"predicted", measured.predicted_bytes},
                               {"peak", nullptr},
                               {"ratio", nullptr},
                               {"predicted_ratio", nullptr}};
  if (measured.bytes > 0) {
    bytes["peak"] = measured.bytes;
    bytes["ratio"] = static_cast<double>(measured.bytes) / memory.total();
    bytes["predicted_ratio"] = measured.predicted_bytes / static_cast<double>(measured.bytes);
  }
  return {
      {"workload", workload.name()},
      {"network", workload.network()},
      {"batch", workload.batch()},
      {"schedule", schedule.text()},
      {"fisher", run.fisher},
      {"threads", run.threads},
      {"steps", measured.steps},
      {"ms",
       {{"median", ms(measured.median)}, {"best", ms(measured.best)}, {"cpu", ms(measured.cpu)}}},
      {"floor_ms", ms(floor)},
      {"ratio", measured.best / floor},
      {"cpu_ratio", measured.cpu / floor},
      {"sgd_ms", ms(measured.sgd.step)},
      {"breakdown_ms",
       {{"forward", ms(parts.forward)},
        {"backward", ms(parts.backward)},
        {"factors", ms(parts.factors)},
        {"inverses", ms(parts.inverses)},
        {"precondition", ms(parts.precondition)},
        {"update", ms(parts.update)}}},
      {"operations",
       {{"forward", operations.forward},
        {"backward", operations.backward},
        {"factors", operations.factors},
        {"inverses", operations.inverses},
        {"precondition", operations.precondition},
        {"step", operations.step(schedule)}}},
      {"bytes", bytes},
      {"product_gflops",
       {{"eigen", 1e-9 * measured.rate.eigen},
        {"blas", 1e-9 * measured.rate.blas},
        {"kfac", 1e-9 * measured.rate.kfac},
        {"best", 1e-9 * measured.rate.best()}}},
      {"blas", benchmarks::blas_text(measured.rate)}};
}

/// A line "name  milliseconds  operations  share of the rate of matrix products".
void print_part(const char* name, double seconds, double operations, double rate) {
  std::printf("  %-16s %10.4f", name, 1e3 * seconds);
  if (operations > 0) std::printf("  %10.4g  %5.2f", operations, operations / seconds / rate);
  std::printf("\n");
}

void print(const Run& run, const Schedule& schedule, const Workload& workload,
           const Measurement& measured) {
  const benchmarks::ProductRate& rate = measured.rate;
  std::printf(
      "%s  %s, batch %lld, float; schedule %s, %s Fisher, %lld thread%s, %lld "
      "steps\n",
      workload.name().c_str(), workload.network().c_str(), static_cast<long long>(workload.batch()),
      schedule.text().c_str(), run.fisher.c_str(), static_cast<long long>(run.threads),
      run.threads == 1 ? "" : "s", static_cast<long long>(measured.steps));
  std::printf("matrix products: %.1f GFLOP/s (Eigen %.1f", 1e-9 * rate.best(), 1e-9 * rate.eigen);
  if (rate.blas > 0) std::printf(", BLAS %.1f", 1e-9 * rate.blas);
  if (rate.kfac > 0) std::printf(", kfac %.1f", 1e-9 * rate.kfac);
  std::printf("); BLAS: %s\n\n", benchmarks::blas_text(rate));

  const double floor = benchmarks::step_floor(workload, schedule, measured.rate.best());
  std::printf("ms a step: best %.4f, median %.4f; floor %.4f, best / floor %.2f; SGD %.4f\n",
              1e3 * measured.best, 1e3 * measured.median, 1e3 * floor, measured.best / floor,
              1e3 * measured.sgd.step);
  std::printf("CPU ms a step: best %.4f, best / floor %.2f%s\n", 1e3 * measured.cpu,
              measured.cpu / floor,
              run.threads == 1 && measured.best > 1.1 * measured.cpu
                  ? "; other programs took the processor for part of the time"
                  : "");
  const benchmarks::Operations work = workload.operations();
  const benchmarks::Breakdown& parts = measured.breakdown;
  const auto factor_every = static_cast<double>(schedule.factor_every);
  const auto inverse_every = static_cast<double>(schedule.inverse_every);
  std::printf("  %-16s %10s  %10s  %5s\n", "", "ms", "operations", "share");
  print_part("forward", parts.forward, work.forward, rate.best());
  print_part("backward", parts.backward, work.backward, rate.best());
  print_part("factors", parts.factors, work.factors / factor_every, rate.best());
  print_part("inverses", parts.inverses, work.inverses / inverse_every, rate.best());
  print_part("precondition", parts.precondition, work.precondition, rate.best());
  print_part("update", parts.update, 0, rate.best());

  const benchmarks::Memory memory = workload.memory();
  std::printf(
      "\nMB: parameters %.3f, factors %.3f, inverses %.3f, activations %.3f: expected %.3f\n",
      1e-6 * memory.parameters, 1e-6 * memory.factors, 1e-6 * memory.inverses,
      1e-6 * memory.activations, 1e-6 * memory.total());
  if (measured.bytes > 0) {
    const auto bytes = static_cast<double>(measured.bytes);
    std::printf(
        "heap at its peak %.3f, peak / expected %.3f; predicted %.3f, predicted / peak %.3f\n",
        1e-6 * bytes, bytes / memory.total(), 1e-6 * measured.predicted_bytes,
        measured.predicted_bytes / bytes);
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    Run run;
    if (const int exit_code = parse(argc, argv, run); exit_code >= 0) return exit_code;
    // Before the work, for it not to be in vain.
    std::ofstream file;
    if (!run.json.empty()) {
      file.open(run.json);
      if (!file) {
        std::cerr << "--json: '" << run.json << "' cannot be written\n";
        return 2;
      }
    }
    const Schedule schedule = *Schedule::parse(run.schedule);
    const auto workload = benchmarks::make_workload(run.workload);
    const Measurement measured =
        benchmarks::measure(*workload, schedule, fisher_type(run.fisher), run.threads, run.effort);
    print(run, schedule, *workload, measured);
    if (!run.json.empty()) {
      file << to_json(run, schedule, *workload, measured).dump(2) << '\n';
      if (!file.flush()) throw std::runtime_error("'" + run.json + "' cannot be written");
    }
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
