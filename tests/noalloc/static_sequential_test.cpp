// clang-format off: before Eigen
#include "noalloc/training.hpp"
// clang-format on

#include <kfac/nn/activations.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/static_sequential.hpp>

using namespace kfac::test;

namespace {

auto network(kfac::Rng& rng) {
  return kfac::static_sequential<kLargestBatch>(kfac::Linear<float, kInputs, kHidden>(rng),
                                                kfac::ReLU<float>{},
                                                kfac::Linear<float, kHidden, kOutputs>(rng));
}

}  // namespace

TEST_CASE("noalloc: a network of compile-time sizes from construction on", "[noalloc]") {
  const Batch batch(kInputs, kLargestBatch);
  const Batch smaller(kInputs, 7);
  const Allocations found = allocations_in([&] {
    kfac::Rng rng(1);
    auto model = network(rng);
    const kfac::SoftmaxCrossEntropy<float> loss;
    kfac::Buffer<float, kOutputs * kLargestBatch> memory;
    Eigen::Matrix<float, Eigen::Dynamic, 1, Eigen::ColMajor, 512> direction;
    direction.setOnes(model.parameter_count());
    for (const Batch* each : {&batch, &smaller}) {
      const auto outputs = model.forward(each->x);
      kfac::MatrixMap<float> gradient = memory.map(outputs.rows(), outputs.cols());
      const float value = loss.value(outputs, each->y);
      loss.gradient(outputs, each->y, gradient);
      if (loss.value_and_gradient(outputs, each->y, gradient) != value)
        throw std::logic_error("the values differ");
      model.backward(gradient);
      model.tangent(direction);
    }
    auto workspace = model.make_workspace();
    model.backward(model.forward(batch.x, workspace), workspace);
  });
  CHECK(found.news == 0);
  CHECK(found.mallocs == 0);
}

TEST_CASE("noalloc: warm training steps of a network with all its memory in the object",
          "[noalloc]") {
  kfac::Rng rng(1);
  check_training(network(rng), kInputs);
}
