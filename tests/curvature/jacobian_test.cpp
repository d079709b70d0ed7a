#include <kfac/curvature/jacobian.hpp>
#include <kfac/nn/activations.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/residual.hpp>

#include "support/catch.hpp"
#include "support/exact.hpp"

namespace kfac::test::jacobian_test {

namespace {

auto network(Rng& rng) {
  return Sequential{Linear<double>(3, 4, rng), Tanh<double>{},
                    Residual(Linear<double>(4, 4, rng), GELU<double>{}), Linear<double>(4, 2, rng)};
}

}  // namespace

TEST_CASE("Jacobian: the dense form agrees with central differences of the outputs") {
  Rng rng(1);
  auto model = network(rng);
  const Matrix<double> x = normal<double>(3, 5, rng);
  const Jacobian jacobian(model, x);
  REQUIRE(jacobian.rows() == 10);
  REQUIRE(jacobian.cols() == model.parameter_count());
  REQUIRE(jacobian.outputs() == model.forward(x));
  const Matrix<double> dense = jacobian.dense();
  for (Index j = 0; j < jacobian.cols(); ++j) {
    const Matrix<double> slope = derivative_along(model, Vector<double>::Unit(jacobian.cols(), j),
                                                  [&] { return Matrix<double>(model.forward(x)); });
    CHECK((dense.col(j) - slope.reshaped()).norm() < 1e-9);
  }
}

TEST_CASE("Jacobian: products and those of the transpose are those of the dense matrix") {
  Rng rng(2);
  auto model = network(rng);
  const Jacobian jacobian(model, normal<double>(3, 5, rng));
  const Matrix<double> dense = jacobian.dense();
  const Matrix<double> v = normal<double>(jacobian.cols(), 3, rng);
  const Matrix<double> u = normal<double>(jacobian.rows(), 4, rng);
  CHECK(relative_error(jacobian * v, dense * v) < 1e-13);
  CHECK(relative_error(jacobian * v.col(1), dense * v.col(1)) < 1e-13);
  const auto transpose = jacobian.transpose();
  CHECK(transpose.rows() == jacobian.cols());
  CHECK(transpose.cols() == jacobian.rows());
  CHECK(relative_error(transpose * u, dense.transpose() * u) < 1e-13);
  CHECK(relative_error(transpose * u.col(2), dense.transpose() * u.col(2)) < 1e-13);
}

TEST_CASE("Jacobian: on slices of a data set it is the one of all examples") {
  Rng rng(3);
  auto model = network(rng);
  const Dataset<double> data{normal<double>(3, 7, rng), Labels::Zero(7)};
  const Jacobian whole(model, data.inputs);
  const Jacobian sliced(model, slices(data, 3));
  const Matrix<double> v = normal<double>(whole.cols(), 2, rng);
  const Matrix<double> u = normal<double>(whole.rows(), 2, rng);
  CHECK(relative_error(sliced.outputs(), whole.outputs()) < 1e-15);
  CHECK(relative_error(sliced.dense(), whole.dense()) < 1e-14);
  CHECK(relative_error(sliced * v, whole * v) < 1e-14);
  CHECK(relative_error(sliced.transpose() * u, whole.transpose() * u) < 1e-14);
}

TEST_CASE("Jacobian: vectors and data that do not fit are named") {
  Rng rng(4);
  auto model = network(rng);
  const Matrix<double> x = normal<double>(3, 5, rng);
  const Jacobian jacobian(model, x);
  CHECK_THROWS_WITH(jacobian * Vector<double>::Zero(3),
                    "kfac::Jacobian: 'v' has 3 rows, expected 46");
  CHECK_THROWS_AS(jacobian * Vector<double>::Zero(3), ShapeError);
  CHECK_THROWS_WITH(jacobian.transpose() * Vector<double>::Zero(3),
                    "kfac::TransposedJacobian: 'u' has 3 rows, expected 10");
  CHECK_THROWS_AS(Jacobian(model, x.topRows(2)), ShapeError);
}

}  // namespace kfac::test::jacobian_test
