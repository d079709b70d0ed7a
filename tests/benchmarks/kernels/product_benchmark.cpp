#include <kfac/linalg/matrix_product.hpp>

#include "kernels/kernel.hpp"

namespace {

using benchmarks::random_matrix;
using kfac::Index;

double cube(Index size) {
  const auto n = static_cast<double>(size);
  return n * n * n;
}

template <class S>
void product(benchmark::State& state) {
  const Index size = state.range(0);
  const kfac::Matrix<S> a = random_matrix<S>(size, size);
  kfac::Matrix<S> c(size, size);
  const benchmarks::Team team(state.range(1));
  for (auto _ : state) {
    kfac::linalg::multiply(a, a, c);
    benchmark::DoNotOptimize(c.data());
    benchmark::ClobberMemory();
  }
  benchmarks::count_operations<S>(state, 2 * cube(size), state.range(1));
}
KFAC_BENCHMARK_SIZES(product, 4096);

/// The sum of g x^T over a batch, which is long beside the matrices: a gradient of weights.
template <class S>
void product_over_batch(benchmark::State& state) {
  const Index size = state.range(0);
  const Index batch = 512;
  const kfac::Matrix<S> g = random_matrix<S>(size, batch);
  kfac::Matrix<S> c(size, size);
  const benchmarks::Team team(state.range(1));
  for (auto _ : state) {
    kfac::linalg::multiply(g, g.transpose(), c);
    benchmark::DoNotOptimize(c.data());
    benchmark::ClobberMemory();
  }
  const auto n = static_cast<double>(size);
  benchmarks::count_operations<S>(state, 2 * n * n * static_cast<double>(batch), state.range(1));
}
KFAC_BENCHMARK_SIZES(product_over_batch, 2048);

}  // namespace
