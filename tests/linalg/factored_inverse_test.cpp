#include <cmath>
#include <limits>
#include <string>
#include <thread>

#include <kfac/core/random.hpp>
#include <kfac/linalg/factored_inverse.hpp>
#include <kfac/linalg/kronecker.hpp>

#include "support/catch.hpp"
#include "support/message_of.hpp"
#include "support/random.hpp"
#include "support/with_state_of.hpp"

namespace kfac::test::factored_inverse_test {

namespace {

Matrix<double> random_factor(Index size, Index rank, double scale, Rng& rng) {
  const Matrix<double> x = test::normal<double>(size, rank, rng);
  return scale * x * x.transpose();
}

/// Two factors of random shape, rank and scale, and a right-hand side.
struct Case {
  Matrix<double> a, g, v;

  explicit Case(Rng& rng) {
    const Index inputs = 1 + rng.below(8);
    const Index outputs = 1 + rng.below(8);
    a = random_factor(inputs, 1 + rng.below(inputs + 2), std::pow(10.0, rng.uniform(-3, 3)), rng);
    g = random_factor(outputs, 1 + rng.below(outputs + 2), std::pow(10.0, rng.uniform(-3, 3)), rng);
    v = test::normal<double>(outputs, inputs, rng);
  }
  /// Between the factors' scales.
  double damping() const { return 1e-2 * a.trace() * g.trace(); }
};

Matrix<double> applied(FactoredInverse<double>& inverse, Matrix<double> v) {
  inverse.apply(v);
  return v;
}

}  // namespace

TEST_CASE("FactoredInverse: equals the dense inverse with the damping split by any balance") {
  Rng rng(1);
  for (int trial = 0; trial < 100; ++trial) {
    const Case c(rng);
    const double damping = c.damping();
    for (const FactorBalance balance :
         {FactorBalance::None, FactorBalance::Trace, FactorBalance::Frobenius,
          FactorBalance::OneNorm, FactorBalance::Spectral}) {
      FactoredInverse<double> inverse;
      REQUIRE(inverse.refresh(c.a, c.g, damping, balance));
      const double pi = linalg::factor_balance<double>(balance, c.a, c.g);
      const Matrix<double> a =
          c.a + pi * std::sqrt(damping) * Matrix<double>::Identity(c.a.rows(), c.a.cols());
      const Matrix<double> g =
          c.g + std::sqrt(damping) / pi * Matrix<double>::Identity(c.g.rows(), c.g.cols());
      const Matrix<double> back = linalg::kronecker_product<double>(a, g) *
                                  Vector<double>(applied(inverse, c.v).reshaped());
      CHECK((back.reshaped() - c.v.reshaped()).norm() < 1e-10 * c.v.norm());
    }
  }
}

TEST_CASE("FactoredInverse: balances by the trace when not told otherwise") {
  Rng rng(2);
  const Case c(rng);
  FactoredInverse<double> inverse, trace;
  REQUIRE(inverse.refresh(c.a, c.g, c.damping()));
  REQUIRE(trace.refresh(c.a, c.g, c.damping(), FactorBalance::Trace));
  CHECK(applied(inverse, c.v) == applied(trace, c.v));
}

TEST_CASE("FactoredInverse: reads the lower triangles only") {
  Rng rng(3);
  for (const FactorBalance balance : {FactorBalance::Trace, FactorBalance::Spectral}) {
    const Case c(rng);
    Matrix<double> a = c.a, g = c.g;
    a.triangularView<Eigen::StrictlyUpper>().setConstant(std::numeric_limits<double>::quiet_NaN());
    g.triangularView<Eigen::StrictlyUpper>().setConstant(std::numeric_limits<double>::quiet_NaN());
    FactoredInverse<double> whole, lower;
    REQUIRE(whole.refresh(c.a, c.g, c.damping(), balance));
    REQUIRE(lower.refresh(a, g, c.damping(), balance));
    CHECK(applied(lower, c.v) == applied(whole, c.v));
  }
}

TEST_CASE("FactoredInverse: a refresh that fails keeps what was there") {
  Rng rng(4);
  const Case c(rng);
  const Matrix<double> singular = random_factor(c.g.rows() + 2, 1, 1.0, rng);
  const Matrix<double> indefinite = -Matrix<double>::Identity(c.a.rows(), c.a.cols());
  Matrix<double> bad = c.g;
  bad(0, 0) = std::numeric_limits<double>::quiet_NaN();
  FactoredInverse<double> inverse;
  CHECK_FALSE(inverse.refresh(c.a, singular, 0));
  CHECK(inverse.empty());
  REQUIRE(inverse.refresh(c.a, c.g, c.damping()));
  const Matrix<double> before = applied(inverse, c.v);
  CHECK_FALSE(inverse.refresh(c.a, singular, 0));
  CHECK_FALSE(inverse.refresh(indefinite, c.g, 1e-6));
  CHECK_FALSE(inverse.refresh(c.a, bad, 1e-2));
  const double epsilon = std::numeric_limits<double>::epsilon();
  const Matrix<double> nearly{{1.0, 1.0}, {1.0, 1.0 + epsilon}};  // has a Cholesky factor
  CHECK_FALSE(inverse.refresh(nearly, c.g, 0));
  CHECK_FALSE(inverse.computed());
  CHECK(applied(inverse, c.v) == before);
}

TEST_CASE("FactoredInverse: goes on with the old inverse until the new one is adopted") {
  Rng rng(5);
  Case c(rng);
  FactoredInverse<double> inverse, expected;
  const double damping = c.damping();
  REQUIRE(inverse.refresh(c.a, c.g, damping));
  const Matrix<double> before = applied(inverse, c.v);
  REQUIRE(expected.refresh(2 * c.a, 3 * c.g, damping, FactorBalance::Frobenius));

  Matrix<double> a = 2 * c.a, g = 3 * c.g;
  inverse.prepare(a, g, damping, FactorBalance::Frobenius);
  a.setZero();  // the factors may go on
  g.setZero();
  CHECK(applied(inverse, c.v) == before);
  bool computed = false;
  std::jthread worker([&] { computed = inverse.compute(); });
  for (int i = 0; i < 100; ++i) REQUIRE(applied(inverse, c.v) == before);
  worker.join();
  REQUIRE(computed);
  CHECK(inverse.computed());
  CHECK(applied(inverse, c.v) == before);
  inverse.adopt();
  CHECK_FALSE(inverse.computed());
  CHECK(applied(inverse, c.v) == applied(expected, c.v));
}

TEST_CASE("FactoredInverse: only what was computed can be adopted") {
  Rng rng(6);
  const Case c(rng);
  FactoredInverse<double> inverse;
  const std::string message =
      "kfac::FactoredInverse::adopt: nothing to adopt, expected a compute that returned true";
  CHECK(message_of<StateError>([&] { inverse.adopt(); }) == message);
  inverse.prepare(c.a, c.g, c.damping());
  CHECK(message_of<StateError>([&] { inverse.adopt(); }) == message);
  REQUIRE(inverse.compute());
  inverse.adopt();
  const Matrix<double> before = applied(inverse, c.v);
  CHECK(message_of<StateError>([&] { inverse.adopt(); }) == message);
  inverse.prepare(Matrix<double>::Zero(2, 2), c.g, 0);
  CHECK_FALSE(inverse.compute());
  CHECK(message_of<StateError>([&] { inverse.adopt(); }) == message);
  CHECK(applied(inverse, c.v) == before);
}

TEST_CASE("FactoredInverse: state with and without an inverse that waits to be adopted") {
  Rng rng(7);
  const Case c(rng);
  const auto copy_of = [&](FactoredInverse<double>& from, const FactoredInverse<double>& to) {
    return with_state_of(from, to, [&](FactoredInverse<double>& object, StateVisitor& visitor) {
      object.visit_state(visitor, c.a.rows(), c.g.rows());
    });
  };
  FactoredInverse<double> inverse;
  FactoredInverse<double> other;
  REQUIRE(other.refresh(7 * c.a, c.g, c.damping()));
  CHECK(copy_of(inverse, other).empty());

  REQUIRE(inverse.refresh(c.a, c.g, c.damping()));
  REQUIRE(inverse.refresh(2 * c.a, c.g, c.damping()));
  FactoredInverse<double> copy = copy_of(inverse, other);
  CHECK_FALSE(copy.computed());
  CHECK(applied(copy, c.v) == applied(inverse, c.v));

  inverse.prepare(3 * c.a, c.g, c.damping());
  REQUIRE(inverse.compute());
  copy = copy_of(inverse, {});
  REQUIRE(copy.computed());
  CHECK(applied(copy, c.v) == applied(inverse, c.v));
  copy.adopt();
  inverse.adopt();
  CHECK(applied(copy, c.v) == applied(inverse, c.v));
  CHECK_FALSE(copy_of(inverse, other).computed());
}

TEST_CASE("FactoredInverse: the same product whichever way the inverses are kept") {
  Rng rng(8);
  const Matrix<double> a = random_factor(150, 150, 1.0, rng);
  const Matrix<double> g = random_factor(90, 90, 1.0, rng);
  const Matrix<double> v = test::normal<double>(90, 150, rng);
  FactoredInverse<double> inverse;
  REQUIRE(inverse.refresh(a, g, 1.0));  // for many products, as far as it knows
  const Matrix<double> first = applied(inverse, v);
  REQUIRE(inverse.refresh(a, g, 1.0));  // for one
  const Matrix<double> second = applied(inverse, v);
  CHECK(first != second);  // a triangle by now
  CHECK((first - second).norm() < 1e-12 * first.norm());
  const auto check_dot = [&](const Matrix<double>& x) {
    Matrix<double> y = x;
    const double dot = inverse.apply(y);
    CHECK(std::abs(dot - x.cwiseProduct(y).sum()) < 1e-11 * dot);
  };
  check_dot(v);
  REQUIRE(inverse.refresh(g, a, 1.0));
  check_dot(v.transpose());
  const double pi = linalg::factor_balance<double>(FactorBalance::Trace, a, g);
  const Matrix<double> damped_a = a + pi * Matrix<double>::Identity(150, 150);
  const Matrix<double> damped_g = g + 1 / pi * Matrix<double>::Identity(90, 90);
  CHECK((damped_g * second * damped_a - v).norm() < 1e-11 * v.norm());
}

}  // namespace kfac::test::factored_inverse_test
