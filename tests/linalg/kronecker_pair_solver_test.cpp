#include <cmath>
#include <limits>
#include <string>

#include <Eigen/Cholesky>

#include <kfac/core/random.hpp>
#include <kfac/linalg/kronecker.hpp>
#include <kfac/linalg/kronecker_pair_solver.hpp>

#include "support/catch.hpp"
#include "support/eigensolver.hpp"
#include "support/message_of.hpp"
#include "support/random.hpp"

namespace kfac::test::kronecker_pair_solver_test {

using linalg::kronecker_product;
using linalg::KroneckerPairSolver;
using linalg::KroneckerTerm;

namespace {

using Term = KroneckerTerm<double>;
using Solver = KroneckerPairSolver<double>;

/// A matrix of the given rank whose condition grows with `decades`, in a random basis.
Matrix<double> factor(Index size, Index rank, double decades, Rng& rng) {
  Vector<double> stretch(rank);
  for (double& s : stretch) s = std::pow(10.0, rng.uniform(-decades / 2, 0));
  const Matrix<double> x =
      test::normal<double>(size, rank, rng) * Matrix<double>(stretch.asDiagonal());
  return x * x.transpose();
}

Matrix<double> product(const Term& first, const Term& second, const Matrix<double>& x) {
  const Matrix<double> half_first = first.g * x;
  const Matrix<double> half_second = second.g * x;
  return half_first * first.a + half_second * second.a;
}

Matrix<double> dense(const Term& first, const Term& second) {
  return kronecker_product<double>(first.a, first.g) +
         kronecker_product<double>(second.a, second.g);
}

}  // namespace

TEST_CASE("KroneckerPairSolver: solves the equation for random shapes, ranks and scales") {
  Rng rng(1);
  for (int trial = 0; trial < 300; ++trial) {
    const Index inputs = 1 + rng.below(trial % 3 == 0 ? 1 : 12);
    const Index outputs = 1 + rng.below(trial % 3 == 1 ? 1 : 12);
    const double decades = rng.uniform(0, 4);
    Term first{factor(inputs, inputs + 2, decades, rng),
               factor(outputs, outputs + 2, decades, rng)};
    Term second{factor(inputs, inputs + 2, decades, rng),
                factor(outputs, outputs + 2, decades, rng)};
    for (Matrix<double>* m : {&first.a, &first.g, &second.a, &second.g})
      *m *= std::pow(10.0, rng.uniform(-8, 8));
    const Matrix<double> c = product(first, second, test::normal<double>(outputs, inputs, rng));
    const Solver solver(first, second);
    CHECK(solver.inputs() == inputs);
    CHECK(solver.outputs() == outputs);
    const Matrix<double> x = solver.solve(c);
    CHECK((product(first, second, x) - c).norm() < 1e-12 * c.norm());
  }
}

TEST_CASE("KroneckerPairSolver: either term may be singular") {
  Rng rng(2);
  for (int trial = 0; trial < 200; ++trial) {
    const Index inputs = 2 + rng.below(8);
    const Index outputs = 2 + rng.below(8);
    const auto full = [&](Index size) { return factor(size, size + 2, 1, rng); };
    const auto singular = [&](Index size) { return factor(size, 1 + rng.below(size - 1), 1, rng); };
    Term first{singular(inputs), full(outputs)};
    Term second{full(inputs), full(outputs)};
    if (trial % 2 == 1) first.g = singular(outputs);
    if (trial % 4 == 2) {  // both are singular, their sum is not
      const Matrix<double> zeros = Matrix<double>::Zero(inputs, inputs);
      first.a = second.a = zeros;
      first.a.topLeftCorner(1, 1) = full(1);
      second.a.bottomRightCorner(inputs - 1, inputs - 1) = full(inputs - 1);
    }
    const Matrix<double> expected = test::normal<double>(outputs, inputs, rng);
    const Matrix<double> c = product(first, second, expected);
    const Solver solver(first, second);
    const Matrix<double> x = solver.solve(c);
    CHECK((product(first, second, x) - c).norm() < 1e-12 * c.norm());
    const Solver turned(second, first);
    CHECK((product(first, second, turned.solve(c)) - c).norm() < 1e-12 * c.norm());
  }
}

TEST_CASE("KroneckerPairSolver: equals the dense solution and determinant") {
  Rng rng(3);
  for (int trial = 0; trial < 100; ++trial) {
    const Index inputs = 1 + rng.below(5);
    const Index outputs = 1 + rng.below(5);
    const Term first{factor(inputs, inputs + 3, 1, rng), factor(outputs, outputs + 3, 1, rng)};
    const Term second{factor(inputs, inputs + 3, 1, rng), factor(outputs, outputs + 3, 1, rng)};
    const double damping = rng.below(2) == 0 ? 0 : rng.uniform(1e-3, 1);
    Term first_damped = first;
    Term second_damped = second;
    for (Matrix<double>* m : {&first_damped.a, &first_damped.g, &second_damped.a, &second_damped.g})
      m->diagonal().array() += damping * m->diagonal().mean();
    const Eigen::LLT<Matrix<double>> cholesky(dense(first_damped, second_damped));
    const Matrix<double> c = test::normal<double>(outputs, inputs, rng);
    const Vector<double> right = c.reshaped();
    const Vector<double> expected = cholesky.solve(right);
    const Solver solver(first, second, damping);
    CHECK((solver.solve(c).reshaped() - expected).norm() < 1e-10 * expected.norm());
    const double log_determinant =
        2 * Vector<double>(cholesky.matrixLLT().diagonal()).array().log().sum();
    CHECK(solver.log_determinant() == Approx(log_determinant).epsilon(1e-12).margin(1e-11));
  }
}

TEST_CASE("KroneckerPairSolver: coordinates in any units are solved as accurately") {
  Rng rng(4);
  for (int trial = 0; trial < 50; ++trial) {
    const Index inputs = 6;
    const Index outputs = 4;
    const Term first{factor(inputs, inputs + 3, 0, rng), factor(outputs, outputs + 3, 0, rng)};
    const Term second{factor(inputs, inputs + 3, 0, rng), factor(outputs, outputs + 3, 0, rng)};
    const Matrix<double> c = test::normal<double>(outputs, inputs, rng);
    const Matrix<double> expected = Solver(first, second).solve(c);

    Vector<double> a_units(inputs), g_units(outputs);
    for (double& u : a_units) u = std::pow(10.0, rng.uniform(-8, 8));
    for (double& u : g_units) u = std::pow(10.0, rng.uniform(-8, 8));
    const auto scaled = [](const Matrix<double>& m, const Vector<double>& units) {
      return Matrix<double>(units.asDiagonal() * m * units.asDiagonal());
    };
    const Solver solver({scaled(first.a, a_units), scaled(first.g, g_units)},
                        {scaled(second.a, a_units), scaled(second.g, g_units)});
    const Matrix<double> x = solver.solve(g_units.asDiagonal() * c * a_units.asDiagonal());
    const Matrix<double> back = g_units.asDiagonal() * x * a_units.asDiagonal();
    CHECK((back - expected).norm() < 1e-10 * expected.norm());
  }
}

TEST_CASE("KroneckerPairSolver: reads lower triangles, and a zero term leaves the other") {
  Rng rng(5);
  const Term term{factor(4, 6, 0, rng), factor(3, 5, 0, rng)};
  const Term zero{Matrix<double>::Zero(4, 4), Matrix<double>::Identity(3, 3)};
  const Matrix<double> c = test::normal<double>(3, 4, rng);
  const Matrix<double> x = Solver(term, zero).solve(c);
  const Matrix<double> half = term.g * x;
  CHECK((half * term.a - c).norm() < 1e-12 * c.norm());

  const Term other{factor(4, 6, 0, rng), factor(3, 5, 0, rng)};
  Term spoiled = term;
  Term other_spoiled = other;
  for (Matrix<double>* m : {&spoiled.a, &spoiled.g, &other_spoiled.a, &other_spoiled.g})
    m->triangularView<Eigen::StrictlyUpper>().setConstant(99.0);
  CHECK(Solver(spoiled, other_spoiled).solve(c) == Solver(term, other).solve(c));
}

TEST_CASE("KroneckerPairSolver: single precision terms are solved in double") {
  Rng rng(6);
  const auto rounded = [&](Index size) {
    return Matrix<float>(factor(size, size + 2, 4, rng).cast<float>());
  };
  const KroneckerTerm<float> first{rounded(8), rounded(5)};
  const KroneckerTerm<float> second{rounded(8), rounded(5)};
  const Matrix<float> c = test::normal<float>(5, 8, rng);
  const Matrix<float> x = KroneckerPairSolver<float>(first, second).solve(c);
  const Term first_wide{first.a.cast<double>(), first.g.cast<double>()};
  const Term second_wide{second.a.cast<double>(), second.g.cast<double>()};
  const Matrix<double> expected = Solver(first_wide, second_wide).solve(c.cast<double>());
  CHECK((x.cast<double>() - expected).norm() < 1e-7 * expected.norm());
}

TEST_CASE("KroneckerPairSolver: refuses a singular sum, which damping cures") {
  Rng rng(7);
  const std::string expected =
      "kfac::linalg::KroneckerPairSolver: the sum of the two terms is singular to working "
      "precision, expected a positive definite one or damping > 0";
  const auto refused = [&](const Term& first, const Term& second) {
    const std::string found =
        message_of<SingularError>([&] { const Solver solver(first, second); });
    const Matrix<double> c = Matrix<double>::Ones(first.outputs(), first.inputs());
    const Matrix<double> x = Solver(first, second, 1e-3).solve(c);
    return found == expected && x.allFinite();
  };
  const Term full{factor(4, 6, 0, rng), factor(3, 5, 0, rng)};
  // A direction that neither A sees, in a random basis.
  const Matrix<double> x = test::normal<double>(4, 3, rng);
  const Matrix<double> a1 = x * x.transpose();
  const Matrix<double> y = x * test::normal<double>(3, 3, rng);
  const Matrix<double> a2 = y * y.transpose();
  CHECK(refused({a1, full.g}, {a2, full.g}));
  const Term none{full.a, Matrix<double>::Zero(3, 3)};  // whose damping is zero too
  CHECK(message_of<SingularError>([&] { const Solver solver(none, none, 1e-3); }) == expected);
  // Definite sums of the A and of the G, and yet a matrix that both terms send to zero.
  const Matrix<double> e1{{1.0, 0.0}, {0.0, 0.0}};
  const Matrix<double> e2{{0.0, 0.0}, {0.0, 1.0}};
  CHECK(refused({e1, e1}, {e2, e2}));
  const Matrix<double> g1 = factor(3, 2, 0, rng);
  CHECK(refused({full.a, g1}, {factor(4, 2, 0, rng), full.g}));
}

TEST_CASE("KroneckerPairSolver: try_make gives the same solver, and nothing for a singular sum") {
  Rng rng(8);
  const Term first{factor(4, 6, 0, rng), factor(3, 5, 0, rng)};
  const Term second{factor(4, 6, 0, rng), factor(3, 5, 0, rng)};
  const Matrix<double> c = test::normal<double>(3, 4, rng);
  const auto solver = Solver::try_make(first, second, 1e-3);
  REQUIRE(solver.has_value());
  CHECK(solver->solve(c) == Solver(first, second, 1e-3).solve(c));
  const Term none{first.a, Matrix<double>::Zero(3, 3)};
  CHECK_FALSE(Solver::try_make(none, none).has_value());
  CHECK_THROWS_AS(Solver::try_make(first, {first.a, first.a}), ShapeError);
}

TEST_CASE("KroneckerPairSolver: what it refuses, by name") {
  const Matrix<double> two = Matrix<double>::Identity(2, 2);
  const Matrix<double> three = Matrix<double>::Identity(3, 3);
  CHECK(message_of<ShapeError>([&] {
          const Solver solver({two, three}, {two, two});
        }) == "kfac::linalg::KroneckerPairSolver: 'terms.g' is 2x2, expected 3x3");
  CHECK(message_of<ShapeError>([&] {
          const Solver solver({}, {two, two});
        }) ==
        "kfac::linalg::KroneckerPairSolver: 'terms' have an empty factor, expected at least 1x1");
  Matrix<double> bad = two;
  bad(1, 1) = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_AS(Solver({two, three}, {bad, three}), ValueError);
  CHECK(message_of<OptionError>([&] {
          const Solver solver({two, three}, {two, three}, -1);
        }) == "kfac::linalg::KroneckerPairSolver: 'damping' is -1, expected >= 0 and finite");
  const Solver solver({two, three}, {two, three});
  CHECK(message_of<ShapeError>([&] { solver.solve(two); }) ==
        "kfac::linalg::KroneckerPairSolver::solve: 'c' is 2x2, expected 3x2");
}

}  // namespace kfac::test::kronecker_pair_solver_test
