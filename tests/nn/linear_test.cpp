#include <cmath>

#include <kfac/nn/linear.hpp>
#include <kfac/nn/sequential.hpp>

#include "nn/support.hpp"

namespace kfac::test::linear_test {

using kfac::test::between;
using kfac::test::error_of;
using kfac::test::normal;

TEST_CASE("Linear passes the layer battery on vectors, tokens and grids, with a bias or without",
          "[nn][gradient]") {
  Rng rng(1);
  for (int trial = 0; trial < 20; ++trial) {
    const Index inputs = between(1, 6, rng);
    const Linear<double> layer(inputs, between(1, 6, rng), rng, {.bias = trial % 2 == 0});
    Shape shape;
    for (Index axis = between(0, 2, rng); axis > 0; --axis) shape.push_back(between(1, 4, rng));
    shape.push_back(inputs);
    const auto check = test::require_twice_differentiable(layer, shape, between(1, 5, rng), rng);
    REQUIRE(check.kronecker.has_value());
  }
}

TEST_CASE("Linear is W x + b at every shared position", "[nn][exact]") {
  Rng rng(2);
  Linear<double> layer(3, 2, rng);
  const Matrix<double> weight = layer.augmented_weight().leftCols(3);
  const Vector<double> bias = layer.augmented_weight().col(3);
  const Matrix<double> x = normal<double>(12, 5, rng);
  Sequential model(layer);
  const Matrix<double> y = model.forward(x, {4, 3});
  REQUIRE(y.rows() == 8);
  for (Index example = 0; example < 5; ++example)
    for (Index token = 0; token < 4; ++token)
      REQUIRE(error_of(y.block(2 * token, example, 2, 1),
                       weight * x.block(3 * token, example, 3, 1) + bias) < 1e-14);
}

TEST_CASE("Linear announces one column per token, the tokens of an example together",
          "[nn][exact]") {
  Rng rng(3);
  Sequential model(Linear<double>(3, 2, rng));
  testing::detail::AnnouncementKeeper<double> keeper;
  model.layers()[0].hooks->attach(keeper);
  const Matrix<double> x = normal<double>(12, 5, rng);
  model.forward(x, {4, 3});
  const Matrix<double> grad_output = normal<double>(8, 5, rng);
  model.backward(grad_output);
  REQUIRE(keeper.inputs.at(0) == x.reshaped(3, 20));
  REQUIRE(keeper.gradients.at(0) == grad_output.reshaped(2, 20));
}

TEMPLATE_TEST_CASE("Linear is initialised as in PyTorch and by its seed alone", "[nn][property]",
                   float, double) {
  using S = TestType;
  Rng rng(4);
  Linear<S> layer(25, 40, rng);
  const Vector<double> parameters = layer.parameters().template cast<double>();
  REQUIRE(parameters.size() == 40 * 26);
  REQUIRE(parameters.maxCoeff() <= 0.2 + 1e-7);
  REQUIRE(parameters.minCoeff() >= -0.2 - 1e-7);
  REQUIRE(std::abs(parameters.mean()) < 0.02);
  REQUIRE(parameters.squaredNorm() / 1040 == Approx(0.04 / 3).epsilon(0.1));

  Rng same(4);
  REQUIRE(Linear<S>(25, 40, same).parameters() == layer.parameters());
  REQUIRE(Linear<S>(25, 40, same).parameters() != layer.parameters());
}

TEST_CASE("Linear's parameter names and sizes cover its parameters", "[nn][exact]") {
  Rng rng(5);
  const auto info = Linear<float>(3, 2, rng).parameter_info();
  REQUIRE(info.size() == 2);
  REQUIRE(info[0].name == "weight");
  REQUIRE(info[0].offset == 0);
  REQUIRE(info[0].rows == 2);
  REQUIRE(info[0].columns == 3);
  REQUIRE(info[1].name == "bias");
  REQUIRE(info[1].offset == 6);
  REQUIRE(info[1].rows == 2);
  REQUIRE(info[1].columns == 1);
  REQUIRE(Linear<float>(3, 2, rng, {.bias = false}).parameter_info().size() == 1);
  REQUIRE(Linear<float>(3, 2, rng, {.bias = false}).parameter_count() == 6);
}

TEST_CASE("Linear says what is wrong with its sizes and its input", "[nn][error]") {
  Rng rng(6);
  REQUIRE_THROWS_WITH(Linear<double>(0, 2, rng), "kfac::Linear: 'inputs' is 0, expected >= 1");
  REQUIRE_THROWS_WITH(Linear<double>(2, -1, rng), "kfac::Linear: 'outputs' is -1, expected >= 1");
  Sequential model(Linear<double>(3, 2, rng));
  REQUIRE_THROWS_WITH(model.forward(Matrix<double>::Zero(8, 1), {2, 4}),
                      "kfac::Linear: 'input' has shape 2x4, expected 3 features on the last axis "
                      "(layer '0')");
}

}  // namespace kfac::test::linear_test
