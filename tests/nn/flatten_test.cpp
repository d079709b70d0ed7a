#include <kfac/nn/dynamic_sequential.hpp>
#include <kfac/nn/flatten.hpp>

#include "nn/support.hpp"

namespace kfac::test::flatten_test {

using kfac::test::normal;

TEST_CASE("Flatten and Unflatten pass the layer battery", "[nn][gradient]") {
  Rng rng(1);
  test::require_twice_differentiable(Flatten<double>{}, {2, 3, 4}, 3, rng);
  test::require_twice_differentiable(Flatten<double>{}, {5}, 1, rng);
  test::require_twice_differentiable(Unflatten<double>({2, 3, 4}), {24}, 3, rng);
}

TEMPLATE_TEST_CASE("Flatten and Unflatten change the shape and not the entries", "[nn][exact]",
                   float, double) {
  using S = TestType;
  Rng rng(2);
  DynamicSequential<S> model({Unflatten<S>({1, 4, 3}), Flatten<S>{}});
  REQUIRE(Unflatten<S>({1, 4, 3}).output_shape({12}) == Shape{1, 4, 3});
  REQUIRE(Flatten<S>{}.output_shape({1, 4, 3}) == Shape{12});
  const Matrix<S> x = normal<S>(12, 5, rng);
  REQUIRE(model.forward(x) == x);
}

TEST_CASE("Unflatten says what is wrong with its input", "[nn][error]") {
  DynamicSequential<double> model({Unflatten<double>({1, 28, 28})});
  REQUIRE_THROWS_WITH(
      model.forward(Matrix<double>::Zero(783, 1)),
      "kfac::Unflatten: 'input' has shape 783, expected 784, the entries of 1x28x28 (layer '0')");
  REQUIRE_THROWS_AS(model.forward(Matrix<double>::Zero(784, 1), {28, 28}), ShapeError);
}

}  // namespace kfac::test::flatten_test
