#include "workloads/growing.hpp"

#include <kfac/loss/softmax_cross_entropy.hpp>
#include <kfac/nn/activations.hpp>
#include <kfac/nn/conv.hpp>
#include <kfac/nn/dynamic_sequential.hpp>
#include <kfac/nn/global_pooling.hpp>
#include <kfac/nn/linear.hpp>

#include "workloads/workload_of.hpp"

namespace benchmarks {
namespace {

template <class MakeModel>
std::unique_ptr<Workload> on_images(std::string name, MakeModel make_model, kfac::Shape shape,
                                    kfac::Index batch) {
  kfac::Rng rng(2);
  WorkloadParts<MakeModel, kfac::SoftmaxCrossEntropy<float>> parts{
      .name = name,
      .network = name,
      .make_model = make_model,
      .loss = kfac::SoftmaxCrossEntropy<float>(),
      .shape = shape,
      .x = kfac::Matrix<float>(shape.size(), batch),
      .y = random_labels(batch, 10, rng)};
  rng.fill_normal(parts.x);
  return make_workload_of(std::move(parts));
}

}  // namespace

std::unique_ptr<Workload> growing_mlp(kfac::Index width, kfac::Index depth, kfac::Index batch) {
  const auto make_model = [width, depth](kfac::Rng& rng) {
    kfac::DynamicSequential<float> model;
    kfac::Index inputs = 784;
    for (kfac::Index layer = 0; layer < depth; ++layer) {
      model.push_back(kfac::Linear<float>(inputs, width, rng));
      model.push_back(kfac::ReLU<float>{});
      inputs = width;
    }
    model.push_back(kfac::Linear<float>(inputs, 10, rng));
    return model;
  };
  return on_images("MLP", make_model, {784}, batch);
}

std::unique_ptr<Workload> growing_cnn(kfac::Index size, kfac::Index batch) {
  const auto make_model = [](kfac::Rng& rng) {
    kfac::DynamicSequential<float> model;
    model.push_back(kfac::Conv2d<float>({.in_channels = 1, .out_channels = 16}, rng));
    model.push_back(kfac::ReLU<float>{});
    model.push_back(
        kfac::Conv2d<float>({.in_channels = 16, .out_channels = 32, .stride = {2, 2}}, rng));
    model.push_back(kfac::ReLU<float>{});
    model.push_back(kfac::SpatialMean<float>{});
    model.push_back(kfac::Linear<float>(32, 10, rng));
    return model;
  };
  return on_images("CNN", make_model, {1, size, size}, batch);
}

}  // namespace benchmarks
