// clang-format off: before Eigen
#include "noalloc/forbid.hpp"
// clang-format on

#include <kfac/curvature/running_covariance.hpp>
#include <kfac/loss/softmax_cross_entropy.hpp>
#include <kfac/nn/activations.hpp>
#include <kfac/nn/channels_last.hpp>
#include <kfac/nn/conv.hpp>
#include <kfac/nn/conv_transpose.hpp>
#include <kfac/nn/global_pooling.hpp>
#include <kfac/nn/parallel.hpp>
#include <kfac/nn/pooling.hpp>
#include <kfac/nn/sequential.hpp>

#include "support/catch.hpp"
#include "support/random.hpp"

using namespace kfac;
using namespace kfac::test;

namespace {

ConstBatchView<float> view(const Matrix<float>& values, const Shape& shape) {
  return {{values.data(), values.rows(), values.cols()}, shape};
}
BatchView<float> view(Matrix<float>& values, const Shape& shape) {
  return {{values.data(), values.rows(), values.cols()}, shape};
}

/// All passes must not allocate once the largest batch, which comes first, has gone through.
template <Layer L>
void check_passes(L layer, const Shape& shape) {
  Rng rng(1);
  typename L::Scratch scratch;
  bool warm = false;
  const Shape output = layer.output_shape(shape);
  for (const Index examples : {40, 3, 17, 40, 1}) {
    const Matrix<float> x = normal<float>(shape.size(), examples, rng);
    const Matrix<float> g = normal<float>(output.size(), examples, rng);
    const Vector<float> direction = normal<float>(layer.parameter_count(), 1, rng);
    Matrix<float> y = g, y_tangent = g, grad_x = x;
    Vector<float> gradient = direction;
    const ConstVectorMap<float> parameter_tangent(direction.data(), direction.size());
    VectorMap<float> grad_parameters(gradient.data(), gradient.size());
    const ConstBatchView<float> in = view(x, shape), grad_output = view(g, output);
    const BatchView<float> out = view(y, output);
    BatchView<float> grad_input = view(grad_x, shape);
    const auto passes = [&] {
      layer.forward(in, out, scratch, Mode{});
      layer.tangent(in, out, &in, &parameter_tangent, view(y_tangent, output), scratch);
      layer.backward_tangent(in, out, grad_output, &in, &parameter_tangent, grad_output,
                             &grad_input, &grad_parameters, scratch);
      layer.backward(in, out, grad_output, &grad_input, &grad_parameters, scratch, Mode{});
    };
    if (!warm) passes();
    CHECK(allocations_in(passes) == Allocations{});
    if constexpr (KroneckerLayer<L>) {
      const KroneckerStructure sizes = layer.kronecker_structure();
      RunningCovariance<float> inputs(sizes.inputs * sizes.groups, true);
      RunningCovariance<float> gradients(sizes.outputs * sizes.groups, false);
      const auto factors = [&] {
        inputs.add(layer.kronecker_input(in, scratch), 1.0f);
        gradients.add(layer.kronecker_output_gradient(grad_output, scratch), 1.0f);
      };
      if (!warm) factors();
      CHECK(allocations_in(factors) == Allocations{});
    }
    warm = true;
  }
}

}  // namespace

TEST_CASE("noalloc: warm passes of convolutions in any workspace", "[noalloc]") {
  Rng rng(2);
  // Patches of one example at a time, of a few, and all of them.
  const Index workspace = GENERATE(Index{0}, Index{20000}, Conv2dOptions{}.workspace);
  check_passes(Conv1d<float>({.in_channels = 2, .out_channels = 4, .workspace = workspace}, rng),
               {2, 30});
  check_passes(
      Conv2d<float>(
          {.in_channels = 2, .out_channels = 4, .padding = {1, 1}, .workspace = workspace}, rng),
      {2, 6, 6});
  check_passes(Conv3d<float>({.out_channels = 4, .workspace = workspace}, rng), {1, 4, 4, 4});
}

TEST_CASE("noalloc: warm passes of transposed convolutions and of branches", "[noalloc]") {
  Rng rng(4);
  const Index workspace = GENERATE(Index{0}, Index{20000});
  check_passes(ConvTranspose2d<float>({.in_channels = 2,
                                       .out_channels = 4,
                                       .stride = {2, 2},
                                       .groups = 2,
                                       .workspace = workspace},
                                      rng),
               {2, 4, 3});
  const Conv2d<float> conv({.in_channels = 2, .out_channels = 3, .padding = {1, 1}}, rng);
  const Sequential deep(conv, Tanh<float>{});
  check_passes(Concatenate(deep, conv, Identity<float>{}), {2, 4, 5});
  check_passes(Add(conv, deep), {2, 4, 5});
  check_passes(DynamicAdd<float>({deep, conv}), {2, 4, 5});
}

TEST_CASE("noalloc: warm passes of poolings", "[noalloc]") {
  check_passes(MaxPool1d<float>{}, {2, 8});
  check_passes(MaxPool3d<float>{}, {2, 4, 4, 4});
  check_passes(AvgPool1d<float>{}, {2, 8});
  check_passes(AvgPool2d<float>{}, {2, 4, 4});
  check_passes(SpatialMean<float>{}, {2, 4, 3});
  check_passes(SpatialSum<float>{}, {2, 8});
  check_passes(MeanTokens<float>{}, {4, 3});
  check_passes(SumTokens<float>{}, {4, 2, 3});
  check_passes(ChannelsLast<float>{}, {2, 4, 3});
}

TEST_CASE("noalloc: the cross-entropy of positions", "[noalloc]") {
  Rng rng(3);
  const SoftmaxCrossEntropy<float> loss({.classes = 3});
  const Matrix<float> outputs = normal<float>(12, 7, rng), v = normal<float>(12, 7, rng);
  const Labels labels = Labels::Zero(28);
  Matrix<float> into(12, 7);
  CHECK(allocations_in([&] {
          loss.value(outputs, labels);
          loss.gradient(outputs, labels, into);
          loss.hessian_product(outputs, v, into);
          loss.hessian_sqrt(outputs, 5, into);
          loss.hessian_sqrt_product(outputs, v, into);
          loss.sampled_gradient(outputs, rng, into);
        }) == Allocations{});
}
