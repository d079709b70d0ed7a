#include <kfac/nn/activations.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/residual.hpp>

#include "nn/support.hpp"

namespace kfac::test::residual_test {

using kfac::test::error_of;
using kfac::test::normal;

TEST_CASE("Residual passes the layer battery, nested too", "[nn][gradient]") {
  Rng rng(1);
  const Residual block(Linear<double>(3, 4, rng), Tanh<double>{}, Linear<double>(4, 3, rng));
  const auto check = test::require_twice_differentiable(block, {2, 3}, 4, rng);
  REQUIRE(check.kronecker.has_value());
  test::require_twice_differentiable(Residual(block, Linear<double>(3, 3, rng)), {3}, 4, rng);
}

TEST_CASE("Residual adds its input to its block's output", "[nn][exact]") {
  Rng rng(2);
  const Linear<double> linear(3, 3, rng);
  const Matrix<double> x = normal<double>(3, 5, rng);
  Sequential plain(linear);
  Sequential model{Residual(linear)};
  REQUIRE(error_of(model.forward(x), x + Matrix<double>(plain.forward(x))) < 1e-15);
}

TEST_CASE("Residual names the leaves of its block in order", "[nn][exact]") {
  Rng rng(3);
  Sequential model(Linear<double>(2, 3, rng), Residual(Linear<double>(3, 3, rng), ReLU<double>{}));
  const auto layers = model.layers();
  REQUIRE(layers.size() == 3);
  REQUIRE(layers[1].name == "1.0");
  REQUIRE(layers[1].kind == "Linear");
  REQUIRE(layers[2].name == "1.1");
  REQUIRE(model.layer_sizes() == std::vector<Index>{9, 12, 0});
}

TEST_CASE("Residual refuses a block that changes the shape, by its name", "[nn][error]") {
  Rng rng(4);
  Sequential model(ReLU<double>{}, Residual(Linear<double>(3, 2, rng)));
  REQUIRE_THROWS_WITH(model.forward(Matrix<double>::Zero(3, 1)),
                      "kfac::Residual: the block's output has shape 2, expected that of its input, "
                      "3 (layer '1')");
  REQUIRE_THROWS_WITH(model.forward(Matrix<double>::Zero(4, 1)),
                      "kfac::Linear: 'input' has shape 4, expected 3 features on the last axis "
                      "(layer '1.0')");
}

}  // namespace kfac::test::residual_test
