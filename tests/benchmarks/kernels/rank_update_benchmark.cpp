#include <kfac/linalg/matrix_product.hpp>

#include "kernels/kernel.hpp"

namespace {

using benchmarks::random_matrix;
using kfac::Index;

/// The sum of x x^T over a batch, of which a triangle counts: n^2 batch operations.
template <class S, int Order>
void update(benchmark::State& state) {
  const Index size = state.range(0);
  const Index batch = 512;
  const Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic, Order> x = random_matrix<S>(size, batch);
  kfac::Matrix<S> c = kfac::Matrix<S>::Zero(size, size);
  const benchmarks::Team team(state.range(1));
  for (auto _ : state) {
    kfac::linalg::rank_update(S(1), x, c);
    benchmark::DoNotOptimize(c.data());
    benchmark::ClobberMemory();
  }
  const auto n = static_cast<double>(size);
  benchmarks::count_operations<S>(state, n * n * static_cast<double>(batch), state.range(1));
}

/// Of activations.
template <class S>
void rank_update(benchmark::State& state) {
  update<S, Eigen::ColMajor>(state);
}
KFAC_BENCHMARK_SIZES(rank_update, 4096);

/// Of patches, whose features are contiguous over the places.
template <class S>
void rank_update_of_rows(benchmark::State& state) {
  update<S, Eigen::RowMajor>(state);
}
KFAC_BENCHMARK_SIZES(rank_update_of_rows, 2048);

}  // namespace
