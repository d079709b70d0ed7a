#include <cmath>
#include <limits>

#include <kfac/nn/activations.hpp>
#include <kfac/nn/dynamic_sequential.hpp>

#include "nn/support.hpp"

using namespace kfac;
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

}  // namespace

TEMPLATE_TEST_CASE("Activations pass the layer battery", "[nn][gradient]", ReLU<double>,
                   Tanh<double>, Sigmoid<double>, GELU<double>, Softplus<double>,
                   Identity<double>) {
  Rng rng(1);
  for (int trial = 0; trial < 5; ++trial) {
    const Shape shape{between(1, 3, rng), between(1, 4, rng)};
    const auto check = test::require_battery(TestType{}, shape, between(1, 5, rng), rng);
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
    REQUIRE(at<Identity<double>>(x) == x);
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
}
