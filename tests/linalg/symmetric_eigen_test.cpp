#include <cmath>
#include <limits>
#include <string>

#include <kfac/core/random.hpp>
#include <kfac/linalg/spd_inverse.hpp>
#include <kfac/linalg/symmetric_eigen.hpp>

#include "support/catch.hpp"
#include "support/eigensolver.hpp"
#include "support/random.hpp"

namespace kfac::test::symmetric_eigen_test {

using kfac::linalg::SymmetricEigen;

namespace {

Matrix<double> rebuild(const SymmetricEigen<double>& eigen) {
  return eigen.vectors * eigen.values.asDiagonal() * eigen.vectors.transpose();
}

}  // namespace

TEST_CASE("SymmetricEigen: rebuilds matrices of any size, rank and scale") {
  Rng rng(1);
  for (int trial = 0; trial < 200; ++trial) {
    const Index size = 1 + rng.below(12);
    const Index rank = rng.below(size + 3);
    const double scale = std::pow(10.0, rng.uniform(-8, 8));
    const Matrix<double> x = scale * test::normal<double>(size, rank, rng);
    const Matrix<double> matrix = x * x.transpose();
    SymmetricEigen<double> eigen;
    REQUIRE(eigen.compute(matrix));
    REQUIRE(eigen.size() == size);
    REQUIRE((rebuild(eigen) - matrix).norm() <= 1e-13 * matrix.norm());
    const Matrix<double> gram = eigen.vectors.transpose() * eigen.vectors;
    REQUIRE((gram - Matrix<double>::Identity(size, size)).norm() < 1e-13);
    REQUIRE(eigen.values.minCoeff() >= 0);
    for (Index i = 1; i < size; ++i) REQUIRE(eigen.values(i - 1) <= eigen.values(i));
  }
}

TEST_CASE("SymmetricEigen: reads the lower triangle only") {
  Rng rng(2);
  const Matrix<double> x = test::normal<double>(7, 9, rng);
  Matrix<double> matrix = x * x.transpose();
  SymmetricEigen<double> whole, lower;
  REQUIRE(whole.compute(matrix));
  matrix.triangularView<Eigen::StrictlyUpper>().setConstant(
      std::numeric_limits<double>::quiet_NaN());
  REQUIRE(lower.compute(matrix));
  CHECK(lower.values == whole.values);
  CHECK(lower.vectors == whole.vectors);
}

TEST_CASE("SymmetricEigen: eigenvalues that round-off made negative are zero") {
  const Matrix<double> matrix{{1.0, 1.0}, {1.0, 1.0 - 1e-12}};
  SymmetricEigen<double> eigen;
  REQUIRE(eigen.compute(matrix));
  CHECK(eigen.values(0) == 0);
  CHECK(eigen.values(1) == Approx(2.0));
}

TEST_CASE("SymmetricEigen: keeps what was there when a number is not finite") {
  SymmetricEigen<double> eigen;
  REQUIRE(eigen.compute(Matrix<double>::Identity(3, 3)));
  const SymmetricEigen<double> before = eigen;
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    Matrix<double> matrix = Matrix<double>::Identity(4, 4);
    matrix(2, 1) = bad;
    CHECK_FALSE(eigen.compute(matrix));
    CHECK(eigen.vectors == before.vectors);
    CHECK(eigen.values == before.values);
  }
}

TEST_CASE("SymmetricEigen: refuses what is not square or is empty") {
  SymmetricEigen<double> eigen;
  for (const Index rows : {2, 0}) {
    const Matrix<double> matrix = Matrix<double>::Zero(rows, rows == 2 ? 3 : 0);
    std::string message;
    try {
      eigen.compute(matrix);
    } catch (const ShapeError& error) {
      message = error.what();
    }
    const std::string size = rows == 2 ? "2x3" : "0x0";
    CHECK(message == "kfac::linalg::SymmetricEigen::compute: 'matrix' is " + size +
                         ", expected a square matrix that is not empty");
  }
  CHECK(eigen.size() == 0);
}

TEST_CASE("SymmetricEigen: an ill-conditioned float factor is decomposed as accurately as stored") {
  Rng rng(3);
  for (int trial = 0; trial < 20; ++trial) {
    // Scaled rows and columns: storing in float keeps every eigenvalue to float accuracy relative
    // to itself, while arithmetic in float would bury those below 1e-7 of the largest.
    const Index size = 10 + rng.below(30);
    const Matrix<double> x = test::normal<double>(size, 4 * size, rng);
    Vector<double> scale(size);
    for (Index i = 0; i < size; ++i) scale(i) = std::pow(10.0, rng.uniform(-6, 0));
    const Matrix<float> factor =
        (scale.asDiagonal() * (x * x.transpose()) * scale.asDiagonal()).cast<float>();

    SymmetricEigen<float> eigen;
    REQUIRE(eigen.compute(factor));
    const double condition = static_cast<double>(eigen.values(size - 1) / eigen.values(0));
    REQUIRE(condition > 1e7);
    const Vector<double> values = eigen.values.cast<double>();
    Matrix<double> inverse = factor.cast<double>();
    REQUIRE(linalg::invert_spd<double>(inverse) > 0);
    CHECK(std::abs(values.cwiseInverse().sum() / inverse.trace() - 1) < 1e-3);
    const Matrix<double> vectors = eigen.vectors.cast<double>();
    const Matrix<double> rebuilt = vectors * values.asDiagonal() * vectors.transpose();
    CHECK((rebuilt - factor.cast<double>()).norm() < 3e-7 * values(size - 1));
    const Matrix<double> gram = vectors.transpose() * vectors;
    CHECK((gram - Matrix<double>::Identity(size, size)).cwiseAbs().maxCoeff() < 5e-7);
  }
}

}  // namespace kfac::test::symmetric_eigen_test
