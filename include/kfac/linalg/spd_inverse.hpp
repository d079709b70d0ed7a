#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>

#include <kfac/linalg/matrix_product.hpp>

namespace kfac::linalg {
namespace detail {

/// The squared pivots of a Cholesky decomposition.
template <RealScalar S>
struct Pivots {
  S smallest = std::numeric_limits<S>::max();
  S largest = 0;

  /// False unless it is a positive number.
  bool add(S pivot) {
    smallest = std::min(smallest, pivot);
    largest = std::max(largest, pivot);
    return pivot > S(0) && pivot <= std::numeric_limits<S>::max();
  }
};

/// Up to this size a triangle is worked on column by column; above, halves are joined by products.
inline constexpr std::size_t kTriangleLeaf = 48;

/// The columns of a small symmetric matrix whose lower triangle is given, each in whole packets.
template <std::size_t Size, RealScalar S>
using SmallColumns = std::array<Eigen::Array<S, static_cast<int>(Size), 1>, Size>;

/// A^-1 in place of A, of at most `Size` rows; the lower triangle is read and written. By
/// Gauss-Jordan elimination, whose pivots are the squared ones of Cholesky.
template <std::size_t Size, RealScalar S>
bool invert_small(MatrixRef<S> matrix, Pivots<S>& pivots) {
  const auto size = static_cast<std::size_t>(matrix.rows());
  SmallColumns<Size, S> columns;
  for (std::size_t j = 0; j < size; ++j) {
    columns[j].setZero();
    for (std::size_t i = j; i < size; ++i)
      columns[j](static_cast<Index>(i)) = matrix(static_cast<Index>(i), static_cast<Index>(j));
    for (std::size_t i = 0; i < j; ++i)
      columns[j](static_cast<Index>(i)) = columns[i](static_cast<Index>(j));
  }
  for (std::size_t k = 0; k < size; ++k) {
    const auto column = columns[k];
    const S pivot = column(static_cast<Index>(k));
    if (!pivots.add(pivot)) return false;
    const S inverse = S(1) / pivot;
    for (std::size_t j = 0; j < size; ++j) {
      const S factor = columns[j](static_cast<Index>(k)) * inverse;
      columns[j] -= factor * column;
      columns[j](static_cast<Index>(k)) = factor;
    }
    columns[k] = -inverse * column;
    columns[k](static_cast<Index>(k)) = inverse;
  }
  for (std::size_t j = 0; j < size; ++j)
    for (std::size_t i = j; i < size; ++i)
      matrix(static_cast<Index>(i), static_cast<Index>(j)) = columns[j](static_cast<Index>(i));
  return true;
}

/// The same, with as few packets as the size allows. \pre at most kTriangleLeaf rows
template <RealScalar S>
bool invert_at_once(MatrixRef<S> matrix, Pivots<S>& pivots) {
  if (matrix.rows() <= 16) return invert_small<16, S>(matrix, pivots);
  if (matrix.rows() <= 32) return invert_small<32, S>(matrix, pivots);
  return invert_small<kTriangleLeaf, S>(matrix, pivots);
}

/// L^-1 in place of the lower triangle of A = L L^T, of at most `Size` rows: M A M^T = D with ones
/// on the diagonal of the triangle M, of which D^-1/2 M is made only then, for the pivots not to
/// wait for each other's roots.
template <std::size_t Size, RealScalar S>
bool invert_small_cholesky(MatrixRef<S> matrix, Pivots<S>& pivots) {
  const auto size = static_cast<std::size_t>(matrix.rows());
  // Column k of what is left of A; what is above the diagonal becomes row k of M on the way.
  SmallColumns<Size, S> columns;
  for (Index j = 0; j < matrix.rows(); ++j) {
    auto& column = columns[static_cast<std::size_t>(j)];
    column.setZero();
    column.segment(j, matrix.rows() - j) = matrix.col(j).tail(matrix.rows() - j);
  }
  Eigen::Array<S, static_cast<int>(Size), 1> diagonal;
  diagonal.setOnes();
  for (std::size_t j = 0; j < size; ++j) {
    const auto row = static_cast<Index>(j);
    const S pivot = columns[j](row);
    if (!pivots.add(pivot)) return false;
    diagonal(row) = pivot;
    const S inverse = S(1) / pivot;
    // Entry j of the columns becomes one of M, by whole packets, since to write it alone would keep
    // the next step waiting.
    auto column = columns[j];
    column(row) = 1;
    Eigen::Array<S, static_cast<int>(Size), 1> keep;
    keep.setOnes();
    keep(row) = 0;
    for (std::size_t k = j + 1; k < size; ++k)
      columns[k] = keep * columns[k] - (columns[j](static_cast<Index>(k)) * inverse) * column;
    columns[j](row) = 1;
  }
  diagonal = diagonal.sqrt().inverse();
  for (Index j = 0; j < matrix.rows(); ++j)
    for (Index i = j; i < matrix.rows(); ++i)
      matrix(i, j) = columns[static_cast<std::size_t>(i)](j) * diagonal(i);
  return true;
}

/// Memory that each thread keeps.
template <RealScalar S>
Buffer<S>& triangle_memory() {
  thread_local Buffer<S> memory;
  return memory;
}

/// Half of it, but such that the first half is made of whole packets.
inline Index first_half(Index size) {
  return (size / 2 + 15) / 16 * 16;
}

/// L^-1 in place of the lower triangle of A = L L^T; what is above the diagonal is neither read nor
/// written. `scratch` has room for a quarter of the matrix. Returns false if A is not positive
/// definite to working precision.
///
/// Halves are joined by products with triangles alone: 2/3 n^3 operations in all. (Solving with
/// explicit inverses of L costs accuracy with the root of the condition number; joining halves by
/// inverses of A itself would cost it with the condition number.)
template <RealScalar S>
bool invert_cholesky(MatrixRef<S> matrix, S* scratch, Pivots<S>& pivots) {
  const Index size = matrix.rows();
  if (size <= 16) return invert_small_cholesky<16, S>(matrix, pivots);
  if (size <= 32) return invert_small_cholesky<32, S>(matrix, pivots);
  if (size <= Index{kTriangleLeaf}) return invert_small_cholesky<kTriangleLeaf, S>(matrix, pivots);
  const Index top = first_half(size);
  const Index bottom = size - top;
  MatrixRef<S> first = matrix.topLeftCorner(top, top);
  MatrixRef<S> between = matrix.bottomLeftCorner(bottom, top);
  MatrixRef<S> second = matrix.bottomRightCorner(bottom, bottom);
  MatrixMap<S> joint(scratch, bottom, top);

  if (!invert_cholesky<S>(first, scratch, pivots)) return false;
  const Strided<S> first_inverse = Strided<S>::of(first, Triangle::Lower);
  const Strided<S> lower = Strided<S>::of(joint);
  product<S>(1, Strided<S>::of(between), first_inverse.transposed(), result_of(joint), false);
  product<S>(-1, lower, lower.transposed(), result_of(second, Triangle::Lower), true);
  product<S>(-1, lower, first_inverse, result_of(between), false);
  if (!invert_cholesky<S>(second, scratch, pivots)) return false;
  product<S>(1, Strided<S>::of(second, Triangle::Lower), Strided<S>::of(between), result_of(joint),
             false);
  between = joint;
  return true;
}

/// The lower triangle of L^T L in place of L's; n^3/3 operations.
template <RealScalar S>
void gram_of_lower(MatrixRef<S> lower, S* scratch) {
  const Index size = lower.rows();
  const Strided<S> triangle = Strided<S>::of(lower, Triangle::Lower);
  if (size <= Index{2 * kTriangleLeaf}) {
    MatrixMap<S> gram(scratch, size, size);
    product<S>(1, triangle.transposed(), triangle, result_of(gram, Triangle::Lower), false);
    lower.template triangularView<Eigen::Lower>() = gram;
    return;
  }
  const Index top = first_half(size);
  const Index bottom = size - top;
  MatrixRef<S> first = lower.topLeftCorner(top, top);
  MatrixRef<S> between = lower.bottomLeftCorner(bottom, top);
  MatrixRef<S> second = lower.bottomRightCorner(bottom, bottom);
  MatrixMap<S> joint(scratch, bottom, top);
  gram_of_lower<S>(first, scratch);
  product<S>(1, Strided<S>::of(between).transposed(), Strided<S>::of(between),
             result_of(first, Triangle::Lower), true);
  product<S>(1, Strided<S>::of(second, Triangle::Lower).transposed(), Strided<S>::of(between),
             result_of(joint), false);
  between = joint;
  gram_of_lower<S>(second, scratch);
}

/// How many numbers of scratch it takes to invert a matrix of that size.
inline Index inversion_scratch_size(Index size) {
  if (size <= Index{kTriangleLeaf}) return 0;
  const Index half = first_half(size);
  return std::max(half * (size - half), Index{4 * kTriangleLeaf * kTriangleLeaf});
}

/// The lower triangle of A^-1 in place of A's. Returns false as `invert_cholesky`.
template <RealScalar S>
bool invert_lower(MatrixRef<S> matrix, Pivots<S>& pivots) {
  const Index size = matrix.rows();
  if (size <= Index{kTriangleLeaf}) return invert_at_once<S>(matrix, pivots);
  S* const scratch = triangle_memory<S>().map(inversion_scratch_size(size), 1).data();
  if (!invert_cholesky<S>(matrix, scratch, pivots)) return false;
  gram_of_lower<S>(matrix, scratch);
  return true;
}

}  // namespace detail

/// Copies the lower triangle of a square matrix to the upper.
template <RealScalar S>
void symmetrize_from_lower(MatrixRef<S> matrix) {
  constexpr Index kBlock = 16;  // rows of as many columns fit into the first cache
  const Index size = matrix.cols();
  for (Index j = 0; j < size; j += kBlock) {
    const Index columns = std::min(kBlock, size - j);
    for (Index k = 0; k < columns; ++k)
      for (Index i = k + 1; i < columns; ++i) matrix(j + k, j + i) = matrix(j + i, j + k);
    for (Index i = j + columns; i < size; i += kBlock) {
      const Index rows = std::min(kBlock, size - i);
      matrix.block(j, i, columns, rows) = matrix.block(i, j, rows, columns).transpose();
    }
  }
}

/// Replaces a symmetric positive definite matrix, of which the lower triangle is read, with its
/// inverse (both triangles), in place, by n^3 operations in matrix products: the inverse of the
/// Cholesky factor, and its Gram matrix. Returns the smallest over the largest squared pivot, 0 if
/// the matrix is not positive definite to working precision (its contents are then lost): a ratio
/// near the scalar's epsilon says that it is singular.
template <RealScalar S>
S invert_spd(MatrixRef<S> matrix) {
  if (matrix.rows() == 0) return S(1);
  detail::Pivots<S> pivots;
  if (!detail::invert_lower<S>(matrix, pivots)) return S(0);
  symmetrize_from_lower<S>(matrix);
  return pivots.smallest / pivots.largest;
}

}  // namespace kfac::linalg
