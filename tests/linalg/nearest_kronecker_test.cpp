#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <Eigen/SVD>

#include <kfac/core/random.hpp>
#include <kfac/linalg/kronecker.hpp>
#include <kfac/linalg/nearest_kronecker.hpp>
#include <kfac/linalg/symmetric_eigen.hpp>

#include "support/catch.hpp"
#include "support/eigensolver.hpp"
#include "support/random.hpp"

namespace kfac::test::nearest_kronecker_test {

using linalg::kronecker_product;
using linalg::KroneckerTerm;
using linalg::nearest_kronecker;
using linalg::NearestKronecker;

namespace {

using Terms = std::vector<KroneckerTerm<double>>;

Matrix<double> random_factor(Index size, double decades, Rng& rng) {
  const Matrix<double> x = test::normal<double>(size, 1 + rng.below(size + 1), rng);
  return std::pow(10.0, rng.uniform(-decades, decades)) * x * x.transpose();
}

Terms random_terms(Index count, Index inputs, Index outputs, double decades, Rng& rng) {
  Terms terms;
  for (Index t = 0; t < count; ++t)
    terms.push_back({random_factor(inputs, decades, rng), random_factor(outputs, decades, rng)});
  return terms;
}

NearestKronecker<double> nearest(const Terms& terms) {
  return nearest_kronecker<double>(terms);
}

Matrix<double> dense(const Terms& terms) {
  Matrix<double> sum = kronecker_product<double>(terms[0].a, terms[0].g);
  for (std::size_t t = 1; t < terms.size(); ++t)
    sum += kronecker_product<double>(terms[t].a, terms[t].g);
  return sum;
}

/// A (x) G becomes vec(G) vec(A)^T.
Matrix<double> rearranged(const Matrix<double>& matrix, Index inputs, Index outputs) {
  Matrix<double> result(outputs * outputs, inputs * inputs);
  for (Index j = 0; j < inputs; ++j)
    for (Index i = 0; i < inputs; ++i)
      result.col(j * inputs + i) =
          matrix.block(i * outputs, j * outputs, outputs, outputs).reshaped();
  return result;
}

double smallest_eigenvalue(const Matrix<double>& matrix) {
  Matrix<double> vectors;
  Vector<double> values;
  REQUIRE(linalg::detail::decompose_symmetric(matrix, vectors, values));
  return values(0);
}

}  // namespace

TEST_CASE("nearest_kronecker: is as near as the singular value decomposition says") {
  Rng rng(1);
  for (int trial = 0; trial < 200; ++trial) {
    const Index inputs = 1 + rng.below(5);
    const Index outputs = 1 + rng.below(5);
    const Terms terms =
        random_terms(1 + rng.below(6), inputs, outputs, rng.below(2) == 0 ? 0 : 2, rng);
    const Matrix<double> sum = dense(terms);
    const Eigen::JacobiSVD<Matrix<double>> svd(rearranged(sum, inputs, outputs));
    const Vector<double>& values = svd.singularValues();
    const double best = values.tail(values.size() - 1).norm();

    const NearestKronecker<double> found = nearest(terms);
    const double error = (sum - kronecker_product<double>(found.a, found.g)).norm();
    CHECK(std::abs(error - best) < 1e-12 * sum.norm());
    CHECK(std::abs(found.a.norm() * found.g.norm() - values(0)) < 1e-12 * values(0));
    CHECK(std::abs(found.residual - best) < 1e-7 * sum.norm());
    CHECK(found.residual == Approx(found.relative_error * sum.norm()).epsilon(1e-12));
  }
}

TEST_CASE("nearest_kronecker: factors are positive semi-definite and of equal mean diagonal") {
  Rng rng(2);
  for (int trial = 0; trial < 300; ++trial) {
    const Index inputs = 1 + rng.below(6);
    const Index outputs = 1 + rng.below(6);
    const NearestKronecker<double> found =
        nearest(random_terms(1 + rng.below(8), inputs, outputs, 8, rng));
    CHECK(found.a == found.a.transpose());
    CHECK(found.g == found.g.transpose());
    CHECK(smallest_eigenvalue(found.a) >= -1e-14 * found.a.norm());
    CHECK(smallest_eigenvalue(found.g) >= -1e-14 * found.g.norm());
    CHECK(found.a.diagonal().mean() == Approx(found.g.diagonal().mean()).epsilon(1e-13));
  }
}

TEST_CASE("nearest_kronecker: each factor is the best for the other") {
  Rng rng(3);
  for (int trial = 0; trial < 100; ++trial) {
    const Terms terms = random_terms(2 + rng.below(4), 5, 3, 8, rng);
    const NearestKronecker<double> found = nearest(terms);
    Matrix<double> for_a = Matrix<double>::Zero(5, 5);
    Matrix<double> for_g = Matrix<double>::Zero(3, 3);
    for (const KroneckerTerm<double>& term : terms) {
      for_a += term.g.cwiseProduct(found.g).sum() * term.a;
      for_g += term.a.cwiseProduct(found.a).sum() * term.g;
    }
    CHECK((for_a - found.g.squaredNorm() * found.a).norm() < 1e-12 * for_a.norm());
    CHECK((for_g - found.a.squaredNorm() * found.g).norm() < 1e-12 * for_g.norm());
  }
}

TEST_CASE("nearest_kronecker: one term is given back") {
  Rng rng(4);
  for (int trial = 0; trial < 50; ++trial) {
    const Terms terms = random_terms(1, 1 + rng.below(6), 1 + rng.below(6), 8, rng);
    const NearestKronecker<double> found = nearest(terms);
    const Matrix<double> sum = dense(terms);
    CHECK((sum - kronecker_product<double>(found.a, found.g)).norm() < 1e-14 * sum.norm());
    CHECK(found.relative_error < 1e-14);
  }
}

TEST_CASE("nearest_kronecker: terms that share a factor add up exactly") {
  Rng rng(5);
  Terms terms = random_terms(4, 3, 4, 1, rng);
  for (KroneckerTerm<double>& term : terms) term.g = terms[0].g;
  const Matrix<double> sum = dense(terms);
  const NearestKronecker<double> found = nearest(terms);
  CHECK((sum - kronecker_product<double>(found.a, found.g)).norm() < 1e-14 * sum.norm());
  CHECK(found.relative_error < 1e-7);
}

TEST_CASE("nearest_kronecker: of terms that are orthogonal and as large one is taken") {
  const Matrix<double> e1{{1.0, 0.0}, {0.0, 0.0}};
  const Matrix<double> e2{{0.0, 0.0}, {0.0, 1.0}};
  const NearestKronecker<double> found = nearest({{e1, e1}, {e2, e2}});
  CHECK(found.residual == Approx(1.0).epsilon(1e-14));
  CHECK(found.relative_error == Approx(std::sqrt(0.5)).epsilon(1e-14));
  CHECK(smallest_eigenvalue(found.a) >= 0);
  CHECK(smallest_eigenvalue(found.g) >= 0);
}

TEST_CASE("nearest_kronecker: of terms that are orthogonal the largest is taken, wherever it is") {
  const Matrix<double> e1{{1.0, 0.0}, {0.0, 0.0}};
  const Matrix<double> e2{{0.0, 0.0}, {0.0, 1.0}};
  for (const Terms& terms : {Terms{{e1, e1}, {2 * e2, e2}}, Terms{{2 * e2, e2}, {e1, e1}}}) {
    const NearestKronecker<double> found = nearest(terms);
    CHECK((kronecker_product<double>(found.a, found.g) - kronecker_product<double>(2 * e2, e2))
              .norm() < 1e-15);
    CHECK(found.residual == Approx(1.0).epsilon(1e-14));
  }
}

TEST_CASE("nearest_kronecker: inner products that round to less than zero make nothing negative") {
  Rng rng(9);
  for (int trial = 0; trial < 50; ++trial) {
    const auto basis = [&](Index size) {
      const Matrix<double> x = test::normal<double>(size, size, rng);
      Matrix<double> vectors;
      Vector<double> values;
      REQUIRE(linalg::detail::decompose_symmetric(x * x.transpose(), vectors, values));
      return vectors;
    };
    const Matrix<double> x = basis(5);
    const Matrix<double> y = basis(4);
    Terms terms;
    for (Index t = 0; t < 3; ++t)
      terms.push_back({x.col(t) * x.col(t).transpose(), y.col(t) * y.col(t).transpose()});
    const NearestKronecker<double> found = nearest(terms);
    CHECK(smallest_eigenvalue(found.a) >= -1e-14 * found.a.norm());
    CHECK(smallest_eigenvalue(found.g) >= -1e-14 * found.g.norm());
    CHECK(found.residual == Approx(std::sqrt(2.0)).epsilon(1e-13));
  }
}

TEST_CASE("nearest_kronecker: nearly equal singular values leave it optimal and semi-definite") {
  Rng rng(6);
  for (const double gap : {1e-4, 1e-8, 1e-12, 1e-15}) {
    // Two blocks that do not meet, and one so small that it couples them hardly.
    const Matrix<double> e1{{1.0, 0.0}, {0.0, 0.0}};
    const Matrix<double> e2{{0.0, 0.0}, {0.0, 1.0}};
    const Terms terms{{e1, e1}, {(1 + gap) * e2, e2}, {gap * random_factor(2, 0, rng), e1}};
    const Matrix<double> sum = dense(terms);
    const Eigen::JacobiSVD<Matrix<double>> svd(rearranged(sum, 2, 2));
    const NearestKronecker<double> found = nearest(terms);
    const double error = (sum - kronecker_product<double>(found.a, found.g)).norm();
    CHECK(error == Approx(svd.singularValues().tail(3).norm()).epsilon(1e-13));
    CHECK(smallest_eigenvalue(found.a) >= 0);
    CHECK(smallest_eigenvalue(found.g) >= 0);
  }
}

TEST_CASE("nearest_kronecker: terms need not be semi-definite to be approximated") {
  Rng rng(7);
  for (int trial = 0; trial < 50; ++trial) {
    Terms terms;
    for (int t = 0; t < 4; ++t)
      terms.push_back({test::normal<double>(3, 3, rng), test::normal<double>(2, 2, rng)});
    const Matrix<double> sum = dense(terms);
    const Eigen::JacobiSVD<Matrix<double>> svd(rearranged(sum, 3, 2));
    const NearestKronecker<double> found = nearest(terms);
    const double error = (sum - kronecker_product<double>(found.a, found.g)).norm();
    CHECK(error == Approx(svd.singularValues().tail(3).norm()).epsilon(1e-11));
  }
}

TEST_CASE("nearest_kronecker: zero terms") {
  const Matrix<double> zero = Matrix<double>::Zero(2, 2);
  const Matrix<double> one = Matrix<double>::Identity(2, 2);
  const NearestKronecker<double> none = nearest({{zero, one}, {one, zero}});
  CHECK(none.a == zero);
  CHECK(none.g == zero);
  CHECK(none.residual == 0);
  CHECK(none.relative_error == 0);
  const NearestKronecker<double> some = nearest({{zero, one}, {one, 4 * one}});
  CHECK((some.a - 2 * one).norm() < 1e-14);
  CHECK((some.g - 2 * one).norm() < 1e-14);
}

TEST_CASE("nearest_kronecker: single precision terms are combined in double") {
  Rng rng(8);
  const Terms terms = random_terms(3, 4, 3, 2, rng);
  std::vector<KroneckerTerm<float>> rounded;
  for (const KroneckerTerm<double>& term : terms)
    rounded.push_back({term.a.cast<float>(), term.g.cast<float>()});
  const NearestKronecker<double> expected = nearest(terms);
  const NearestKronecker<float> found = nearest_kronecker<float>(rounded);
  CHECK((found.a.cast<double>() - expected.a).norm() < 1e-6 * expected.a.norm());
  CHECK((found.g.cast<double>() - expected.g).norm() < 1e-6 * expected.g.norm());
  CHECK(static_cast<double>(found.relative_error) == Approx(expected.relative_error).epsilon(1e-5));
}

TEST_CASE("nearest_kronecker: what it refuses, by name") {
  const auto message = [](const Terms& terms) -> std::string {
    try {
      nearest(terms);
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return "nothing";
  };
  const Matrix<double> one = Matrix<double>::Identity(2, 2);
  const Matrix<double> other = Matrix<double>::Identity(3, 3);
  CHECK(message({}) == "kfac::linalg::nearest_kronecker: 'terms' is empty, expected at least one");
  CHECK(message({{Matrix<double>(), one}}) ==
        "kfac::linalg::nearest_kronecker: 'terms' have an empty factor, expected at least 1x1");
  CHECK(message({{one, other}, {other, other}}) ==
        "kfac::linalg::nearest_kronecker: 'terms.a' is 3x3, expected 2x2");
  CHECK(message({{one, one.leftCols(1)}}) ==
        "kfac::linalg::nearest_kronecker: 'terms.g' is 2x1, expected 2x2");
  Matrix<double> bad = one;
  bad(0, 1) = std::numeric_limits<double>::infinity();
  CHECK(message({{one, one}, {one, bad}}) ==
        "kfac::linalg::nearest_kronecker: 'terms.g' is inf at (0, 1), expected finite numbers");
}

}  // namespace kfac::test::nearest_kronecker_test
