#include <Eigen/Cholesky>

#include <kfac/linalg/factored_inverse.hpp>
#include <kfac/linalg/spd_inverse.hpp>

#include "kernels/kernel.hpp"

namespace {

using kfac::Index;

template <class S>
void count_cube(benchmark::State& state) {
  const auto n = static_cast<double>(state.range(0));
  benchmarks::count_operations<S>(state, n * n * n, state.range(1));
}

/// With the copy of the matrix that is inverted in place.
template <class S>
void spd_inverse(benchmark::State& state) {
  const kfac::Matrix<S> a = benchmarks::random_spd<S>(state.range(0));
  kfac::Matrix<S> inverse = a;
  const benchmarks::Team team(state.range(1));
  for (auto _ : state) {
    inverse = a;
    if (!(kfac::linalg::invert_spd<S>(inverse) > 0)) state.SkipWithError("not inverted");
    benchmark::DoNotOptimize(inverse.data());
    benchmark::ClobberMemory();
  }
  count_cube<S>(state);
}
KFAC_BENCHMARK_SIZES(spd_inverse, 4096);

/// What that replaces.
template <class S>
void solve_against_identity(benchmark::State& state) {
  const kfac::Matrix<S> a = benchmarks::random_spd<S>(state.range(0));
  kfac::Matrix<S> inverse(a.rows(), a.cols());
  Eigen::LLT<kfac::Matrix<S>> cholesky(a.rows());
  for (auto _ : state) {
    cholesky.compute(a);
    inverse.setIdentity();
    cholesky.solveInPlace(inverse);
    benchmark::DoNotOptimize(inverse.data());
    benchmark::ClobberMemory();
  }
  count_cube<S>(state);
}
BENCHMARK_TEMPLATE(solve_against_identity, float)->Apply(benchmarks::arguments<16, 2048, 1>);

/// G^-1 V A^-1 in place, of square V.
template <class S>
void precondition(benchmark::State& state) {
  const Index size = state.range(0);
  const kfac::Matrix<S> a = benchmarks::random_spd<S>(size);
  const benchmarks::Team team(state.range(1));
  kfac::FactoredInverse<S> inverse;
  if (!inverse.refresh(a, a, S(1))) state.SkipWithError("not inverted");
  const kfac::Matrix<S> gradient = benchmarks::random_matrix<S>(size, size);
  kfac::Matrix<S> v = gradient;
  for (auto _ : state) {
    v = gradient;  // or it would shrink to denormal numbers
    inverse.apply(v);
    benchmark::DoNotOptimize(v.data());
    benchmark::ClobberMemory();
  }
  const auto n = static_cast<double>(size);
  benchmarks::count_operations<S>(state, 4 * n * n * n, state.range(1));
}
KFAC_BENCHMARK_SIZES(precondition, 4096);

}  // namespace
