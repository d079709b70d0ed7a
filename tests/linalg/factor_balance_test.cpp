#include <algorithm>
#include <cmath>
#include <limits>

#include <kfac/core/random.hpp>
#include <kfac/linalg/factor_balance.hpp>
#include <kfac/linalg/symmetric_eigen.hpp>

#include "support/catch.hpp"
#include "support/eigensolver.hpp"
#include "support/random.hpp"

namespace kfac::test::factor_balance_test {

using linalg::factor_balance;

namespace {

constexpr FactorBalance kBalances[] = {FactorBalance::None, FactorBalance::Trace,
                                       FactorBalance::Frobenius, FactorBalance::OneNorm,
                                       FactorBalance::Spectral};

Matrix<double> random_factor(Index size, Index rank, double scale, Rng& rng) {
  const Matrix<double> x = test::normal<double>(size, rank, rng);
  return scale * x * x.transpose();
}

/// From the eigenvalues, but for the 1-norm.
double norm(FactorBalance balance, const Matrix<double>& matrix) {
  linalg::SymmetricEigen<double> eigen;
  REQUIRE(eigen.compute(matrix));
  switch (balance) {
    case FactorBalance::None:
      return 1;
    case FactorBalance::Trace:
      return eigen.values.mean();
    case FactorBalance::Frobenius:
      return std::sqrt(eigen.values.squaredNorm() / static_cast<double>(eigen.size()));
    case FactorBalance::OneNorm:
      return matrix.cwiseAbs().colwise().sum().maxCoeff();
    case FactorBalance::Spectral:
      return eigen.values.maxCoeff();
  }
  return 0;
}

}  // namespace

TEST_CASE("factor_balance: is the root of the ratio of the factors' norms") {
  Rng rng(1);
  for (int trial = 0; trial < 200; ++trial) {
    const Index inputs = 1 + rng.below(12);
    const Index outputs = 1 + rng.below(12);
    const Matrix<double> a =
        random_factor(inputs, 1 + rng.below(inputs + 3), std::pow(10.0, rng.uniform(-8, 8)), rng);
    const Matrix<double> g =
        random_factor(outputs, 1 + rng.below(outputs + 3), std::pow(10.0, rng.uniform(-8, 8)), rng);
    for (const FactorBalance balance : kBalances) {
      const double expected = std::sqrt(norm(balance, a) / norm(balance, g));
      const double tolerance = balance == FactorBalance::Spectral ? 0.1 : 1e-13;
      CHECK(std::abs(factor_balance<double>(balance, a, g) / expected - 1) < tolerance);
    }
  }
}

TEST_CASE("factor_balance: identities of any size balance, and pi is homogeneous") {
  for (const FactorBalance balance : kBalances) {
    const Matrix<double> a = Matrix<double>::Identity(7, 7);
    const Matrix<double> g = Matrix<double>::Identity(2, 2);
    CHECK(factor_balance<double>(balance, a, g) == Approx(1).epsilon(1e-14));
    const double expected = balance == FactorBalance::None ? 1 : 3;
    CHECK(factor_balance<double>(balance, 9 * a, g) == Approx(expected).epsilon(1e-14));
    CHECK(factor_balance<double>(balance, a, 9 * g) == Approx(1 / expected).epsilon(1e-14));
  }
}

TEST_CASE("factor_balance: the largest eigenvalue is exact with a gap and close without") {
  Rng rng(2);
  const Matrix<double> one = Matrix<double>::Identity(1, 1);
  Buffer<double> scratch;
  double worst_with_gap = 0, worst_without = 0;
  for (int trial = 0; trial < 40; ++trial) {
    const Index size = 2 + rng.below(150);
    linalg::SymmetricEigen<double> basis;
    REQUIRE(basis.compute(random_factor(size, size, 1.0, rng)));
    Vector<double> values(size);
    rng.fill_uniform(values, 0, 1);
    const auto error = [&](double largest) {
      values(rng.below(size)) = largest;
      const Matrix<double> matrix = basis.vectors * values.asDiagonal() * basis.vectors.transpose();
      const double pi = factor_balance<double>(FactorBalance::Spectral, matrix, one, scratch);
      CHECK(pi * pi <= values.maxCoeff() * (1 + 1e-13));  // from below
      return 1 - pi * pi / values.maxCoeff();
    };
    worst_without = std::max(worst_without, error(1));
    worst_with_gap = std::max(worst_with_gap, error(2.0));
  }
  INFO("without a gap " << worst_without << ", with one of a half " << worst_with_gap);
  CHECK(worst_without < 0.2);
  CHECK(worst_with_gap < 1e-8);
}

TEST_CASE("factor_balance: reads the lower triangles only") {
  Rng rng(3);
  Matrix<double> a = random_factor(6, 8, 1, rng);
  Matrix<double> g = random_factor(4, 8, 1, rng);
  for (const FactorBalance balance : kBalances) {
    const double whole = factor_balance<double>(balance, a, g);
    Matrix<double> lower_a = a, lower_g = g;
    lower_a.triangularView<Eigen::StrictlyUpper>().setConstant(
        std::numeric_limits<double>::quiet_NaN());
    lower_g.triangularView<Eigen::StrictlyUpper>().setConstant(
        std::numeric_limits<double>::quiet_NaN());
    CHECK(factor_balance<double>(balance, lower_a, lower_g) == whole);
  }
}

TEST_CASE("factor_balance: is 1 for a factor that is zero or not finite, or a ratio that is not") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  const Matrix<double> fine{{2.0, 1.0}, {1.0, 2.0}};
  for (const FactorBalance balance : kBalances) {
    for (const double bad : {0.0, nan, infinity}) {
      for (const Index row : {0, 1})
        for (const Index column : {0, 1}) {
          if (column > row) continue;
          Matrix<double> wrong = bad == 0 ? Matrix<double>(Matrix<double>::Zero(2, 2)) : fine;
          wrong(row, column) = bad;
          if (balance == FactorBalance::Trace && row != column && bad != 0) continue;
          CHECK(factor_balance<double>(balance, wrong, fine) == 1);
          CHECK(factor_balance<double>(balance, fine, wrong) == 1);
        }
    }
    CHECK(factor_balance<double>(balance, 1e200 * fine, 1e-200 * fine) == 1);
    CHECK(factor_balance<double>(balance, 1e-200 * fine, 1e200 * fine) == 1);
  }
}

TEST_CASE("factor_balance: norms of numbers whose squares are not representable") {
  const Matrix<double> matrix{{2.0, 1.0}, {1.0, 2.0}};
  for (const FactorBalance balance : kBalances)
    for (const double scale : {1e-180, 1e180})
      CHECK(factor_balance<double>(balance, scale * matrix, scale * matrix / 4) ==
            Approx(balance == FactorBalance::None ? 1 : 2).epsilon(1e-13));
}

}  // namespace kfac::test::factor_balance_test
