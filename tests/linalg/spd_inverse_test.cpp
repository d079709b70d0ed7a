#include <Eigen/LU>

#include <kfac/core/random.hpp>
#include <kfac/linalg/spd_inverse.hpp>

#include "support/catch.hpp"

namespace kfac::test::spd_inverse_test {

namespace {

Matrix<double> random_spd(Index size, Rng& rng) {
  Matrix<double> x(size, size + 3);
  rng.fill_normal(x);
  return x * x.transpose() / static_cast<double>(size) + 0.1 * Matrix<double>::Identity(size, size);
}

}  // namespace

TEST_CASE("invert_spd: equals the dense inverse on both sides of every block size") {
  Rng rng(1);
  for (const Index size : {1, 2, 3, 31, 32, 33, 64, 65, 97, 130}) {
    const Matrix<double> matrix = random_spd(size, rng);
    Matrix<double> inverse = matrix;
    CHECK(linalg::invert_spd<double>(inverse) > 0);
    CHECK((inverse * matrix - Matrix<double>::Identity(size, size)).norm() < 1e-10);
    CHECK((inverse - matrix.inverse()).norm() < 1e-10 * inverse.norm());
    CHECK(inverse == inverse.transpose());
  }
}

TEST_CASE("invert_spd: reads the lower triangle only") {
  Rng rng(2);
  const Matrix<double> matrix = random_spd(40, rng);
  Matrix<double> spoiled = matrix;
  spoiled.triangularView<Eigen::StrictlyUpper>().setConstant(99.0);
  Matrix<double> inverse = matrix;
  linalg::invert_spd<double>(inverse);
  linalg::invert_spd<double>(spoiled);
  CHECK(spoiled == inverse);
}

TEST_CASE("invert_spd: works on a badly scaled matrix and inside a larger one") {
  Rng rng(3);
  const Matrix<double> matrix = random_spd(20, rng);
  Vector<double> scale(20);
  for (Index i = 0; i < 20; ++i) scale(i) = std::pow(10.0, static_cast<double>(i % 9) - 4.0);
  const Matrix<double> bad = scale.asDiagonal() * matrix * scale.asDiagonal();
  Matrix<double> large = Matrix<double>::Constant(30, 30, 7.0);
  large.block(5, 5, 20, 20) = bad;
  CHECK(linalg::invert_spd<double>(large.block(5, 5, 20, 20)) > 0);
  const Matrix<double> expected =
      scale.cwiseInverse().asDiagonal() * matrix.inverse() * scale.cwiseInverse().asDiagonal();
  const Matrix<double> inverse = large.block(5, 5, 20, 20);
  CHECK(((inverse - expected).array() / expected.array()).abs().maxCoeff() < 1e-8);
  CHECK(large(4, 4) == 7.0);
  CHECK(large(25, 25) == 7.0);
}

TEST_CASE("invert_spd: says by 0 or a tiny pivot ratio what cannot be inverted") {
  Matrix<double> indefinite = Matrix<double>::Identity(3, 3);
  indefinite(1, 1) = -1;
  CHECK(linalg::invert_spd<double>(indefinite) == 0);

  Matrix<double> not_a_number = Matrix<double>::Identity(3, 3);
  not_a_number(2, 2) = std::numeric_limits<double>::quiet_NaN();
  CHECK(linalg::invert_spd<double>(not_a_number) == 0);

  Matrix<double> singular = Matrix<double>::Ones(3, 3);
  CHECK(linalg::invert_spd<double>(singular) < 1e-15);

  Matrix<double> none(0, 0);
  CHECK(linalg::invert_spd<double>(none) == 1);
}

}  // namespace kfac::test::spd_inverse_test
