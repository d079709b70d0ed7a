/// How the time and the memory of a K-FAC step grow with a network's width and depth, with the
/// batch and with the size of images: one line of CSV for each network.

#include <cstdio>
#include <exception>
#include <iostream>
#include <memory>

#include <CLI/CLI.hpp>

#include "support/measurement.hpp"
#include "workloads/growing.hpp"

namespace {

using benchmarks::Schedule;
using benchmarks::Workload;

void measure(const char* quantity, kfac::Index value, const Workload& workload, kfac::Index threads,
             double seconds) {
  const auto step_of = [&](const Schedule& schedule) {
    return benchmarks::measure(workload, schedule, kfac::FisherType::Empirical, threads,
                               {.seconds = seconds});
  };
  const benchmarks::Measurement every = step_of({1, 1});
  const benchmarks::Measurement seldom = step_of({10, 100});
  std::printf("%s,%lld,%.6g,%.6g,%zu,%.0f\n", quantity, static_cast<long long>(value),
              1e3 * every.best, 1e3 * seldom.best, every.bytes, workload.memory().total());
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  kfac::Index threads = 1;
  double seconds = 0.3;
  CLI::App app("Measures K-FAC steps of networks that grow and prints them as CSV.");
  app.add_option("--threads", threads, "in total")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--seconds", seconds, "for each network and schedule")
      ->check(CLI::Range(0.0, 3600.0))
      ->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  try {
    std::printf("quantity,value,ms_1_1,ms_10_100,peak_bytes,expected_bytes\n");
    for (const kfac::Index width : {64, 128, 256, 512, 1024, 2048})
      measure("width", width, *benchmarks::growing_mlp(width, 2, 256), threads, seconds);
    for (const kfac::Index depth : {1, 2, 4, 8, 16})
      measure("depth", depth, *benchmarks::growing_mlp(256, depth, 256), threads, seconds);
    for (const kfac::Index batch : {32, 64, 128, 256, 512, 1024, 2048})
      measure("batch", batch, *benchmarks::growing_mlp(256, 2, batch), threads, seconds);
    for (const kfac::Index size : {8, 16, 32, 64})
      measure("image size", size, *benchmarks::growing_cnn(size, 32), threads, seconds);
  } catch (const std::exception& error) {
    std::cerr << "kfac_growth: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
