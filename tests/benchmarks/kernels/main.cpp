#include <benchmark/benchmark.h>

#include "support/product_rate.hpp"

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::AddCustomContext("BLAS", benchmarks::blas_text(benchmarks::product_rate<float>(1)));
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
