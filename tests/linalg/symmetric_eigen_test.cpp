#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include <kfac/core/random.hpp>
#include <kfac/linalg/spd_inverse.hpp>
#include <kfac/linalg/symmetric_eigen.hpp>

#include "support/catch.hpp"
#include "support/eigensolver.hpp"
#include "support/message_of.hpp"
#include "support/random.hpp"
#include "support/with_state_of.hpp"

namespace kfac::test::symmetric_eigen_test {

using kfac::linalg::SymmetricEigen;

namespace {

Matrix<double> rebuild(const SymmetricEigen<double>& eigen) {
  return eigen.vectors * eigen.values.asDiagonal() * eigen.vectors.transpose();
}

double orthogonality_error(const Matrix<double>& vectors) {
  const Matrix<double> gram = vectors.transpose() * vectors;
  return (gram - Matrix<double>::Identity(gram.rows(), gram.cols())).norm();
}

/// ||U^T C U - its diagonal|| / ||C||.
double off_diagonal(const Matrix<double>& matrix, const Matrix<double>& vectors) {
  const Matrix<double> half = matrix * vectors;
  Matrix<double> rotated = vectors.transpose() * half;
  rotated.diagonal().setZero();
  return rotated.norm() / matrix.norm();
}

/// A running average of covariances of data whose principal directions turn slowly and have
/// variances i^-decay.
class DriftingCovariance {
 public:
  DriftingCovariance(Index size, double decay, double turn, Rng& rng) : rng_(rng), scales_(size) {
    for (Index i = 0; i < size; ++i) scales_(i) = std::pow(static_cast<double>(i + 1), -decay / 2);
    directions_ = linalg::detail::orthogonal_factor<double>(normal<double>(size, size, rng));
    const Matrix<double> x = normal<double>(size, size, rng);
    const double strength = turn / std::sqrt(static_cast<double>(size));
    const Matrix<double> step =
        Matrix<double>::Identity(size, size) + strength * (x - x.transpose());
    turn_ = linalg::detail::orthogonal_factor<double>(step);
    average_ = batch();
    for (int i = 0; i < 60; ++i) average();
  }
  void update() {
    directions_ = Matrix<double>(turn_ * directions_);
    average();
  }
  const Matrix<double>& matrix() const { return average_; }

 private:
  Matrix<double> batch() {
    const Index examples = 4 * scales_.size();
    const Matrix<double> white =
        scales_.asDiagonal() * normal<double>(scales_.size(), examples, rng_);
    const Matrix<double> x = directions_ * white;
    return x * x.transpose() / static_cast<double>(examples);
  }
  void average() { average_ = 0.95 * average_ + 0.05 * batch(); }

