// What the kernels reach, as rates of useful multiply-adds beside that of a plain matrix product of
// the same size in the same run: the ratio is what carries over from machine to machine.

#include <benchmark/benchmark.h>

#include <kfac/core/random.hpp>
#include <kfac/linalg/spd_inverse.hpp>

namespace {

using kfac::Index;
using Matrix = kfac::Matrix<float>;

Matrix random_matrix(Index rows, Index columns) {
  kfac::Rng rng(1);
  Matrix result(rows, columns);
  rng.fill_normal(result);
  return result;
}

Matrix random_spd(Index size) {
  const Matrix x = random_matrix(size, 2 * size);
  Matrix result = x * x.transpose() / static_cast<float>(2 * size);
  result.diagonal().array() += 0.1F;
  return result;
}

void count(benchmark::State& state, double multiply_adds) {
  state.counters["GFLOP/s"] =
      benchmark::Counter(2e-9 * multiply_adds, benchmark::Counter::kIsIterationInvariantRate);
}

void product(benchmark::State& state) {
  const Index size = state.range(0);
  const Matrix a = random_matrix(size, size);
  Matrix c(size, size);
  for (auto _ : state) {
    c.noalias() = a * a;
    benchmark::DoNotOptimize(c.data());
  }
  count(state, static_cast<double>(size * size * size));
}
BENCHMARK(product)->Arg(128)->Arg(512)->Arg(1001);

/// The covariance update: half the multiply-adds of a product count as useful.
void rank_update(benchmark::State& state) {
  const Index size = state.range(0);
  const Matrix x = random_matrix(size, 512);
  Matrix c = Matrix::Zero(size, size);
  for (auto _ : state) {
    c.selfadjointView<Eigen::Lower>().rankUpdate(x);
    benchmark::DoNotOptimize(c.data());
  }
  count(state, 0.5 * static_cast<double>(size * size * 512));
}
BENCHMARK(rank_update)->Arg(128)->Arg(512)->Arg(1001);

void spd_inverse(benchmark::State& state) {
  const Matrix a = random_spd(state.range(0));
  Matrix inverse;
  for (auto _ : state) {
    inverse = a;
    benchmark::DoNotOptimize(kfac::linalg::invert_spd<float>(inverse));
  }
  const auto size = static_cast<double>(a.rows());
  count(state, 0.5 * size * size * size);
}
BENCHMARK(spd_inverse)->Arg(128)->Arg(512)->Arg(1001);

/// What invert_spd replaces.
void solve_against_identity(benchmark::State& state) {
  const Matrix a = random_spd(state.range(0));
  Matrix inverse(a.rows(), a.cols());
  Eigen::LLT<Matrix> cholesky(a.rows());
  for (auto _ : state) {
    cholesky.compute(a);
    inverse.setIdentity();
    cholesky.solveInPlace(inverse);
    benchmark::DoNotOptimize(inverse.data());
  }
  const auto size = static_cast<double>(a.rows());
  count(state, 0.5 * size * size * size);
}
BENCHMARK(solve_against_identity)->Arg(128)->Arg(512)->Arg(1001);

}  // namespace
