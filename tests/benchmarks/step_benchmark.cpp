// A K-FAC step beside an SGD step on the same network and batch, in the same run. Arguments of
// kfac: factor_every and inverse_every; a schedule's cost is the mean over many steps.

#include <benchmark/benchmark.h>

#include <kfac/kfac.hpp>

namespace {

using kfac::Index;
using Matrix = kfac::Matrix<float>;

/// 784-512-512-10, ReLU, batch 256.
struct Images {
  kfac::Rng rng{1};
  kfac::Sequential<kfac::Linear<float>, kfac::ReLU<float>, kfac::Linear<float>, kfac::ReLU<float>,
                   kfac::Linear<float>>
      model{kfac::Linear<float>(784, 512, rng), kfac::ReLU<float>{},
            kfac::Linear<float>(512, 512, rng), kfac::ReLU<float>{},
            kfac::Linear<float>(512, 10, rng)};
  kfac::SoftmaxCrossEntropy<float> loss;
  Matrix x{784, 256};
  kfac::Labels y{256};

  Images() {
    rng.fill_normal(x);
    for (Index i = 0; i < y.size(); ++i) y(i) = static_cast<int>(rng.below(10));
  }
};

void sgd(benchmark::State& state) {
  Images images;
  kfac::Sgd optimizer(images.model, {.learning_rate = 1e-3F, .momentum = 0.9F});
  for (auto _ : state) {
    float loss = kfac::train_step(images.model, images.loss, optimizer, images.x, images.y).loss;
    benchmark::DoNotOptimize(loss);
  }
}
BENCHMARK(sgd)->Unit(benchmark::kMillisecond);

void adam(benchmark::State& state) {
  Images images;
  kfac::Adam optimizer(images.model);
  for (auto _ : state) {
    float loss = kfac::train_step(images.model, images.loss, optimizer, images.x, images.y).loss;
    benchmark::DoNotOptimize(loss);
  }
}
BENCHMARK(adam)->Unit(benchmark::kMillisecond);

void kfac_step(benchmark::State& state, kfac::FisherType fisher) {
  Images images;
  kfac::KfacOptimizer optimizer(images.model, images.loss,
                                {.learning_rate = 1e-3F,
                                 .damping = 0.1F,
                                 .factor_every = state.range(0),
                                 .inverse_every = state.range(1),
                                 .fisher = fisher});
  for (auto _ : state) {
    float loss = optimizer.step(images.x, images.y).loss;
    benchmark::DoNotOptimize(loss);
  }
}
BENCHMARK_CAPTURE(kfac_step, empirical, kfac::FisherType::Empirical)
    ->Args({1, 1})
    ->Args({1, 10})
    ->Args({10, 100})
    ->Iterations(100)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(kfac_step, type_2, kfac::FisherType::Type2)
    ->Args({1, 10})
    ->Args({10, 100})
    ->Iterations(100)
    ->Unit(benchmark::kMillisecond);

}  // namespace