  Rng& rng_;
  Vector<double> scales_;
  Matrix<double> directions_, turn_, average_;
};

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

TEST_CASE("SymmetricEigen: tracking follows a running average, and a stale basis does not") {
  Rng rng(4);
  for (const double decay : {0.5, 1.0, 2.0}) {
    DriftingCovariance covariance(32, decay, 0.01, rng);
    SymmetricEigen<double> tracked;
    REQUIRE(tracked.compute(covariance.matrix()));
    const SymmetricEigen<double> stale = tracked;
    double worst = 0;  // of the off-diagonal part
    for (int update = 0; update < 50; ++update) {
      covariance.update();
      REQUIRE(tracked.track(covariance.matrix()));
      const double off = off_diagonal(covariance.matrix(), tracked.vectors);
      CHECK(tracked.residual == Approx(off).epsilon(1e-10));
      worst = std::max(worst, off);
      REQUIRE(orthogonality_error(tracked.vectors) < 1e-13);
    }
    SymmetricEigen<double> exact;
    REQUIRE(exact.compute(covariance.matrix()));
    const double largest = exact.values.maxCoeff();
    const double error = (tracked.values - exact.values).cwiseAbs().maxCoeff() / largest;
    const Matrix<double> half = covariance.matrix() * stale.vectors;
    Vector<double> stale_values = stale.vectors.cwiseProduct(half).colwise().sum().transpose();
    std::sort(stale_values.begin(), stale_values.end());
    const double stale_error = (stale_values - exact.values).cwiseAbs().maxCoeff() / largest;
    const double stale_off = off_diagonal(covariance.matrix(), stale.vectors);
    INFO("decay " << decay << ": off-diagonal " << worst << " at worst, stale " << stale_off
                  << "; eigenvalues wrong by " << error << ", stale " << stale_error);
    CHECK(worst < 0.05);
    CHECK(error < 0.01);
    CHECK(stale_off > 5 * worst);
    CHECK(stale_error > 10 * error);
  }
}

TEST_CASE("SymmetricEigen: tracking a matrix that stays converges to its decomposition") {
  Rng rng(5);
  for (int trial = 0; trial < 50; ++trial) {
    const Index size = 1 + rng.below(12);
    const Index rank = rng.below(size + 1);
    const double scale = std::pow(10.0, rng.uniform(-150, 150));
    // Each eigenvalue is half the one before it, but for those that are 0.
    const Matrix<double> u =
        linalg::detail::orthogonal_factor<double>(normal<double>(size, size, rng));
    Vector<double> values = Vector<double>::Zero(size);
    for (Index i = 0; i < rank; ++i) values(size - 1 - i) = scale * std::pow(0.5, i);
    const Matrix<double> matrix = u * values.asDiagonal() * u.transpose();
    SymmetricEigen<double> eigen;
    const Matrix<double> start = normal<double>(size, size, rng);
    REQUIRE(eigen.compute(start * start.transpose()));
    REQUIRE(eigen.track(matrix, 60));
    CHECK((eigen.values - values).norm() <= 1e-13 * values.norm());
    CHECK((rebuild(eigen) / scale - matrix / scale).norm() <= 1e-13 * matrix.norm() / scale);
    CHECK(orthogonality_error(eigen.vectors) < 1e-13);
    CHECK(eigen.residual < 1e-13);
    CHECK(eigen.values.minCoeff() >= 0);
  }
}

TEST_CASE("SymmetricEigen: tracking keeps what is exact, with its order and signs") {
  Rng rng(6);
  const Matrix<double> x = normal<double>(9, 20, rng);
  const Matrix<double> matrix = x * x.transpose();
  SymmetricEigen<double> exact;
  REQUIRE(exact.compute(matrix));
  SymmetricEigen<double> tracked = exact;
  REQUIRE(tracked.track(matrix));
  CHECK((tracked.vectors - exact.vectors).norm() < 1e-12);
  CHECK((tracked.values - exact.values).norm() < 1e-13 * exact.values.norm());
  CHECK(tracked.residual < 1e-14);
}

TEST_CASE("SymmetricEigen: tracking sorts by the values that cross") {
  SymmetricEigen<double> eigen;
  REQUIRE(eigen.compute(Vector<double>{{1.0, 2.0, 3.0}}.asDiagonal().toDenseMatrix()));
  const Vector<double> next{{6.0, 5.0, 4.0}};
  REQUIRE(eigen.track(next.asDiagonal().toDenseMatrix()));
  CHECK((eigen.values - next.reverse()).norm() < 1e-14);
  CHECK((eigen.vectors.cwiseAbs() - Matrix<double>::Identity(3, 3).rowwise().reverse()).norm() <
        1e-14);
}

TEST_CASE("SymmetricEigen: each iteration of tracking brings the vectors nearer") {
  Rng rng(7);
  DriftingCovariance covariance(20, 1.0, 0.05, rng);
  SymmetricEigen<double> one, three;
  REQUIRE(one.compute(covariance.matrix()));
  for (int i = 0; i < 20; ++i) covariance.update();
  three = one;
  REQUIRE(one.track(covariance.matrix()));
  REQUIRE(three.track(covariance.matrix(), 3));
  CHECK(three.residual < 0.7 * one.residual);
  CHECK(off_diagonal(covariance.matrix(), three.vectors) == Approx(three.residual).epsilon(1e-10));
  REQUIRE(three.compute(covariance.matrix()));
  CHECK(three.residual == 0);
}

TEST_CASE("SymmetricEigen: tracking reads the lower triangle only") {
  Rng rng(8);
  const Matrix<double> x = normal<double>(7, 9, rng);
  Matrix<double> matrix = x * x.transpose();
  SymmetricEigen<double> whole;
  REQUIRE(whole.compute(Matrix<double>::Identity(7, 7)));
  SymmetricEigen<double> lower = whole;
  REQUIRE(whole.track(matrix, 2));
  matrix.triangularView<Eigen::StrictlyUpper>().setConstant(
      std::numeric_limits<double>::quiet_NaN());
  REQUIRE(lower.track(matrix, 2));
  CHECK(lower.values == whole.values);
  CHECK(lower.vectors == whole.vectors);
}

TEST_CASE("SymmetricEigen: tracking keeps what was there when it cannot go on") {
  SymmetricEigen<double> eigen;
  Matrix<double> matrix = Matrix<double>::Identity(3, 3);
  CHECK(message_of<StateError>([&] { eigen.track(matrix); }) ==
        "kfac::linalg::SymmetricEigen::track: no eigenvectors yet, expected compute before it");
  REQUIRE(eigen.compute(matrix));
  const SymmetricEigen<double> before = eigen;
  CHECK(message_of<OptionError>([&] { eigen.track(matrix, 0); }) ==
        "kfac::linalg::SymmetricEigen::track: 'iterations' is 0, expected >= 1");
  CHECK(message_of<ShapeError>([&] { eigen.track(Matrix<double>::Zero(3, 2)); }) ==
        "kfac::linalg::SymmetricEigen::track: 'matrix' is 3x2, expected 3x3");
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    matrix(2, 1) = bad;
    CHECK_FALSE(eigen.track(matrix));
  }
  CHECK(eigen.vectors == before.vectors);
  CHECK(eigen.values == before.values);

