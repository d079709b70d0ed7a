// W2.

#include <kfac/loss/softmax_cross_entropy.hpp>
#include <kfac/nn/activations.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/sequential.hpp>

#include "workloads/workload_of.hpp"

namespace benchmarks {

std::unique_ptr<Workload> large_mlp() {
  constexpr kfac::Index kBatch = 256;
  const auto make_model = [](kfac::Rng& rng) {
    using Linear = kfac::Linear<float>;
    using ReLU = kfac::ReLU<float>;
    return kfac::Sequential{Linear(784, 512, rng), ReLU{}, Linear(512, 512, rng), ReLU{},
                            Linear(512, 10, rng)};
  };
  kfac::Rng rng(2);
  WorkloadParts<decltype(make_model), kfac::SoftmaxCrossEntropy<float>> parts{
      .name = "W2",
      .network = "MLP 784-512-512-10, ReLU",
      .make_model = make_model,
      .loss = kfac::SoftmaxCrossEntropy<float>(),
      .shape = {784},
      .x = kfac::Matrix<float>(784, kBatch),
      .y = random_labels(kBatch, 10, rng)};
  rng.fill_normal(parts.x);
  return make_workload_of(std::move(parts));
}

}  // namespace benchmarks
