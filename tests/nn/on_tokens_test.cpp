#include <kfac/nn/activations.hpp>
#include <kfac/nn/global_pooling.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/on_tokens.hpp>

#include "nn/support.hpp"

namespace kfac::test::on_tokens_test {

using kfac::test::normal;

TEST_CASE("OnTokens passes the layer battery", "[nn][gradient]") {
  Rng rng(1);
  const Linear<double> linear(2, 3, rng);
  const auto check =
      test::require_twice_differentiable(OnTokens(1, 2, linear, Tanh<double>{}), {4, 2}, 3, rng);
  REQUIRE(check.kronecker.has_value());
  test::require_twice_differentiable(OnTokens(0, 4, Identity<double>{}), {4, 2}, 2, rng);
  test::require_twice_differentiable(OnTokens(2, 0, MeanTokens<double>{}), {4, 1, 3}, 2, rng);
}

TEST_CASE("OnTokens passes on its tokens alone", "[nn][exact]") {
  Rng rng(2);
  const Matrix<double> x = normal<double>(12, 3, rng);
  const Shape shape{4, 3};
  Sequential middle{OnTokens(1, 2, Identity<double>{})};
  REQUIRE(middle.output_shape(shape) == Shape{2, 3});
  REQUIRE(middle.forward(x, shape) == x.middleRows(3, 6));
  Sequential rest{OnTokens(1, 0, Identity<double>{})};
  REQUIRE(rest.output_shape(shape) == Shape{3, 3});
  REQUIRE(rest.forward(x, shape) == x.bottomRows(9));
}

TEST_CASE("OnTokens gives its layers the mask of their tokens", "[nn][exact]") {
  Rng rng(3);
  const Matrix<double> x = normal<double>(8, 2, rng);
  Sequential model{OnTokens(1, 3, MeanTokens<double>{})};
  PositionMask mask(4, 2);
  mask << false, true, true, true, true, false, false, true;
  model.set_mask(&mask);
  const Matrix<double> y = model.forward(x, Shape{4, 2});
  CHECK(y.col(0).isApprox((x.col(0).segment(2, 2) + x.col(0).segment(4, 2)) / 2, 1e-15));
  CHECK(y.col(1).isApprox((x.col(1).segment(2, 2) + x.col(1).segment(6, 2)) / 2, 1e-15));
  const PositionMask fewer = mask.leftCols(1);
  model.set_mask(&fewer);
  CHECK_THROWS_WITH(model.forward(x, Shape{4, 2}),
                    "kfac::OnTokens: 'mask' has 1 examples, expected 2 (layer '0')");
}

TEST_CASE("OnTokens: misuse is named", "[nn][error]") {
  CHECK_THROWS_WITH(OnTokens(-1, 2, Identity<double>{}),
                    "kfac::OnTokens: 'first' is -1, expected >= 0");
  CHECK_THROWS_WITH(OnTokens(0, -2, Identity<double>{}),
                    "kfac::OnTokens: 'count' is -2, expected >= 0");
  Sequential model{OnTokens(2, 3, Identity<double>{})};
  CHECK_THROWS_WITH(model.forward(Matrix<double>::Zero(8, 1), Shape{4, 2}),
                    "kfac::OnTokens: 'input' has shape 4x2, expected at least 5 tokens x features "
                    "(layer '0')");
  CHECK_THROWS_WITH(model.forward(Matrix<double>::Zero(8, 1)),
                    "kfac::OnTokens: 'input' has shape 8, expected at least 5 tokens x features "
                    "(layer '0')");
}

}  // namespace kfac::test::on_tokens_test
