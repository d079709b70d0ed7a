// Eigendecompositions, which are done in double for either scalar; the operations that count are
// those of the textbook: 9 n^3 for a full one (Golub and Van Loan, Matrix Computations, section
// 8.3), and for a step of orthogonal iteration 4 n^3 for its two products and 8/3 n^3 for its QR
// decomposition.

#include <kfac/linalg/symmetric_eigen.hpp>

#include "kernels/kernel.hpp"

namespace {

template <class S>
void count(benchmark::State& state, double cubes) {
  const auto n = static_cast<double>(state.range(0));
  benchmarks::count_operations<S>(state, cubes * n * n * n, state.range(1));
}

template <class S>
void eigendecomposition(benchmark::State& state) {
  const kfac::Matrix<S> a = benchmarks::random_spd<S>(state.range(0));
  const benchmarks::Team team(state.range(1));
  kfac::linalg::SymmetricEigen<S> eigen;
  for (auto _ : state) {
    if (!eigen.compute(a)) state.SkipWithError("not decomposed");
    benchmark::DoNotOptimize(eigen.vectors.data());
    benchmark::ClobberMemory();
  }
  count<S>(state, 9);
}
KFAC_BENCHMARK_SIZES(eigendecomposition, 1024);

template <class S>
void eigenbasis_tracking(benchmark::State& state) {
  const kfac::Matrix<S> a = benchmarks::random_spd<S>(state.range(0));
  const benchmarks::Team team(state.range(1));
  kfac::linalg::SymmetricEigen<S> eigen;
  if (!eigen.compute(a)) state.SkipWithError("not decomposed");
  for (auto _ : state) {
    if (!eigen.track(a)) state.SkipWithError("not tracked");
    benchmark::DoNotOptimize(eigen.vectors.data());
    benchmark::ClobberMemory();
  }
  count<S>(state, 4 + 8.0 / 3);
}
KFAC_BENCHMARK_SIZES(eigenbasis_tracking, 1024);

}  // namespace
