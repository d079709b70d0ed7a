#include <cmath>
#include <vector>

#include <Eigen/Cholesky>

#include <kfac/linalg/row_cholesky.hpp>
#include <kfac/testing/relative_error.hpp>

#include "support/catch.hpp"
#include "support/random.hpp"

namespace kfac::test::row_cholesky_test {

using kfac::linalg::RowCholesky;
using kfac::linalg::triangle_entries;
using kfac::linalg::triangle_entry;
using testing::relative_error;

namespace {

/// Random positive definite matrices, dense and as triangles.
struct Matrices {
  Matrices(Index rows, Index size, Rng& rng) : triangles(rows, triangle_entries(size)) {
    for (Index u = 0; u < rows; ++u) {
      const Matrix<double> root = normal<double>(size, size + 2, rng);
      dense.emplace_back(root * root.transpose());
      for (Index j = 0; j < size; ++j)
        for (Index i = j; i < size; ++i)
          triangles(u, triangle_entry(size, i, j)) = dense.back()(i, j);
    }
  }
  const Matrix<double>& operator[](Index u) const { return dense[static_cast<std::size_t>(u)]; }

  Matrix<double> triangles;
  std::vector<Matrix<double>> dense;
};

}  // namespace

TEST_CASE("RowCholesky: products and solutions are those of each row's matrix", "[linalg][exact]") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Rng rng(seed);
    const Index rows = 1 + rng.below(6), size = 1 + rng.below(4);
    const Matrices c(rows, size, rng);
    const double damping = seed % 2 == 0 ? 0.0 : 0.3;
    RowCholesky<double> cholesky;
    const double ratio = cholesky.compute(c.triangles, size, damping);
    CHECK(ratio > 0);

    const Matrix<double> v = normal<double>(rows, size, rng);
    Matrix<double> product = v, solution = v, root = v, root_solution = v;
    Buffer<double> scratch;
    linalg::multiply_rows<double>(c.triangles, product, scratch);
    cholesky.solve(solution);
    cholesky.multiply(root);
    cholesky.solve_transposed(root_solution);
    double determinants = 0, least = 1;
    for (Index u = 0; u < rows; ++u) {
      const Matrix<double> damped = c[u] + damping * Matrix<double>::Identity(size, size);
      const Eigen::LLT<Matrix<double>> llt(damped);
      const Matrix<double> l = llt.matrixL();
      const Vector<double> x = v.row(u).transpose();
      CHECK(relative_error(product.row(u).transpose(), c[u] * x) < 1e-13);
      CHECK(relative_error(damped * solution.row(u).transpose(), x) < 1e-10);
      CHECK(relative_error(root.row(u).transpose(), l * x) < 1e-12);
      CHECK(relative_error(l.transpose() * root_solution.row(u).transpose(), x) < 1e-10);
      determinants += 2 * l.diagonal().array().log().sum();
      least = std::min(least, std::pow(l.diagonal().minCoeff() / l.diagonal().maxCoeff(), 2));
    }
    CHECK(cholesky.log_determinant() == Approx(determinants).margin(1e-10));
    CHECK(ratio == Approx(least));
  }
}

TEST_CASE("RowCholesky says that a matrix is singular", "[linalg]") {
  Rng rng(1);
  Matrices c(3, 2, rng);
  c.triangles.row(1) << 1, 2, 4;  // of rank one
  RowCholesky<double> cholesky;
  CHECK(cholesky.compute(c.triangles, 2, 0.0) < 1e-15);
  CHECK(cholesky.compute(c.triangles, 2, 0.1) > 1e-3);
  c.triangles.row(1).setZero();
  CHECK(cholesky.compute(c.triangles, 2, 0.0) == 0);
}

}  // namespace kfac::test::row_cholesky_test
