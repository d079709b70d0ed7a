#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <Eigen/Cholesky>

#include <kfac/core/random.hpp>
#include <kfac/linalg/kronecker_sum.hpp>

#include "support/catch.hpp"
#include "support/eigensolver.hpp"
#include "support/message_of.hpp"
#include "support/random.hpp"

namespace kfac::test::kronecker_sum_test {

using linalg::KroneckerSum;
using linalg::KroneckerSumOptions;
using linalg::KroneckerSumPreconditioner;
using linalg::KroneckerSumSolution;
using linalg::KroneckerTerm;
using linalg::KrylovStatus;
using linalg::solve_kronecker_sum;

static_assert(linalg::BlockLinearOperator<KroneckerSum<double>>);

namespace {

using Sum = KroneckerSum<double>;
using Terms = std::vector<KroneckerTerm<double>>;
using Options = KroneckerSumOptions<double>;

constexpr KroneckerSumPreconditioner kPreconditioners[] = {KroneckerSumPreconditioner::None,
                                                           KroneckerSumPreconditioner::Diagonal,
                                                           KroneckerSumPreconditioner::Kronecker};

Matrix<double> factor(Index size, Index rank, Rng& rng) {
  const Matrix<double> x = test::normal<double>(size, rank, rng);
  return x * x.transpose() / static_cast<double>(rank);
}

Terms random_terms(Index count, Index inputs, Index outputs, double decades, Rng& rng) {
  Terms terms;
  for (Index t = 0; t < count; ++t)
    terms.push_back(
        {std::pow(10.0, rng.uniform(-decades, decades)) * factor(inputs, 2 * inputs, rng),
         std::pow(10.0, rng.uniform(-decades, decades)) * factor(outputs, 2 * outputs, rng)});
  return terms;
}

Matrix<double> random_mask(Index rows, Index columns, double keep, Rng& rng) {
  Matrix<double> mask(rows, columns);
  for (double& entry : mask.reshaped()) entry = rng.uniform() < keep ? 1 : 0;
  return mask;
}

/// The sum from its definition.
Matrix<double> dense(const Terms& terms, const Matrix<double>& mask) {
  Matrix<double> result = linalg::kronecker_product<double>(terms[0].a, terms[0].g);
  for (std::size_t t = 1; t < terms.size(); ++t)
    result += linalg::kronecker_product<double>(terms[t].a, terms[t].g);
  for (Index j = 0; j < result.cols(); ++j)
    for (Index i = 0; i < result.rows(); ++i)
      result(i, j) *= mask.reshaped()(i) * mask.reshaped()(j);
  return result;
}

}  // namespace

TEST_CASE("KroneckerSum: is the sum of Kronecker products, masked on both sides") {
  Rng rng(1);
  for (int trial = 0; trial < 100; ++trial) {
    const Index inputs = 1 + rng.below(6);
    const Index outputs = 1 + rng.below(6);
    Terms terms;
    for (Index t = 1 + rng.below(4); t > 0; --t)  // they need not be symmetric for the product
      terms.push_back(
          {test::normal<double>(inputs, inputs, rng), test::normal<double>(outputs, outputs, rng)});
    const bool masked = rng.below(2) == 0;
    const Matrix<double> mask = random_mask(outputs, inputs, masked ? 0.6 : 2, rng);
    const Sum sum = masked ? Sum(terms, mask) : Sum(terms);
    const Matrix<double> expected = dense(terms, mask);
    CHECK(sum.rows() == inputs * outputs);
    CHECK((sum.dense() - expected).norm() <= 1e-14 * expected.norm());
    CHECK((sum.diagonal().reshaped() - Vector<double>(expected.diagonal())).norm() <=
          1e-14 * expected.norm());
    const Matrix<double> x = test::normal<double>(outputs, inputs, rng);
    const Vector<double> product = expected * Vector<double>(x.reshaped());
    CHECK((sum.product(x).reshaped() - product).norm() <= 1e-13 * expected.norm() * x.norm());
    const Vector<double> vector = sum * Vector<double>(x.reshaped());
    CHECK((vector - product).norm() <= 1e-13 * expected.norm() * x.norm());
    const Matrix<double> columns = test::normal<double>(sum.cols(), 3, rng);
    const Matrix<double> products = sum * columns;
    CHECK((products - expected * columns).norm() <= 1e-13 * expected.norm() * columns.norm());
  }
}

TEST_CASE("solve_kronecker_sum: solves on the free entries, whatever the preconditioner") {
  Rng rng(2);
  for (int trial = 0; trial < 100; ++trial) {
    const Index inputs = 1 + rng.below(6);
    const Index outputs = 1 + rng.below(6);
    const Terms terms = random_terms(1 + rng.below(4), inputs, outputs, rng.below(2) ? 4 : 0, rng);
    const Matrix<double> mask = random_mask(outputs, inputs, rng.below(2) ? 0.6 : 2, rng);
    const Sum sum(terms, mask);
    const double damping = rng.below(2) ? 0.01 * sum.dense().norm() : 0;
    const Matrix<double> c = test::normal<double>(outputs, inputs, rng);

    // Fixed entries get a one on the diagonal and a zero on the right.
    Matrix<double> full = dense(terms, mask);
    full.diagonal().array() += damping;
    full.diagonal() += (1 - mask.reshaped().array()).matrix();
    const Vector<double> right = c.cwiseProduct(mask).reshaped();
    const Vector<double> expected = full.llt().solve(right);

    for (const KroneckerSumPreconditioner preconditioner : kPreconditioners) {
      const KroneckerSumSolution<double> solution = solve_kronecker_sum<double>(
          sum, c, {.damping = damping, .tolerance = 1e-11, .preconditioner = preconditioner});
      REQUIRE(solution.status == KrylovStatus::Converged);
      CHECK(solution.relative_residual <= 1e-11);
      CHECK((solution.x.reshaped() - expected).norm() <= 1e-7 * expected.norm());
      CHECK(solution.x.cwiseProduct(mask) == solution.x);
      const Matrix<double> residual =
          c.cwiseProduct(mask) - sum.product(solution.x) - damping * solution.x;
      CHECK(residual.norm() <= 2e-11 * c.norm());
    }
  }
}

TEST_CASE("solve_kronecker_sum: one term is solved in one iteration, with damping or without") {
  Rng rng(3);
  for (const double damping : {0.0, 0.3}) {
    const Sum sum(random_terms(1, 9, 7, 8, rng));
    const Matrix<double> c = test::normal<double>(7, 9, rng);
    const KroneckerSumSolution<double> solution = solve_kronecker_sum<double>(
        sum, c, {.damping = damping * sum.diagonal().mean(), .tolerance = 1e-10});
    CHECK(solution.status == KrylovStatus::Converged);
    CHECK(solution.iterations <= 2);  // a second where rounding of the first is above tolerance
  }
}

TEST_CASE("solve_kronecker_sum: the Kronecker preconditioner saves iterations on like terms") {
  Rng rng(4);
  const Index inputs = 16;
  const Index outputs = 12;
  // Graded spectra, and bases that differ a little from term to term.
  const auto graded = [&](Index size, const Matrix<double>& base) {
    Vector<double> stretch(size);
    for (Index i = 0; i < size; ++i)
      stretch(i) = std::pow(100.0, -static_cast<double>(i) / static_cast<double>(size));
    const Matrix<double> near = base + 0.05 * test::normal<double>(size, size, rng);
    const Matrix<double> x = near * stretch.asDiagonal();
    return Matrix<double>(std::pow(10.0, rng.uniform(-3, 3)) * x * x.transpose());
  };
  const Matrix<double> a_base = test::normal<double>(inputs, inputs, rng);
  const Matrix<double> g_base = test::normal<double>(outputs, outputs, rng);
  Terms terms;
  for (int t = 0; t < 4; ++t) terms.push_back({graded(inputs, a_base), graded(outputs, g_base)});
  const Sum sum(terms);
  const Matrix<double> c = sum.product(test::normal<double>(outputs, inputs, rng));
  const double damping = 1e-7 * sum.diagonal().mean();
  const auto iterations = [&](KroneckerSumPreconditioner preconditioner) {
    return solve_kronecker_sum<double>(sum, c,
                                       {.damping = damping,
                                        .tolerance = 1e-8,
                                        .max_iterations = 20000,
                                        .preconditioner = preconditioner})
        .iterations;
  };
  CHECK(8 * iterations(KroneckerSumPreconditioner::Kronecker) <
        iterations(KroneckerSumPreconditioner::Diagonal));
}

TEST_CASE("solve_kronecker_sum: how a term is split over its factors does not matter") {
  Rng rng(8);
  Terms terms = random_terms(3, 12, 9, 1, rng);
  const Matrix<double> c = test::normal<double>(9, 12, rng);
  const KroneckerSumSolution<double> solution = solve_kronecker_sum<double>(Sum(terms), c);
  REQUIRE(solution.status == KrylovStatus::Converged);
  double split = 1;
  for (KroneckerTerm<double>& term : terms) {
    split *= 1024;  // without rounding, nor of its square root
    term.a *= split;
    term.g /= split;
  }
  const KroneckerSumSolution<double> other = solve_kronecker_sum<double>(Sum(terms), c);
  CHECK(other.iterations == solution.iterations);
  CHECK(other.x == solution.x);
}

TEST_CASE("solve_kronecker_sum: a singular sum with a consistent right-hand side is solved") {
  Rng rng(5);
  for (int trial = 0; trial < 20; ++trial) {
    Terms terms = random_terms(3, 6, 4, 0, rng);
    // A direction of the inputs that no term sees.
    const Vector<double> direction = test::normal<double>(6, 1, rng).normalized();
    const Matrix<double> project =
        Matrix<double>::Identity(6, 6) - direction * direction.transpose();
    for (KroneckerTerm<double>& term : terms) {
      const Matrix<double> half = project * term.a;
      term.a = half * project;
    }
    const Sum sum(terms);
    const Matrix<double> c = sum.product(test::normal<double>(4, 6, rng));
    for (const KroneckerSumPreconditioner preconditioner : kPreconditioners) {
      const KroneckerSumSolution<double> solution = solve_kronecker_sum<double>(
          sum, c, {.tolerance = 1e-10, .preconditioner = preconditioner});
      CHECK(solution.status == KrylovStatus::Converged);
      CHECK((sum.product(solution.x) - c).norm() < 1e-9 * c.norm());
    }
  }
}

TEST_CASE("solve_kronecker_sum: starts where it is told") {
  Rng rng(6);
  const Matrix<double> mask = random_mask(4, 5, 0.7, rng);
  const Sum sum(random_terms(3, 5, 4, 0, rng), mask);
  const Matrix<double> c = test::normal<double>(4, 5, rng);
  const KroneckerSumSolution<double> first =
      solve_kronecker_sum<double>(sum, c, {.tolerance = 1e-12});
  Options options{.tolerance = 1e-11};
  options.initial = first.x + 5 * (1 - mask.array()).matrix();  // fixed entries are ignored
  const KroneckerSumSolution<double> second = solve_kronecker_sum<double>(sum, c, options);
  CHECK(second.status == KrylovStatus::Converged);
  CHECK(second.iterations == 0);
  CHECK((second.x - first.x).norm() < 1e-14 * first.x.norm());
}

TEST_CASE("solve_kronecker_sum: says how it ended") {
  Rng rng(7);
  const Sum sum(random_terms(3, 8, 8, 0, rng));
  const Matrix<double> c = test::normal<double>(8, 8, rng);
  const KroneckerSumSolution<double> cut =
      solve_kronecker_sum<double>(sum, c, {.tolerance = 1e-12, .max_iterations = 2});
  CHECK(cut.status == KrylovStatus::MaxIterations);
  CHECK(cut.iterations == 2);
  CHECK(cut.relative_residual == Approx((sum.product(cut.x) - c).norm() / c.norm()).epsilon(1e-10));

  const Matrix<double> one = Matrix<double>::Identity(2, 2);
  for (const KroneckerSumPreconditioner preconditioner : kPreconditioners) {
    const KroneckerSumSolution<double> zero = solve_kronecker_sum<double>(
        sum, Matrix<double>::Zero(8, 8), {.preconditioner = preconditioner});
    CHECK(zero.status == KrylovStatus::Converged);
    CHECK(zero.x == Matrix<double>::Zero(8, 8));

    const Sum negative(Terms{{-one, one}});
    const KroneckerSumSolution<double> indefinite =
        solve_kronecker_sum<double>(negative, one, {.preconditioner = preconditioner});
    CHECK(indefinite.status == KrylovStatus::Indefinite);
    CHECK(indefinite.relative_residual == Approx(1));

    const Sum nothing(Terms{{0 * one, one}});
    const KroneckerSumSolution<double> damped =
        solve_kronecker_sum<double>(nothing, one, {.damping = 4, .preconditioner = preconditioner});
    CHECK(damped.status == KrylovStatus::Converged);
    CHECK((damped.x - one / 4).norm() < 1e-15);
  }
}

TEST_CASE("solve_kronecker_sum: what it refuses, by name") {
  const Matrix<double> two = Matrix<double>::Identity(2, 2);
  const Matrix<double> three = Matrix<double>::Identity(3, 3);
  Matrix<double> mask = Matrix<double>::Ones(2, 3);
  CHECK(message_of<ShapeError>([] { const Sum none{Terms{}}; }) ==
        "kfac::linalg::KroneckerSum: 'terms' is empty, expected at least one");
  CHECK(message_of<ShapeError>([&] {
          const Sum wrong(Terms{{two, two}}, mask);
        }) == "kfac::linalg::KroneckerSum: 'mask' is 2x3, expected 2x2");
  mask(1, 1) = 0.5;
  CHECK(message_of<ValueError>([&] {
          const Sum wrong(Terms{{three, two}}, mask);
        }) == "kfac::linalg::KroneckerSum: 'mask' has an entry 0.5, expected 0 or 1");

  const Sum sum(Terms{{three, two}});
  CHECK(message_of<ShapeError>([&] { sum.product(two); }) ==
        "kfac::linalg::KroneckerSum::product: 'x' is 2x2, expected 2x3");
  CHECK(message_of<ShapeError>([&] { static_cast<void>(sum * Vector<double>::Ones(5)); }) ==
        "kfac::linalg::KroneckerSum::operator*: 'columns' has 5 rows, expected 6");
  const Matrix<double> c = Matrix<double>::Ones(2, 3);
  CHECK(message_of<ShapeError>([&] { solve_kronecker_sum<double>(sum, two); }) ==
        "kfac::linalg::solve_kronecker_sum: 'c' is 2x2, expected 2x3");
  CHECK(message_of<ShapeError>([&] { solve_kronecker_sum<double>(sum, c, {.initial = two}); }) ==
        "kfac::linalg::solve_kronecker_sum: 'initial' is 2x2, expected 2x3");
  CHECK(message_of<OptionError>([&] { solve_kronecker_sum<double>(sum, c, {.damping = -1}); }) ==
        "kfac::linalg::solve_kronecker_sum: 'damping' is -1, expected >= 0 and finite");
  CHECK_THROWS_AS(solve_kronecker_sum<double>(sum, c, {.max_iterations = -1}), OptionError);
  CHECK_THROWS_AS(solve_kronecker_sum<double>(sum, c, {.tolerance = -1}), OptionError);
  Matrix<double> bad = c;
  bad(1, 0) = std::numeric_limits<double>::quiet_NaN();
  CHECK(message_of<ValueError>([&] { solve_kronecker_sum<double>(sum, bad); }) ==
        "kfac::linalg::solve_kronecker_sum: 'c' is nan at (1, 0), expected finite numbers");
  CHECK_THROWS_AS(solve_kronecker_sum<double>(sum, c, {.initial = bad}), ValueError);
}

}  // namespace kfac::test::kronecker_sum_test
