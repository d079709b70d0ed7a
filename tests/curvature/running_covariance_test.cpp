#include <limits>

#include <kfac/curvature/running_covariance.hpp>

#include "support/catch.hpp"
#include "support/networks.hpp"
#include "support/saved_state.hpp"

namespace kfac::test::running_covariance_test {

namespace {

SharedBatch<double> view(const Matrix<double>& x) {
  return SharedBatch<double>({x.data(), x.rows(), x.cols()});
}

/// Mean of x x^T with, on request, a 1 appended to each x.
Matrix<double> moment(const Matrix<double>& x, bool bias) {
  Matrix<double> augmented(x.rows() + (bias ? 1 : 0), x.cols());
  augmented.topRows(x.rows()) = x;
  if (bias) augmented.bottomRows(1).setOnes();
  return augmented * augmented.transpose() / static_cast<double>(x.cols());
}

}  // namespace

TEST_CASE("RunningCovariance: the first commit is the mean second moment itself") {
  Rng rng(1);
  for (const bool bias : {true, false})
    for (int repeat = 0; repeat < 5; ++repeat) {
      const Matrix<double> x = random_matrix(1 + rng.below(9), 1 + rng.below(20), rng);
      RunningCovariance<double> covariance(x.rows(), bias);
      covariance.add(view(x), 1.0);
      covariance.commit(x.cols(), 0.95);
      CHECK(relative_error(covariance.value(), moment(x, bias)) < 1e-14);
      CHECK(covariance.value() == covariance.value().transpose());
    }
}

TEST_CASE("RunningCovariance: row-major and column-major announcements give the same") {
  Rng rng(2);
  const Matrix<double> x = random_matrix(5, 12, rng);
  const Matrix<double> rows = x.transpose();
  RunningCovariance<double> covariance(5, true);
  covariance.add({rows.data(), 5, 12, 4, SharedBatch<double>::Order::RowMajor}, 1.0);
  covariance.commit(12, 0.95);
  CHECK(relative_error(covariance.value(), moment(x, true)) < 1e-14);
}

TEST_CASE("RunningCovariance: batches added before a commit count as one") {
  Rng rng(3);
  const Matrix<double> x = random_matrix(4, 10, rng);
  const Matrix<double> left = x.leftCols(3);
  const Matrix<double> right = x.rightCols(7);
  RunningCovariance<double> covariance(4, true);
  covariance.add(view(left), 1.0);
  covariance.add(view(right), 1.0);
  covariance.commit(10, 0.95);
  CHECK(relative_error(covariance.value(), moment(x, true)) < 1e-14);
}

TEST_CASE("RunningCovariance: the past keeps min(1 - 1/k, decay), so the start is unbiased") {
  Rng rng(4);
  constexpr double kDecay = 0.75;
  RunningCovariance<double> covariance(3, false);
  Matrix<double> expected = Matrix<double>::Zero(3, 3);
  double weights = 0;
  for (int k = 1; k <= 12; ++k) {
    const Matrix<double> x = random_matrix(3, 6, rng);
    const double keep = std::min(1.0 - 1.0 / k, kDecay);
    expected = keep * expected + (1 - keep) * moment(x, false);
    weights = keep * weights + (1 - keep);
    covariance.add(view(x), 1.0);
    covariance.commit(6, kDecay);
    CHECK(relative_error(covariance.value(), expected) < 1e-13);
    CHECK(std::abs(weights - 1) < 1e-15);
  }
  CHECK(covariance.commits() == 12);
}

TEST_CASE("RunningCovariance: stays symmetric and positive semidefinite over many updates") {
  Rng rng(5);
  RunningCovariance<double> covariance(6, true);
  for (int k = 0; k < 50; ++k) {
    const Matrix<double> x = random_matrix(6, 1 + rng.below(3), rng);
    covariance.add(view(x), 1.0);
    covariance.commit(x.cols(), 0.9);
    CHECK(covariance.value() == covariance.value().transpose());
    for (int probe = 0; probe < 5; ++probe) {
      const Vector<double> v = random_matrix(7, 1, rng);
      CHECK(v.dot(covariance.value() * v) >= -1e-13);
    }
  }
}

TEST_CASE("RunningCovariance: what is not finite shows, and can be discarded") {
  Rng rng(6);
  RunningCovariance<double> covariance(3, true);
  const Matrix<double> good = random_matrix(3, 4, rng);
  covariance.add(view(good), 1.0);
  covariance.commit(4, 0.95);
  const Matrix<double> before = covariance.value();
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    Matrix<double> x = good;
    x(1, 2) = bad;
    covariance.add(view(x), 1.0);
    CHECK_FALSE(covariance.fresh_is_finite());
    covariance.discard();
    CHECK(covariance.fresh_is_finite());
  }
  CHECK(covariance.value() == before);
}

TEST_CASE("RunningCovariance: sum and average share memory and leave each other alone") {
  Rng rng(7);
  for (const Index size : {1, 2, 5, 40}) {
    RunningCovariance<double> covariance(size, false);
    const Matrix<double> x = random_matrix(size, 9, rng);
    covariance.add(view(x), 1.0);
    covariance.commit(9, 0.5);
    const Matrix<double> before = covariance.value();
    CHECK_FALSE(covariance.has_fresh());
    MatrixRef<double> copy = covariance.working_copy(3.0);
    for (Index j = 0; j < size; ++j)
      CHECK(
          (copy.col(j).tail(size - j).array() == 3.0 * before.col(j).tail(size - j).array()).all());
    copy.triangularView<Eigen::Lower>().setConstant(-1);
    CHECK(covariance.value() == before);
    for (Index j = 0; j < size; ++j) CHECK(covariance.diagonal(j) == before(j, j));
    covariance.add(view(x), 1.0);
    CHECK(covariance.has_fresh());
    CHECK(covariance.value() == before);
    covariance.discard();
    covariance.add(view(x), 1.0);
    covariance.commit(9, 0.5);
    CHECK(relative_error(covariance.value(), before) < 1e-14);
  }
}

TEST_CASE("RunningCovariance: state is the average alone") {
  Rng rng(8);
  RunningCovariance<double> covariance(4, true), other(4, true);
  const Matrix<double> x = random_matrix(4, 9, rng);
  covariance.add(view(x), 1.0);
  covariance.commit(9, 0.5);
  other.add(view(x), 2.0);
  SavedState(covariance).restore(other);
  CHECK(other.value() == covariance.value());
  CHECK(other.commits() == 1);
  CHECK_FALSE(other.has_fresh());
}

}  // namespace kfac::test::running_covariance_test
