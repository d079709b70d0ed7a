#include <cmath>
#include <limits>

#include <kfac/nn/activations.hpp>
#include <kfac/nn/dynamic_sequential.hpp>

#include "nn/support.hpp"

namespace kfac::test::activations_test {

using kfac::test::between;
using kfac::test::normal;

namespace {

/// The activation at one number.
template <class L>
typename L::Scalar at(typename L::Scalar x) {
  using S = typename L::Scalar;
  DynamicSequential<S> model({L{}});
  return model.forward(Matrix<S>::Constant(1, 1, x))(0, 0);
}

/// Its derivative there.
template <class L>
typename L::Scalar slope_at(typename L::Scalar x) {
  using S = typename L::Scalar;
  DynamicSequential<S> model({L{}});
  model.forward(Matrix<S>::Constant(1, 1, x));
  return model.input_gradient(Matrix<S>::Ones(1, 1))(0, 0);
}

/// Its second derivative there.
template <class L>
typename L::Scalar curvature_at(typename L::Scalar at) {
  using S = typename L::Scalar;
  typename L::Scratch scratch;
  const Matrix<S> x = Matrix<S>::Constant(1, 1, at);
  const Matrix<S> one = Matrix<S>::Ones(1, 1);
  const Matrix<S> zero = Matrix<S>::Zero(1, 1);
  Matrix<S> y(1, 1);
  Matrix<S> result(1, 1);
  const auto view = [](const Matrix<S>& values) {
    return ConstBatchView<S>({values.data(), 1, 1}, {1});
  };
  const ConstBatchView<S> tangent = view(one);
  BatchView<S> into{{result.data(), 1, 1}, {1}};
  L{}.forward(view(x), {{y.data(), 1, 1}, {1}}, scratch, {});
  L{}.backward_tangent(view(x), view(y), view(one), &tangent, nullptr, view(zero), &into, nullptr,
                       scratch);
  return result(0, 0);
}

/// A user's function that does not give its second derivative.
struct Square {
  static const char* kind() { return "Square"; }
  template <class X, class Y>
  static void value(const X& x, Y&& y) {
    y = x.square();
  }
  template <class X, class Y, class D>
  static void derivative(const X& x, const Y&, D&& d) {
    d = 2 * x;
  }
};

static_assert(Layer<Activation<double, Square>>);
static_assert(!TwiceDifferentiableLayer<Activation<double, Square>>);
static_assert(TwiceDifferentiableLayer<GELU<float>>);

}  // namespace

TEMPLATE_TEST_CASE("Activations pass the layer battery", "[nn][gradient]", ReLU<double>,
                   Tanh<double>, Sigmoid<double>, GELU<double>, Softplus<double>, Sine<double>,
                   Identity<double>) {
  Rng rng(1);
  for (int trial = 0; trial < 5; ++trial) {
    const Shape shape{between(1, 3, rng), between(1, 4, rng)};
    const auto check =
        test::require_twice_differentiable(TestType{}, shape, between(1, 5, rng), rng);
    REQUIRE_FALSE(check.kronecker.has_value());
  }
}

TEST_CASE("Activations have the values of their definitions", "[nn][exact]") {
  for (const double x : {-3.0, -0.5, 0.0, 0.25, 2.0}) {
    REQUIRE(at<ReLU<double>>(x) == std::max(x, 0.0));
    REQUIRE(at<Tanh<double>>(x) == Approx(std::tanh(x)).margin(1e-15));
    REQUIRE(at<Sigmoid<double>>(x) == Approx(1 / (1 + std::exp(-x))));
    REQUIRE(at<GELU<double>>(x) == Approx(x * (1 + std::erf(x / std::sqrt(2.0))) / 2));
    REQUIRE(at<Softplus<double>>(x) == Approx(std::log(1 + std::exp(x))));
    REQUIRE(at<Sine<double>>(x) == Approx(std::sin(x)).margin(1e-15));
    REQUIRE(at<Identity<double>>(x) == x);
  }
}

TEST_CASE("Activations have the second derivatives of their definitions", "[nn][exact]") {
  for (const double x : {-3.0, -0.5, 0.0, 0.25, 2.0}) {
    const double s = 1 / (1 + std::exp(-x));
    const double t = std::tanh(x);
    const double density = std::exp(-x * x / 2) / std::sqrt(2 * 3.14159265358979324);
    REQUIRE(curvature_at<ReLU<double>>(x) == 0);
    REQUIRE(curvature_at<Tanh<double>>(x) == Approx(-2 * t * (1 - t * t)).margin(1e-15));
    REQUIRE(curvature_at<Sigmoid<double>>(x) == Approx(s * (1 - s) * (1 - 2 * s)).margin(1e-15));
    REQUIRE(curvature_at<GELU<double>>(x) == Approx((2 - x * x) * density));
    REQUIRE(curvature_at<Softplus<double>>(x) == Approx(s * (1 - s)));
    REQUIRE(curvature_at<Sine<double>>(x) == Approx(-std::sin(x)).margin(1e-15));
    REQUIRE(curvature_at<Identity<double>>(x) == 0);
  }
}

TEST_CASE("An activation passes the battery without second derivatives", "[nn][gradient]") {
  Rng rng(2);
  const auto check = test::require_battery(Activation<double, Square>{}, {3}, 4, rng);
  REQUIRE_FALSE(check.backward_tangent.has_value());
}

TEMPLATE_TEST_CASE("Softplus has its derivatives to full precision where they are tiny",
                   "[nn][exact]", float, double) {
  using S = TestType;
  const double epsilon = 20 * static_cast<double>(std::numeric_limits<S>::epsilon());
  for (const double x : {-40.0, -20.0, -5.0, -0.1, 3.0}) {
    const double s = 1 / (1 + std::exp(-x));
    const auto slope = static_cast<double>(slope_at<Softplus<S>>(static_cast<S>(x)));
    const auto curvature = static_cast<double>(curvature_at<Softplus<S>>(static_cast<S>(x)));
    REQUIRE(slope == Approx(s).epsilon(epsilon));
    REQUIRE(curvature == Approx(s / (1 + std::exp(x))).epsilon(epsilon));
  }
}

TEST_CASE("ReLU has the derivative 0 at 0", "[nn][exact]") {
  REQUIRE(slope_at<ReLU<double>>(0) == 0);
}

TEMPLATE_TEST_CASE("Activations saturate without overflow", "[nn][exact]", float, double) {
  using S = TestType;
  const S large = S(1e4);
  REQUIRE(at<Sigmoid<S>>(large) == 1);
  REQUIRE(at<Sigmoid<S>>(-large) == 0);
  REQUIRE(at<Tanh<S>>(-large) == -1);
  REQUIRE(at<Softplus<S>>(large) == large);
  REQUIRE(at<Softplus<S>>(-large) == 0);
  REQUIRE(at<GELU<S>>(large) == large);
  REQUIRE(at<GELU<S>>(-large) == 0);
  REQUIRE(slope_at<Softplus<S>>(large) == 1);
  REQUIRE(slope_at<Softplus<S>>(-large) == 0);
  REQUIRE(slope_at<GELU<S>>(large) == 1);
  REQUIRE(slope_at<GELU<S>>(-large) == 0);
  REQUIRE(slope_at<Sigmoid<S>>(large) == 0);
  for (const S x : {large, -large, S(1e30)}) {
    REQUIRE(curvature_at<Sigmoid<S>>(x) == 0);
    REQUIRE(curvature_at<Tanh<S>>(x) == 0);
    REQUIRE(curvature_at<Softplus<S>>(x) == 0);
    REQUIRE(curvature_at<GELU<S>>(x) == 0);
  }
}

}  // namespace kfac::test::activations_test
