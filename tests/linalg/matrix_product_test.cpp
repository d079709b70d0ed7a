#include <array>
#include <limits>

#include <kfac/core/parallel.hpp>
#include <kfac/core/random.hpp>
#include <kfac/linalg/matrix_product.hpp>

#include "support/catch.hpp"

namespace kfac::test::matrix_product_test {

namespace {

using linalg::detail::Strided;
using linalg::detail::Triangle;
using RowMajor = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

template <RealScalar S = double>
Matrix<S> random_matrix(Index rows, Index columns, Rng& rng) {
  Matrix<S> result(rows, columns);
  rng.fill_normal(result);
  return result;
}

/// By sums of products, one entry at a time.
Matrix<double> expected(const Matrix<double>& a, const Matrix<double>& b) {
  return a.lazyProduct(b);
}

double error(const Matrix<double>& actual, const Matrix<double>& wanted) {
  return (actual - wanted).norm() / (1e-300 + wanted.norm());
}

Matrix<double> only(const Matrix<double>& matrix, Triangle triangle) {
  if (triangle == Triangle::Lower) return matrix.triangularView<Eigen::Lower>();
  if (triangle == Triangle::Upper) return matrix.triangularView<Eigen::Upper>();
  return matrix;
}

/// Sizes on both sides of those of tiles, panels and blocks.
constexpr std::array kSizes{1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 23, 24, 25, 47, 48, 49, 65, 100};

}  // namespace

TEST_CASE("multiply: equals the sums of products for every small shape") {
  Rng rng(1);
  for (const Index rows : kSizes)
    for (const Index columns : kSizes)
      for (const Index depth : {1, 2, 15, 16, 33}) {
        const Matrix<double> a = random_matrix(rows, depth, rng);
        const Matrix<double> b = random_matrix(depth, columns, rng);
        Matrix<double> c =
            Matrix<double>::Constant(rows, columns, std::numeric_limits<double>::quiet_NaN());
        linalg::multiply(a, b, c);
        CAPTURE(rows, columns, depth);
        CHECK(error(c, expected(a, b)) < 1e-14);
      }
}

TEST_CASE("multiply: equals the sums of products beyond the size of every block") {
  Rng rng(2);
  const Index shapes[][3] = {{200, 30, 700}, {3, 1100, 5}, {500, 2, 161}, {193, 1030, 321}};
  for (const auto& [rows, columns, depth] : shapes) {
    const Matrix<double> a = random_matrix(rows, depth, rng);
    const Matrix<double> b = random_matrix(depth, columns, rng);
    Matrix<double> c(rows, columns);
    linalg::multiply(a, b, c);
    CAPTURE(rows, columns, depth);
    CHECK(error(c, expected(a, b)) < 1e-13);
  }
}

TEST_CASE("multiply: in single precision, to its rounding") {
  Rng rng(3);
  for (const Index size : {5, 64, 333}) {
    const Matrix<float> a = random_matrix<float>(size, size + 9, rng);
    const Matrix<float> b = random_matrix<float>(size + 9, size, rng);
    Matrix<float> c(size, size);
    linalg::multiply(a, b.transpose().eval().transpose(), c);
    const Matrix<double> wanted = expected(a.cast<double>(), b.cast<double>());
    CHECK(error(c.cast<double>(), wanted) < 1e-6);
  }
}

TEST_CASE("multiply: takes transposes, blocks, maps and row-major matrices, and writes to them") {
  Rng rng(4);
  for (const Index size : {6, 50, 130}) {
    const Matrix<double> large = random_matrix(3 * size, 3 * size, rng);
    const Matrix<double> a = large.block(1, 2, size, size + 5);
    const Matrix<double> b = large.block(size, 4, size + 5, size + 1);
    const RowMajor a_by_rows = a;
    const Matrix<double> b_transposed = b.transpose();
    const Matrix<double> wanted = expected(a, b);
    Matrix<double> c(size, size + 1);

    linalg::multiply(large.block(1, 2, size, size + 5), large.block(size, 4, size + 5, size + 1),
                     c);
    CHECK(error(c, wanted) < 1e-14);
    linalg::multiply(a_by_rows, b_transposed.transpose(), c);
    CHECK(error(c, wanted) < 1e-14);
    RowMajor by_rows(size, size + 1);
    linalg::multiply(a, b, by_rows);
    CHECK(error(by_rows, wanted) < 1e-14);
    Matrix<double> frame = Matrix<double>::Constant(size + 4, size + 4, 7.0);
    linalg::multiply(a, b, frame.block(2, 1, size, size + 1));
    CHECK(error(frame.block(2, 1, size, size + 1), wanted) < 1e-14);
    frame.block(2, 1, size, size + 1).setConstant(7.0);
    CHECK(frame == Matrix<double>::Constant(size + 4, size + 4, 7.0));
    // Every second row and column.
    using Strides = Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>;
    const Eigen::Map<const Matrix<double>, 0, Strides> spread(large.data(), size, size,
                                                              Strides(6 * size, 2));
    Matrix<double> square(size, size);
    linalg::multiply(spread, spread.transpose(), square);
    CHECK(error(square, expected(spread, spread.transpose())) < 1e-14);
  }
}

TEST_CASE("multiply_add: adds a multiple to what is there") {
  Rng rng(5);
  for (const Index depth : {0, 3, 400}) {
    const Matrix<double> a = random_matrix(60, depth, rng);
    const Matrix<double> b = random_matrix(depth, 21, rng);
    const Matrix<double> before = random_matrix(60, 21, rng);
    Matrix<double> c = before;
    linalg::multiply_add(-0.75, a, b, c);
    CHECK(error(c, before - 0.75 * expected(a, b)) < 1e-14);
  }
}

TEST_CASE("multiply: of matrices without columns and rows in common is zero") {
  Matrix<double> c = Matrix<double>::Ones(3, 4);
  linalg::multiply(Matrix<double>(3, 0), Matrix<double>(0, 4), c);
  CHECK(c == Matrix<double>::Zero(3, 4));
  Matrix<double> none(0, 4);
  linalg::multiply(Matrix<double>(0, 3), Matrix<double>(3, 4), none);
}

TEST_CASE("rank_update: adds to the lower triangle and leaves the rest") {
  Rng rng(6);
  for (const Index size : kSizes)
    for (const Index depth : {1, 20, 350}) {
      const Matrix<double> x = random_matrix(size, depth, rng);
      const Matrix<double> before = random_matrix(size, size, rng);
      Matrix<double> c = before;
      linalg::rank_update(0.5, x, c);
      Matrix<double> wanted = before;
      wanted.triangularView<Eigen::Lower>() = before + 0.5 * expected(x, x.transpose());
      CAPTURE(size, depth);
      CHECK(error(c, wanted) < 1e-14);
      const Matrix<double> above = c.triangularView<Eigen::StrictlyUpper>();
      CHECK(above == Matrix<double>(before.triangularView<Eigen::StrictlyUpper>()));
      Matrix<double> again = before;
      linalg::rank_update(0.5, RowMajor(x), again);
      CHECK(error(again, wanted) < 1e-14);
    }
}

TEST_CASE("product: takes what is beyond a triangle for zeros, whatever is there") {
  Rng rng(7);
  for (const Index size : {1, 4, 9, 17, 49, 130, 200}) {
    Matrix<double> a = random_matrix(size, size, rng);
    Matrix<double> b = random_matrix(size, size, rng);
    for (const Triangle left : {Triangle::All, Triangle::Lower, Triangle::Upper})
      for (const Triangle right : {Triangle::All, Triangle::Lower, Triangle::Upper})
        for (const Triangle result : {Triangle::All, Triangle::Lower}) {
          const Matrix<double> wanted = only(expected(only(a, left), only(b, right)), result);
          Matrix<double> c = Matrix<double>::Zero(size, size);
          linalg::detail::product<double>(1, Strided<double>::of(a, left),
                                          Strided<double>::of(b, right),
                                          linalg::detail::result_of(c, result), false);
          CAPTURE(size, int(left), int(right), int(result));
          CHECK(error(c, wanted) < 1e-14);
          // The same through transposes in memory.
          const Matrix<double> a_transposed = a.transpose();
          const Matrix<double> b_transposed = b.transpose();
          c.setZero();
          linalg::detail::product<double>(
              1, Strided<double>::of(a_transposed, linalg::detail::transposed(left)).transposed(),
              Strided<double>::of(b_transposed, linalg::detail::transposed(right)).transposed(),
              linalg::detail::result_of(c, result), false);
          CHECK(error(c, wanted) < 1e-14);
        }
  }
}

TEST_CASE("products: of long rows, which lie in one piece") {
  Rng rng(9);
  for (const Index rows : {1, 3, 4, 9, 33, 64, 65})
    for (const Index depth : {1, 7, 8, 9, 31, 64, 130, 676}) {
      CAPTURE(rows, depth);
      const RowMajor x = random_matrix(rows, depth, rng);
      const Matrix<double> y = random_matrix(depth, 7, rng);
      const Matrix<double> before = random_matrix(rows, rows, rng);
      const Matrix<double> wanted = expected(x, x.transpose());
      Matrix<double> c = before;
      linalg::gram(2.0, x, c);
      CHECK(error(only(c, Triangle::Lower), only(2 * wanted, Triangle::Lower)) < 1e-14);
      for (Index j = 1; j < rows; ++j) CHECK(c.col(j).head(j) == before.col(j).head(j));
      c = before;
      linalg::rank_update(-0.5, x, c);
      const Matrix<double> sum = before - 0.5 * wanted;
      CHECK(error(only(c, Triangle::Lower), only(sum, Triangle::Lower)) < 1e-14);
      Matrix<double> product = random_matrix(rows, 7, rng);
      linalg::multiply(x, y, product);
      CHECK(error(product, expected(x, y)) < 1e-14);
    }
}

TEST_CASE("product: of a symmetric matrix one triangle is read") {
  Rng rng(10);
  for (const Index size : {1, 5, 48, 65, 130, 450}) {
    const Matrix<double> x = random_matrix(size, size, rng);
    const Matrix<double> symmetric = x + x.transpose();
    const Matrix<double> v = random_matrix(size, 20, rng);
    for (const Triangle triangle : {Triangle::Lower, Triangle::Upper}) {
      CAPTURE(size, triangle == Triangle::Lower);
      Matrix<double> stored = Matrix<double>::Constant(size, size, 1e300);
      for (Index j = 0; j < size; ++j)
        for (Index i = 0; i < size; ++i)
          if (triangle == Triangle::Lower ? i >= j : i <= j) stored(i, j) = symmetric(i, j);
      Strided<double> operand = Strided<double>::of(stored, triangle);
      operand.is_mirrored = true;
      for (const Strided<double>& c : {operand, operand.transposed()}) {
        Matrix<double> left(size, 20), right(20, size);
        linalg::detail::product<double>(1, c, Strided<double>::of(v),
                                        linalg::detail::result_of(left), false);
        CHECK(error(left, expected(symmetric, v)) < 1e-13);
        linalg::detail::product<double>(1, Strided<double>::of(v).transposed(), c,
                                        linalg::detail::result_of(right), false);
        CHECK(error(right, expected(v.transpose(), symmetric)) < 1e-13);
      }
    }
  }
}

TEST_CASE("multiply: any number of threads gives the same bits") {
  Rng rng(8);
  const Index shapes[][3] = {{301, 203, 150}, {1000, 9, 300}, {30, 900, 200}};
  for (const auto& [rows, columns, depth] : shapes) {
    const Matrix<double> a = random_matrix(rows, depth, rng);
    const Matrix<double> b = random_matrix(depth, columns, rng);
    Matrix<double> alone(rows, columns);
    linalg::multiply(a, b, alone);
    Matrix<double> gram = Matrix<double>::Zero(rows, rows);
    linalg::rank_update(1.0, a, gram);
    for (const Index workers : {1, 2, 5}) {
      ThreadPool pool(workers);
      const ParallelScope parallel(&pool);
      Matrix<double> together =
          Matrix<double>::Constant(rows, columns, std::numeric_limits<double>::quiet_NaN());
      linalg::multiply(a, b, together);
      CHECK(together == alone);
      Matrix<double> gram_together = Matrix<double>::Zero(rows, rows);
      linalg::rank_update(1.0, a, gram_together);
      CHECK(gram_together == gram);
    }
  }
}

}  // namespace kfac::test::matrix_product_test
