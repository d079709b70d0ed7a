#include <kfac/nn/dropout.hpp>
#include <kfac/nn/dynamic_sequential.hpp>

#include "nn/support.hpp"

namespace kfac::test::dropout_test {

using kfac::test::normal;

namespace {

template <class S>
DynamicSequential<S> dropout(double p, std::uint64_t seed) {
  Rng rng(seed);
  return DynamicSequential<S>({Dropout<S>(p, rng)});
}

}  // namespace

TEST_CASE("Dropout passes the layer battery", "[nn][gradient]") {
  Rng rng(1);
  for (const double p : {0.0, 0.3, 0.9})
    test::require_twice_differentiable(Dropout<double>(p, rng), {3, 4}, 3, rng);
}

TEMPLATE_TEST_CASE("Dropout in training zeroes a fraction p and rescales the rest", "[nn][exact]",
                   float, double) {
  using S = TestType;
  auto model = dropout<S>(0.25, 2);
  const Matrix<S> y = model.forward(Matrix<S>::Ones(100, 200));
  const auto zeros = (y.array() == 0).count();
  const auto kept = (y.array() == S(1 / 0.75)).count();
  REQUIRE(zeros + kept == 20000);
  REQUIRE(static_cast<double>(zeros) == Approx(5000).margin(5 * 61.2));  // five standard deviations
}

TEST_CASE("Dropout in evaluation does nothing, forwards or backwards", "[nn][exact]") {
  Rng rng(3);
  auto model = dropout<double>(0.5, 3);
  const Matrix<double> x = normal<double>(10, 5, rng);
  REQUIRE(model.forward(x) != x);
  model.eval();
  REQUIRE(model.forward(x) == x);
  REQUIRE(model.input_gradient(x) == x);
  model.train();
  REQUIRE(model.forward(x) != x);
}

TEST_CASE("Dropout goes back with the mask of the last forward pass", "[nn][exact]") {
  auto model = dropout<double>(0.5, 4);
  const Matrix<double> ones = Matrix<double>::Ones(50, 4);
  const Matrix<double> first = model.forward(ones);
  const Matrix<double> second = model.forward(ones);
  REQUIRE(first != second);
  REQUIRE(model.input_gradient(ones) == second);
  REQUIRE(model.input_gradient(ones) == second);
}

TEST_CASE("Dropout's masks are those of its seed, in every new workspace", "[nn][property]") {
  auto model = dropout<double>(0.5, 5);
  const Matrix<double> ones = Matrix<double>::Ones(50, 4);
  const Matrix<double> first = model.forward(ones);
  const Matrix<double> second = model.forward(ones);
  auto workspace = model.make_workspace();
  REQUIRE(model.forward(ones, workspace) == first);
  REQUIRE(model.forward(ones, workspace) == second);
  REQUIRE(dropout<double>(0.5, 5).forward(ones) == first);
  REQUIRE(dropout<double>(0.5, 6).forward(ones) != first);
}

TEST_CASE("Dropout refuses a probability of one or more, or below zero", "[nn][error]") {
  Rng rng(7);
  REQUIRE_THROWS_WITH(Dropout<double>(1.0, rng), "kfac::Dropout: 'p' is 1, expected 0 <= p < 1");
  REQUIRE_THROWS_AS(Dropout<double>(-0.1, rng), OptionError);
}

}  // namespace kfac::test::dropout_test
