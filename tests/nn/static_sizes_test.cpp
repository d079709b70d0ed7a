#include <functional>

#include <kfac/nn/activations.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/sequential.hpp>

#include "nn/support.hpp"

using namespace kfac;
using kfac::test::error_of;
using kfac::test::normal;

TEMPLATE_TEST_CASE("Linear of compile-time sizes equals Linear of run-time sizes", "[nn][exact]",
                   float, double) {
  using S = TestType;
  const double tolerance = 10 * static_cast<double>(std::numeric_limits<S>::epsilon());
  Rng rng(1);
  Rng same(1);
  Sequential fixed{Linear<S, 3, 4>(rng), Tanh<S>{}, Linear<S, 4, 2>(rng, {.bias = false})};
  Sequential dynamic{Linear<S>(3, 4, same), Tanh<S>{}, Linear<S>(4, 2, same, {.bias = false})};
  REQUIRE(fixed.template layer<0>().parameters() == dynamic.template layer<0>().parameters());
  REQUIRE(fixed.template layer<2>().parameters() == dynamic.template layer<2>().parameters());

  const Matrix<S> x = normal<S>(3, 6, rng);
  const Matrix<S> grad_output = normal<S>(2, 6, rng);
  const Vector<S> direction = normal<S>(fixed.parameter_count(), 1, rng);
  REQUIRE(error_of(fixed.forward(x), dynamic.forward(x)) < tolerance);
  REQUIRE(error_of(fixed.tangent(direction), dynamic.tangent(direction)) < tolerance);
  REQUIRE(error_of(fixed.input_gradient(grad_output), dynamic.input_gradient(grad_output)) <
          tolerance);
  REQUIRE(error_of(fixed.gradient(), dynamic.gradient()) < tolerance);
}

TEST_CASE("Linear of compile-time sizes passes the layer battery", "[nn][gradient]") {
  Rng rng(2);
  test::require_battery(Linear<double, 3, 2>(rng), {4, 3}, 3, rng);
  test::require_battery(Linear<double, 1, 1>(rng, {.bias = false}), {1}, 2, rng);
}

TEST_CASE("Linear of compile-time sizes stores its parameters in the object", "[nn][exact]") {
  Rng rng(3);
  Linear<float, 3, 2> layer(rng);
  const void* parameters = layer.parameters().data();
  REQUIRE(std::greater_equal<const void*>{}(parameters, &layer));
  REQUIRE(std::less<const void*>{}(parameters, &layer + 1));
}

TEST_CASE("Linear refuses run-time sizes that differ from its compile-time ones", "[nn][error]") {
  Rng rng(4);
  using Fixed = Linear<float, 3, 2>;
  REQUIRE_NOTHROW(Fixed(3, 2, rng));
  REQUIRE_THROWS_WITH(Fixed(4, 2, rng),
                      "kfac::Linear: 'inputs' is 4, expected the template argument");
  REQUIRE_THROWS_WITH(Fixed(3, 1, rng),
                      "kfac::Linear: 'outputs' is 1, expected the template argument");
}
