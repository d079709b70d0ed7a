// W3: the deep autoencoder of Hinton and Salakhutdinov 2006, as tests of second-order optimizers
// have it. Its targets are its inputs, pixels from 0 to 1.

#include <kfac/loss/binary_cross_entropy.hpp>
#include <kfac/nn/activations.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/sequential.hpp>

#include "workloads/workload_of.hpp"

namespace benchmarks {

std::unique_ptr<Workload> autoencoder() {
  constexpr kfac::Index kBatch = 512;
  const auto make_model = [](kfac::Rng& rng) {
    using Linear = kfac::Linear<float>;
    using Tanh = kfac::Tanh<float>;
    return kfac::Sequential{
        Linear(784, 1000, rng), Tanh{}, Linear(1000, 500, rng), Tanh{},
        Linear(500, 250, rng),  Tanh{}, Linear(250, 30, rng),  // the code is linear
        Linear(30, 250, rng),   Tanh{}, Linear(250, 500, rng),  Tanh{},
        Linear(500, 1000, rng), Tanh{}, Linear(1000, 784, rng)};
  };
  kfac::Rng rng(2);
  WorkloadParts<decltype(make_model), kfac::BinaryCrossEntropy<float>> parts{
      .name = "W3",
      .network = "autoencoder 784-1000-500-250-30-250-500-1000-784, tanh",
      .make_model = make_model,
      .loss = kfac::BinaryCrossEntropy<float>({.reduction = kfac::Reduction::ExampleMean}),
      .shape = {784},
      .x = kfac::Matrix<float>(784, kBatch),
      .y = {}};
  rng.fill_uniform(parts.x, 0.0, 1.0);
  parts.y = parts.x;
  return make_workload_of(std::move(parts));
}

}  // namespace benchmarks
