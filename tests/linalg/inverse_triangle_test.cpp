#include <cmath>
#include <limits>

#include <Eigen/LU>

#include <kfac/core/random.hpp>
#include <kfac/linalg/inverse_triangle.hpp>

#include "support/catch.hpp"
#include "support/random.hpp"
#include "support/with_state_of.hpp"

namespace kfac::test::inverse_triangle_test {

namespace {

using Triangle = linalg::InverseTriangle<double>;

Matrix<double> positive_definite(Index size, Rng& rng) {
  const Matrix<double> x = test::normal<double>(size, size, rng);
  return x * x.transpose() + 0.1 * static_cast<double>(size) * Matrix<double>::Identity(size, size);
}

double relative_error(const Matrix<double>& actual, const Matrix<double>& expected) {
  return (actual - expected).norm() / expected.norm();
}

/// Around where triangles begin to be packed, and where vectors are taken one by one.
constexpr Index kSizes[] = {1, 2, 3, 17, 32, 33, 63, 64, 65, 66, 97, 130, 401};
constexpr Index kCounts[] = {1, 2, 31, 70, 390};

}  // namespace

TEST_CASE("InverseTriangle: products are with the inverse, from either side") {
  Rng rng(1);
  for (const Index size : kSizes) {
    const Matrix<double> c = positive_definite(size, rng);
    Matrix<double> work = c;
    work.triangularView<Eigen::StrictlyUpper>().setConstant(7);
    REQUIRE(Triangle::invert(work) > 0);
    for (Index j = 1; j < size; ++j) CHECK((work.col(j).head(j).array() == 7).all());
    Triangle triangle;
    CHECK(triangle.empty());
    triangle.assign(work);
    const Matrix<double> inverse = c.inverse();
    for (const Index count : kCounts) {
      CAPTURE(size, count);
      const Matrix<double> v = test::normal<double>(size, count, rng);
      Matrix<double> left = v;
      const double inner = triangle.apply_left(left);
      CHECK(relative_error(left, inverse * v) < 1e-12);
      CHECK(std::abs(inner - v.cwiseProduct(left).sum()) < 1e-12 * inner);

      Matrix<double> right = v.transpose();
      triangle.multiply_right(right, true);
      CHECK(std::abs(right.squaredNorm() - inner) < 1e-12 * inner);
      triangle.multiply_right(right, false);
      CHECK(relative_error(right, v.transpose() * inverse) < 1e-12);
    }
  }
}

TEST_CASE("InverseTriangle: parts of larger matrices are multiplied in place") {
  Rng rng(2);
  for (const Index size : {3, 40, 90}) {
    const Matrix<double> c = positive_definite(size, rng);
    Matrix<double> work = c;
    REQUIRE(Triangle::invert(work) > 0);
    Triangle triangle;
    triangle.assign(work);
    Matrix<double> all = Matrix<double>::Constant(size + 2, 50, 5);
    const Matrix<double> v = test::normal<double>(size, 48, rng);
    all.block(1, 1, size, 48) = v;
    triangle.apply_left(all.block(1, 1, size, 48));
    CHECK(relative_error(c * all.block(1, 1, size, 48), v) < 1e-12);
    CHECK((all.row(0).array() == 5).all());
    CHECK((all.row(size + 1).array() == 5).all());
  }
}

TEST_CASE("InverseTriangle: what is not positive definite is told") {
  Rng rng(3);
  for (const Index size : {1, 5, 33, 80}) {
    Matrix<double> indefinite = positive_definite(size, rng);
    indefinite(size - 1, size - 1) = -1;
    CHECK(Triangle::invert(indefinite) == 0);
    Matrix<double> bad = positive_definite(size, rng);
    bad(size / 2, size / 2) = std::numeric_limits<double>::quiet_NaN();
    CHECK(Triangle::invert(bad) == 0);
  }
}

TEST_CASE("InverseTriangle: state of both ways to keep it") {
  Rng rng(4);
  for (const Index size : {4, 70}) {
    Matrix<double> work = positive_definite(size, rng);
    REQUIRE(Triangle::invert(work) > 0);
    Triangle triangle;
    triangle.assign(work);
    const auto copy_of = [&](Triangle& from, const Triangle& to) {
      return with_state_of(from, to, [&](Triangle& object, StateVisitor& visitor) {
        object.visit_state(visitor, size);
      });
    };
    const Triangle copy = copy_of(triangle, {});
    Matrix<double> v = test::normal<double>(size, 3, rng);
    Matrix<double> expected = v;
    triangle.apply_left(expected);
    copy.apply_left(v);
    CHECK(v == expected);
    Triangle none;
    CHECK(copy_of(none, triangle).empty());
  }
}

}  // namespace kfac::test::inverse_triangle_test
