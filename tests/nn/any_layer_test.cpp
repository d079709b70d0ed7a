#include <type_traits>
#include <utility>

#include <kfac/nn/activations.hpp>
#include <kfac/nn/conv.hpp>
#include <kfac/nn/dropout.hpp>
#include <kfac/nn/dynamic_copy.hpp>
#include <kfac/nn/flatten.hpp>
#include <kfac/nn/pooling.hpp>
#include <kfac/nn/static_sequential.hpp>

#include "nn/support.hpp"

namespace kfac::test::any_layer_test {

using kfac::test::normal;

TEST_CASE("AnyLayer: shows what it holds to whoever knows the type, and to no other", "[nn]") {
  Rng rng(1);
  AnyLayer<float> layer = Linear<float>(2, 3, rng);
  REQUIRE(layer.target<Linear<float>>() != nullptr);
  CHECK(layer.target<Tanh<float>>() == nullptr);
  CHECK(layer.target<Conv2d<float>>() == nullptr);
  CHECK(layer.target<Linear<float>>()->outputs() == 3);
  layer.target<Linear<float>>()->parameters().setZero();
  const AnyLayer<float> copy = layer;
  static_assert(std::is_same_v<decltype(copy.target<Linear<float>>()), const Linear<float>*>);
  CHECK(copy.target<Linear<float>>() != layer.target<Linear<float>>());
  CHECK(copy.parameter_count() == 9);
  layer = Dropout<float>(0.25, rng);
  CHECK(layer.target<Linear<float>>() == nullptr);
  CHECK(layer.target<Dropout<float>>()->p() == 0.25);
  layer = Unflatten<float>({2, 3});
  CHECK(layer.target<Unflatten<float>>()->shape() == Shape{2, 3});
  layer = MaxPool2d<float>({.kernel_size = {3, 2}});
  CHECK(layer.target<MaxPool2d<float>>()->options().stride[0] == 3);
}

TEST_CASE("AnyLayer: activations are elementwise, of whatever function, and other layers are not",
          "[nn]") {
  Rng rng(2);
  CHECK(AnyLayer<float>(ReLU<float>{}).is_elementwise());
  CHECK(AnyLayer<float>(GELU<float>{}).is_elementwise());
  CHECK_FALSE(AnyLayer<float>(Linear<float>(1, 1, rng)).is_elementwise());
  CHECK_FALSE(AnyLayer<float>(Flatten<float>{}).is_elementwise());
}

TEST_CASE("DynamicSequential: its layers can be looked at", "[nn]") {
  Rng rng(3);
  const DynamicSequential<double> model({Linear<double>(2, 3, rng), Tanh<double>{}});
  CHECK(model.layer(0).target<Linear<double>>()->inputs() == 2);
  CHECK(model.layer(1).is_elementwise());
}

TEST_CASE("dynamic_copy: computes what a network of types does, in its mode", "[nn]") {
  Rng rng(4);
  auto fixed =
      static_sequential<8>(Linear<float, 2, 4>(rng), Tanh<float>{}, Linear<float, 4, 1>(rng));
  DynamicSequential<float> copy = dynamic_copy(fixed);
  const Matrix<float> x = normal<float>(2, 5, rng);
  const Matrix<float> outputs = copy.forward(x);
  CHECK(outputs.isApprox(Matrix<float>(fixed.forward(x)), 1e-6F));
  CHECK(copy.layer(0).target<Linear<float>>() != nullptr);
  CHECK(copy.workspace().mode.training);
  fixed.eval();
  CHECK_FALSE(dynamic_copy(fixed).workspace().mode.training);
}

}  // namespace kfac::test::any_layer_test
