// W1: sizes known at compile time, that of the batch too.

#include <kfac/loss/softmax_cross_entropy.hpp>
#include <kfac/nn/activations.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/static_sequential.hpp>

#include "workloads/workload_of.hpp"

namespace benchmarks {

std::unique_ptr<Workload> small_mlp() {
  constexpr kfac::Index kBatch = 64;
  const auto make_model = [](kfac::Rng& rng) {
    return kfac::static_sequential<kBatch>(kfac::Linear<float, 2, 32>(rng), kfac::ReLU<float>{},
                                           kfac::Linear<float, 32, 2>(rng));
  };
  kfac::Rng rng(2);
  WorkloadParts<decltype(make_model), kfac::SoftmaxCrossEntropy<float>> parts{
      .name = "W1",
      .network = "MLP 2-32-2, ReLU",
      .make_model = make_model,
      .loss = kfac::SoftmaxCrossEntropy<float>(),
      .shape = {2},
      .x = kfac::Matrix<float>(2, kBatch),
      .y = random_labels(kBatch, 2, rng)};
  rng.fill_normal(parts.x);
  return make_workload_of(std::move(parts));
}

}  // namespace benchmarks
