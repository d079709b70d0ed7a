#include <kfac/linalg/structured_matrix.hpp>

#include "support/catch.hpp"
#include "support/random.hpp"

namespace kfac::test::structured_matrix_test {

using namespace kfac::linalg;

namespace {

constexpr Structure kStructures[] = {Structure::Dense, Structure::Diagonal,
                                     Structure::BlockDiagonal, Structure::LowerTriangular,
                                     Structure::UpperToeplitz};
constexpr Index kBlock = 4;

bool in_structure(Structure structure, Index i, Index j) {
  switch (structure) {
    case Structure::Dense:
      return true;
    case Structure::Diagonal:
      return i == j;
    case Structure::BlockDiagonal:
      return i / kBlock == j / kBlock;
    case Structure::LowerTriangular:
      return i >= j;
    case Structure::UpperToeplitz:
      return i <= j;
  }
  return false;
}

/// Pi by its definition, entry by entry.
Matrix<double> projection(Structure structure, const Matrix<double>& symmetric) {
  const Index size = symmetric.rows();
  Matrix<double> result = Matrix<double>::Zero(size, size);
  const bool triangular =
      structure == Structure::LowerTriangular || structure == Structure::UpperToeplitz;
  for (Index i = 0; i < size; ++i)
    for (Index j = 0; j < size; ++j) {
      if (!in_structure(structure, i, j)) continue;
      const double entry = structure == Structure::UpperToeplitz
                               ? Matrix<double>(symmetric.diagonal(j - i)).mean()
                               : symmetric(i, j);
      result(i, j) = triangular && i != j ? 2 * entry : entry;
    }
  return result;
}

Matrix<double> random_symmetric(Index size, Rng& rng) {
  const Matrix<double> half = normal<double>(size, size, rng);
  return half + half.transpose();
}

/// Anything of the structure, and the same as a plain matrix.
StructuredMatrix<double> random_structured(Index size, Structure structure, Rng& rng) {
  StructuredMatrix<double> result(size, structure, kBlock);
  result.add_projection(1.0, random_symmetric(size, rng));
  return result;
}

StructuredMatrix<double> product(const StructuredMatrix<double>& a,
                                 const StructuredMatrix<double>& b) {
  StructuredMatrix<double> result = a;
  a.multiply(b, result);
  return result;
}

StructuredMatrix<double> projected_gram(const StructuredMatrix<double>& m) {
  StructuredMatrix<double> result = m;
  m.projected_gram(result);
  return result;
}

template <class A, class B>
double error(const A& actual, const B& expected) {
  return (actual - expected).norm() / std::max(1.0, expected.norm());
}

}  // namespace

TEST_CASE("StructuredMatrix: projections are Pi of a symmetric matrix and of Gram matrices") {
  Rng rng(1);
  for (const Structure structure : kStructures)
    for (const Index size : {1, 2, 3, 4, 5, 9, 64, 65, 131}) {
      const Matrix<double> symmetric = random_symmetric(size, rng);
      StructuredMatrix<double> m(size, structure, kBlock);
      m.add_projection(1.0, symmetric);
      CHECK(error(m.dense(), projection(structure, symmetric)) < 1e-14);
      m.add_projection(-0.25, symmetric);
      CHECK(error(m.dense(), 0.75 * projection(structure, symmetric)) < 1e-14);

      for (const Index columns : {0, 1, 7}) {
        const Matrix<double> x = normal<double>(size, columns, rng);
        const Matrix<double> before = m.dense();
        StructuredMatrix<double> gram = m;
        gram.add_projected_gram(0.7, x);
        const Matrix<double> expected = before + 0.7 * projection(structure, x * x.transpose());
        CHECK(error(gram.dense(), expected) < 1e-13);
      }
      const Matrix<double> dense = m.dense();
      CHECK(error(projected_gram(m).dense(), projection(structure, dense.transpose() * dense)) <
            1e-13);
    }
}

TEST_CASE("StructuredMatrix: half of Pi solves M + transpose(M) = E in the least squares sense") {
  Rng rng(2);
  for (const Structure structure : kStructures)
    for (const Index size : {2, 5, 9}) {
      const Matrix<double> e = random_symmetric(size, rng);
      const Matrix<double> m = projection(structure, e) / 2;
      const Matrix<double> rest = e - m - m.transpose();
      const bool exact = structure == Structure::Dense || structure == Structure::LowerTriangular;
      if (exact) CHECK(rest.norm() < 1e-14 * e.norm());
      // The residual is orthogonal to D + D^T for any D of the structure.
      for (int repeat = 0; repeat < 5; ++repeat) {
        const Matrix<double> d = random_structured(size, structure, rng).dense();
        CHECK(std::abs((rest.array() * (d + d.transpose()).array()).sum()) <
              1e-12 * e.norm() * d.norm());
      }
    }
}

TEST_CASE("StructuredMatrix: products with dense matrices equal those of its dense form") {
  Rng rng(3);
  for (const Structure structure : kStructures)
    for (const Index size : {1, 2, 3, 4, 5, 9, 64, 65, 131})
      for (const Index columns : {1, 6}) {
        const StructuredMatrix<double> m = random_structured(size, structure, rng);
        const Matrix<double> dense = m.dense();
        for (Index i = 0; i < size; ++i)
          for (Index j = 0; j < size; ++j)
            if (!in_structure(structure, i, j) && dense(i, j) != 0) FAIL("outside the structure");
        const Matrix<double> x = normal<double>(size, columns, rng);
        Matrix<double> y(size, columns);
        m.multiply(x, y);
        CHECK(error(y, dense * x) < 1e-14);
        m.multiply_transposed(x, y);
        CHECK(error(y, dense.transpose() * x) < 1e-14);
      }
}

TEST_CASE("StructuredMatrix: sums, products, traces and scales equal those of its dense form") {
  Rng rng(4);
  for (const Structure structure : kStructures)
    for (const Index size : {1, 2, 3, 4, 5, 9, 64, 65}) {
      const StructuredMatrix<double> a = random_structured(size, structure, rng);
      const StructuredMatrix<double> b = random_structured(size, structure, rng);
      CHECK(error(product(a, b).dense(), a.dense() * b.dense()) < 1e-13);
      CHECK(a.trace() == Approx(a.dense().trace()).margin(1e-12));
      CHECK(a.squared_norm() == Approx(a.dense().squaredNorm()));
      CHECK(a.max_abs() == a.dense().cwiseAbs().maxCoeff());
      StructuredMatrix<double> sum = a;
      sum.add(-0.5, b);
      sum.scale(3);
      sum.add_to_diagonal(0.25);
      const Matrix<double> expected =
          3 * (a.dense() - 0.5 * b.dense()) + 0.25 * Matrix<double>::Identity(size, size);
      CHECK(error(sum.dense(), expected) < 1e-13);
      sum.set_identity();
      CHECK(sum.dense() == Matrix<double>::Identity(size, size));
      CHECK(error(product(a, sum).dense(), a.dense()) < 1e-15);
      sum.set_zero();
      CHECK(sum.dense().isZero(0));
      CHECK(sum.all_finite());
      sum.add_to_diagonal(std::nan(""));
      CHECK(!sum.all_finite());
    }
}

TEST_CASE("StructuredMatrix: stores the entries of its structure alone") {
  for (const Index size : {1, 6, 7, 100}) {
    const auto entries = [&](Structure structure) {
      return StructuredMatrix<double>(size, structure, kBlock).entries();
    };
    CHECK(entries(Structure::Dense) == size * size);
    CHECK(entries(Structure::LowerTriangular) == size * (size + 1) / 2);
    CHECK(entries(Structure::BlockDiagonal) == std::min(kBlock, size) * size);
    CHECK(entries(Structure::Diagonal) == size);
    CHECK(entries(Structure::UpperToeplitz) == size);
  }
}

TEST_CASE(
    "StructuredMatrix: a diagonal far too large for a dense matrix is multiplied and squared") {
  constexpr Index kSize = 1000000;
  for (const Structure structure : {Structure::Diagonal, Structure::BlockDiagonal}) {
    StructuredMatrix<double> m(kSize, structure, kBlock);
    m.add_to_diagonal(2);
    Matrix<double> x = Matrix<double>::Ones(kSize, 1);
    Matrix<double> y(kSize, 1);
    m.multiply(x, y);
    CHECK(y.minCoeff() == 2);
    m.add_projected_gram(1, y);
    CHECK(m.trace() == 6.0 * kSize);
    CHECK(projected_gram(product(m, m)).max_abs() > 1000);
  }
}

TEST_CASE("StructuredMatrix names the argument that is wrong") {
  StructuredMatrix<double> m(5, Structure::Diagonal);
  Matrix<double> y(5, 2);
  const Matrix<double> x = Matrix<double>::Ones(4, 2);
  CHECK_THROWS_WITH(m.multiply(x, y),
                    "kfac::linalg::StructuredMatrix::multiply: 'x' has 4 rows, expected 5");
  CHECK_THROWS_WITH(m.multiply_transposed(Matrix<double>::Ones(5, 3), y),
                    "kfac::linalg::StructuredMatrix::multiply_transposed: 'y' is 5x2, expected "
                    "5x3");
  CHECK_THROWS_AS(m.add_projection(1, x), ShapeError);
  CHECK_THROWS_AS(m.add_projected_gram(1, x), ShapeError);
  CHECK_THROWS_AS(m.add(1, StructuredMatrix<double>(5, Structure::UpperToeplitz)), ShapeError);
  StructuredMatrix<double> other(4, Structure::Diagonal);
  CHECK_THROWS_AS(m.multiply(m, other), ShapeError);
  CHECK_THROWS_AS(m.projected_gram(other), ShapeError);
  CHECK_THROWS_WITH(StructuredMatrix<double>(0, Structure::Dense),
                    "kfac::linalg::StructuredMatrix: 'size' is 0, expected >= 1");
  CHECK_THROWS_WITH(StructuredMatrix<double>(3, Structure::BlockDiagonal, 0),
                    "kfac::linalg::StructuredMatrix: 'block_size' is 0, expected >= 1");
}

}  // namespace kfac::test::structured_matrix_test
