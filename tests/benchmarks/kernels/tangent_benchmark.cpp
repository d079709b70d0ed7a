#include <kfac/nn/activations.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/sequential.hpp>

#include "kernels/kernel.hpp"

namespace {

using kfac::Index;

/// The change of the outputs of an n-n-n network along a change of its parameters: a product in the
/// first layer, whose inputs stay, and two in the second.
template <class S>
void tangent(benchmark::State& state) {
  const Index size = state.range(0);
  const Index batch = 256;
  kfac::Rng rng(1);
  kfac::Sequential<kfac::Linear<S>, kfac::ReLU<S>, kfac::Linear<S>> model{
      kfac::Linear<S>(size, size, rng), kfac::ReLU<S>{}, kfac::Linear<S>(size, size, rng)};
  const kfac::Matrix<S> x = benchmarks::random_matrix<S>(size, batch);
  kfac::Vector<S> direction(model.parameter_count());
  rng.fill_normal(direction);
  const benchmarks::Team team(state.range(1));
  model.forward(x);
  for (auto _ : state) {
    benchmark::DoNotOptimize(model.tangent(direction).data());
    benchmark::ClobberMemory();
  }
  const auto n = static_cast<double>(size);
  benchmarks::count_operations<S>(state, 6 * n * n * static_cast<double>(batch), state.range(1));
}
KFAC_BENCHMARK_SIZES(tangent, 4096);

}  // namespace
