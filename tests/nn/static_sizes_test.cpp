#include <functional>

#include <kfac/nn/activations.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/sequential.hpp>

#include "nn/support.hpp"

namespace kfac::test::static_sizes_test {

using kfac::test::error_of;
using kfac::test::normal;

TEST_CASE("Linear of compile-time sizes equals Linear of run-time sizes", "[nn][exact]") {
  using S = float;
  const double tolerance = 1e-6;
  Rng rng(1);
  Rng same(1);
  Sequential fixed{Linear<S, 3, 4>(rng), Tanh<S>{}, Linear<S, 4, 2>(rng, {.bias = false})};
  Sequential dynamic{Linear<S>(3, 4, same), Tanh<S>{}, Linear<S>(4, 2, same, {.bias = false})};
  REQUIRE(fixed.layer<0>().parameters() == dynamic.layer<0>().parameters());
  REQUIRE(fixed.layer<2>().parameters() == dynamic.layer<2>().parameters());

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
  test::require_twice_differentiable(Linear<double, 3, 2>(rng), {4, 3}, 3, rng);
}

TEST_CASE("Linear may have a single output at compile time", "[nn][exact]") {
  Rng rng(5);
  Sequential model{Linear<float, 2, 1>(rng)};
  const Vector<float> parameters = model.layer<0>().parameters();
  const Matrix<float> x = normal<float>(2, 3, rng);
  REQUIRE(error_of(model.forward(x), parameters.head(2).transpose() * x +
                                         Matrix<float>::Constant(1, 3, parameters(2))) < 1e-6);
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

}  // namespace kfac::test::static_sizes_test
