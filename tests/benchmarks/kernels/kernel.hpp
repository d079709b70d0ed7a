#pragma once

#include <benchmark/benchmark.h>

#include <kfac/core/random.hpp>
#include <kfac/core/types.hpp>

#include "support/product_rate.hpp"
#include "support/team.hpp"

namespace benchmarks {

// Kernels are templates over the scalar; the arguments of each are a size, or the number of a
// layer, and the number of threads in total. One thread is timed by its processor time, which other
// programs do not add to; several by the wall clock.

template <kfac::RealScalar S>
kfac::Matrix<S> random_matrix(kfac::Index rows, kfac::Index columns) {
  kfac::Rng rng(1);
  kfac::Matrix<S> matrix(rows, columns);
  rng.fill_normal(matrix);
  return matrix;
}

/// Symmetric, with eigenvalues from 0.1 to about 3, in time that is short beside an inverse's.
template <kfac::RealScalar S>
kfac::Matrix<S> random_spd(kfac::Index size) {
  const kfac::Matrix<S> x = random_matrix<S>(size, 64);
  kfac::Matrix<S> matrix = x * x.transpose() / static_cast<S>(size);
  matrix.diagonal().array() += S(0.1);
  return matrix;
}

/// Says what an iteration's useful floating-point operations make of the time: their rate, and its
/// share of that of matrix products on as many threads in this run.
template <kfac::RealScalar S>
void count_operations(benchmark::State& state, double operations, kfac::Index threads) {
  const double rate = product_rate<S>(threads).best();
  using benchmark::Counter;
  state.counters["GFLOP/s"] = Counter(1e-9 * operations, Counter::kIsIterationInvariantRate);
  state.counters["GEMM share"] = Counter(operations / rate, Counter::kIsIterationInvariantRate);
}

/// Arguments from `First` to `Last`, doubling or one by one, on so many threads.
template <kfac::Index First, kfac::Index Last, kfac::Index Threads, bool Doubling = true>
void arguments(benchmark::internal::Benchmark* kernel) {
  kernel->ArgNames({Doubling ? "n" : "layer", "threads"})->Unit(benchmark::kMicrosecond);
  if (Threads > 1) kernel->UseRealTime();
  for (kfac::Index value = First; value <= Last; value = Doubling ? 2 * value : value + 1)
    kernel->Args({value, Threads});
}

}  // namespace benchmarks

/// Has a kernel run in float and double on 1 and 2 threads, with the given further arguments of
/// `arguments`.
#define KFAC_BENCHMARK(kernel, first, last, ...)                                 \
  BENCHMARK_TEMPLATE(kernel, float)                                              \
      ->Apply(benchmarks::arguments<first, last, 1 __VA_OPT__(, ) __VA_ARGS__>); \
  BENCHMARK_TEMPLATE(kernel, float)                                              \
      ->Apply(benchmarks::arguments<first, last, 2 __VA_OPT__(, ) __VA_ARGS__>); \
  BENCHMARK_TEMPLATE(kernel, double)                                             \
      ->Apply(benchmarks::arguments<first, last, 1 __VA_OPT__(, ) __VA_ARGS__>); \
  BENCHMARK_TEMPLATE(kernel, double)                                             \
      ->Apply(benchmarks::arguments<first, last, 2 __VA_OPT__(, ) __VA_ARGS__>)
/// Over the sizes from 16 to `most`.
#define KFAC_BENCHMARK_SIZES(kernel, most) KFAC_BENCHMARK(kernel, 16, most)