  REQUIRE(eigen.track(Matrix<double>::Zero(3, 3)));  // a dead layer
  CHECK(eigen.values == Vector<double>::Zero(3));
  CHECK(orthogonality_error(eigen.vectors) < 1e-14);
  CHECK(eigen.residual == 0);
}

TEST_CASE("SymmetricEigen: tracking in float is orthogonal and accurate to float's rounding") {
  Rng rng(9);
  const Matrix<double> x = normal<double>(40, 160, rng);
  Vector<double> scale(40);
  for (Index i = 0; i < 40; ++i) scale(i) = std::pow(0.5, i);  // a condition of 1e23
  const Matrix<double> matrix = scale.asDiagonal() * (x * x.transpose()) * scale.asDiagonal();
  SymmetricEigen<float> eigen;
  REQUIRE(eigen.compute(Matrix<float>::Identity(40, 40)));
  REQUIRE(eigen.track(matrix.cast<float>(), 10));
  CHECK(orthogonality_error(eigen.vectors.cast<double>()) < 1e-5);
  SymmetricEigen<double> exact;
  REQUIRE(exact.compute(matrix));
  CHECK((eigen.values.cast<double>() - exact.values).norm() < 1e-6 * exact.values.norm());
  CHECK(eigen.residual < 1e-5f);
}

TEST_CASE("SymmetricEigen: state of a decomposition, and of none") {
  Rng rng(10);
  DriftingCovariance covariance(6, 1.0, 0.1, rng);
  const auto visit = [](SymmetricEigen<double>& object, StateVisitor& visitor) {
    object.visit_state(visitor, 6);
  };
  SymmetricEigen<double> none, eigen;
  CHECK(with_state_of(none, eigen, visit).size() == 0);
  REQUIRE(eigen.compute(covariance.matrix()));
  covariance.update();
  REQUIRE(eigen.track(covariance.matrix()));
  const SymmetricEigen<double> copy = with_state_of(eigen, none, visit);
  CHECK(copy.vectors == eigen.vectors);
  CHECK(copy.values == eigen.values);
  CHECK(copy.residual == eigen.residual);
  CHECK(with_state_of(none, eigen, visit).size() == 0);
}

}  // namespace kfac::test::symmetric_eigen_test
