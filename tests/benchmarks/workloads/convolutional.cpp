// W4.

#include <kfac/loss/softmax_cross_entropy.hpp>
#include <kfac/nn/activations.hpp>
#include <kfac/nn/conv.hpp>
#include <kfac/nn/flatten.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/sequential.hpp>

#include "workloads/workload_of.hpp"

namespace benchmarks {

std::unique_ptr<Workload> convolutional() {
  constexpr kfac::Index kBatch = 128;
  const auto make_model = [](kfac::Rng& rng) {
    using Conv = kfac::Conv2d<float>;
    using ReLU = kfac::ReLU<float>;
    return kfac::Sequential{Conv({.in_channels = 1, .out_channels = 32}, rng),
                            ReLU{},
                            Conv({.in_channels = 32, .out_channels = 64, .stride = {2, 2}}, rng),
                            ReLU{},
                            Conv({.in_channels = 64, .out_channels = 64, .stride = {2, 2}}, rng),
                            ReLU{},
                            kfac::Flatten<float>{},
                            kfac::Linear<float>(1600, 10, rng)};
  };
  kfac::Rng rng(2);
  WorkloadParts<decltype(make_model), kfac::SoftmaxCrossEntropy<float>> parts{
      .name = "W4",
      .network = "CNN 28x28: conv 32, conv 64 / 2, conv 64 / 2, linear 10, ReLU",
      .make_model = make_model,
      .loss = kfac::SoftmaxCrossEntropy<float>(),
      .shape = {1, 28, 28},
      .x = kfac::Matrix<float>(784, kBatch),
      .y = random_labels(kBatch, 10, rng)};
  rng.fill_normal(parts.x);
  return make_workload_of(std::move(parts));
}

}  // namespace benchmarks
