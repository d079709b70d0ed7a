#include <utility>
#include <vector>

#include <kfac/nn/activations.hpp>
#include <kfac/nn/dropout.hpp>
#include <kfac/nn/dynamic_sequential.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/residual.hpp>
#include <kfac/nn/sequential.hpp>

#include "nn/support.hpp"

namespace kfac::test::dynamic_sequential_test {

using kfac::test::normal;

static_assert(Layer<AnyLayer<float>> && ContainerLayer<AnyLayer<float>>);
static_assert(Layer<DynamicSequential<float>> && ContainerLayer<DynamicSequential<float>>);
static_assert(TwiceDifferentiableLayer<DynamicSequential<float>>);

namespace {

struct HalfFunction {
  static const char* kind() { return "Half"; }
  template <class X, class Y>
  static void value(const X& x, Y&& y) {
    y = x / 2;
  }
  template <class X, class Y, class D>
  static void derivative(const X&, const Y&, D&& d) {
    d.setConstant(0.5);
  }
};

/// A layer without second derivatives.
using Half = Activation<double, HalfFunction>;

}  // namespace

TEST_CASE("DynamicSequential passes the layer battery, nested too", "[nn][gradient]") {
  Rng rng(1);
  DynamicSequential<double> inner;
  inner.push_back(Linear<double>(3, 4, rng));
  inner.push_back(Tanh<double>{});
  inner.push_back(Dropout<double>(0.3, rng));
  const auto check = test::require_twice_differentiable(inner, {3}, 4, rng);
  REQUIRE(check.kronecker.has_value());
  const AnyLayer<double> any = inner;
  test::require_twice_differentiable(any, {3}, 4, rng);
  AnyLayer<double> residual = Linear<double>(3, 3, rng);
  residual = Residual(std::move(residual), Tanh<double>{});
  test::require_twice_differentiable(residual, {3}, 4, rng);
  test::require_twice_differentiable(DynamicSequential<double>({inner, Linear<double>(4, 2, rng)}),
                                     {3}, 4, rng);
}

TEST_CASE("DynamicSequential computes what a Sequential of the same layers does", "[nn][exact]") {
  using S = float;
  Rng rng(2);
  Sequential fixed{Linear<S>(3, 5, rng), Tanh<S>{}, Linear<S>(5, 2, rng)};
  DynamicSequential<S> dynamic({fixed.layer<0>(), fixed.layer<1>(), fixed.layer<2>()});
  REQUIRE(dynamic.parameter_count() == fixed.parameter_count());
  const Vector<S> direction = normal<S>(fixed.parameter_count(), 1, rng);
  for (const Index batch : {4, 7, 2}) {
    const Matrix<S> x = normal<S>(3, batch, rng);
    const Matrix<S> grad_output = normal<S>(2, batch, rng);
    REQUIRE(dynamic.forward(x) == fixed.forward(x));
    REQUIRE(dynamic.tangent(direction) == fixed.tangent(direction));
    REQUIRE(dynamic.input_gradient(grad_output) == fixed.input_gradient(grad_output));
    REQUIRE(dynamic.gradient() == fixed.gradient());
    REQUIRE(dynamic.backward_tangent(grad_output, direction, grad_output, dynamic.workspace()) ==
            fixed.backward_tangent(grad_output, direction, grad_output, fixed.workspace()));
  }
}

TEST_CASE("DynamicSequential names layers as it grows, inside another network too", "[nn][exact]") {
  Rng rng(3);
  Sequential model{Tanh<double>{}, DynamicSequential<double>{}};
  auto& inner = model.layer<1>();
  inner.push_back(Linear<double>(3, 4, rng));
  inner.push_back(Sequential{ReLU<double>{}, Linear<double>(4, 2, rng)});
  const auto layers = model.layers();
  REQUIRE(layers.size() == 4);
  REQUIRE(layers[1].name == "1.0");
  REQUIRE(layers[1].kind == "Linear");
  REQUIRE(layers[3].name == "1.1.1");
  REQUIRE(layers[3].hooks != nullptr);
  REQUIRE_THROWS_WITH(model.forward(Matrix<double>::Zero(2, 1)),
                      "kfac::Linear: 'input' has shape 2, expected 3 features on the last axis "
                      "(layer '1.0')");
}

TEST_CASE("DynamicSequential copies are independent", "[nn][exact]") {
  Rng rng(4);
  DynamicSequential<double> model({Linear<double>(3, 2, rng)});
  const Matrix<double> x = normal<double>(3, 4, rng);
  const Matrix<double> y = model.forward(x);
  DynamicSequential<double> copy = model;
  copy.layers()[0].parameters.setZero();
  REQUIRE(copy.forward(x).isZero(0));
  REQUIRE(model.forward(x) == y);
  copy = model;
  REQUIRE(copy.forward(x) == y);
  DynamicSequential<double> moved = std::move(copy);
  REQUIRE(moved.forward(x) == y);
}

TEST_CASE("An announcement of a type-erased layer carries its name", "[nn][exact]") {
  Rng rng(5);
  DynamicSequential<double> model({Tanh<double>{}, Linear<double>(3, 2, rng)});
  struct Names : Observer<double> {
    std::vector<std::string> heard;
    void on_input(const std::string& layer, const SharedBatch<double>&) override {
      heard.push_back(layer);
    }
  } names;
  model.layers()[1].hooks->attach(names);
  model.forward(normal<double>(3, 2, rng));
  REQUIRE(names.heard == std::vector<std::string>{"1"});
}

TEST_CASE("The battery leaves out second derivatives where a type-erased layer has none",
          "[nn][gradient]") {
  Rng rng(7);
  const DynamicSequential<double> model({Linear<double>(3, 2, rng), Sequential{Half{}}});
  REQUIRE_FALSE(test::require_battery(model, {3}, 2, rng).backward_tangent.has_value());
}

TEST_CASE("A type-erased layer without second derivatives is named", "[nn][error]") {
  Rng rng(8);
  DynamicSequential<double> model({Linear<double>(3, 2, rng), Half{}});
  const Matrix<double> u = normal<double>(2, 4, rng);
  const Vector<double> direction = normal<double>(model.parameter_count(), 1, rng);
  model.forward(normal<double>(3, 4, rng));
  REQUIRE_THROWS_AS(model.backward_tangent(u, direction, u, model.workspace()), StateError);
  REQUIRE_THROWS_WITH(model.backward_tangent(u, direction, u, model.workspace()),
                      "kfac::Network::backward_tangent: a layer has no second derivatives, "
                      "expected a TwiceDifferentiableLayer (layer '1')");
  REQUIRE(model.layer_sizes() == std::vector<Index>{8, 0});
}

TEST_CASE("DynamicSequential cannot be used empty, or go back through a layer added since",
          "[nn][error]") {
  Rng rng(6);
  DynamicSequential<double> model;
  REQUIRE(model.empty());
  REQUIRE(model.parameter_count() == 0);
  REQUIRE(model.layers().empty());
  REQUIRE_THROWS_AS(model.forward(Matrix<double>::Zero(3, 1)), StateError);
  REQUIRE_THROWS_WITH(model.forward(Matrix<double>::Zero(3, 1)),
                      "kfac::DynamicSequential: used without any layer");
  model.push_back(Linear<double>(3, 3, rng));
  REQUIRE(model.size() == 1);
  model.forward(Matrix<double>::Zero(3, 1));
  model.push_back(Linear<double>(3, 3, rng));
  REQUIRE_THROWS_AS(model.backward(Matrix<double>::Zero(3, 1)), StateError);
  model.forward(Matrix<double>::Zero(3, 1));
  REQUIRE_NOTHROW(model.backward(Matrix<double>::Zero(3, 1)));
}

}  // namespace kfac::test::dynamic_sequential_test
