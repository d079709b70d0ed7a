#pragma once

#include <Eigen/Cholesky>

#include <kfac/core/types.hpp>

namespace kfac::linalg {
namespace detail {

/// Below this size a triangle is worked on column by column; above, halves are joined by matrix
/// products, which is where the time goes.
inline constexpr Index kTriangleLeaf = 32;

/// L <- L^-1 for the lower triangle of L, in place.
template <RealScalar S>
void invert_lower(MatrixRef<S> lower) {
  const Index size = lower.rows();
  if (size <= kTriangleLeaf) {
    for (Index j = size - 1; j >= 0; --j) {
      lower(j, j) = S(1) / lower(j, j);
      // Column j of the inverse is -L_jj^-1 times the inverse below it times column j of L.
      for (Index i = size - 1; i > j; --i) {
        S sum = 0;
        for (Index k = j + 1; k <= i; ++k) sum += lower(i, k) * lower(k, j);
        lower(i, j) = -sum * lower(j, j);
      }
    }
    return;
  }
  const Index top = size / 2;
  const Index bottom = size - top;
  MatrixRef<S> upper_left = lower.topLeftCorner(top, top);
  MatrixRef<S> lower_left = lower.bottomLeftCorner(bottom, top);
  MatrixRef<S> lower_right = lower.bottomRightCorner(bottom, bottom);
  lower_right.template triangularView<Eigen::Lower>().solveInPlace(lower_left);
  upper_left.template triangularView<Eigen::Lower>().template solveInPlace<Eigen::OnTheRight>(
      lower_left);
  lower_left *= S(-1);
  invert_lower<S>(upper_left);
  invert_lower<S>(lower_right);
}

/// B <- L^T B for lower triangular L, in place.
template <RealScalar S>
void multiply_transposed_lower(const ConstMatrixRef<S>& lower, MatrixRef<S> right) {
  const Index size = lower.rows();
  if (size <= kTriangleLeaf) {
    for (Index column = 0; column < right.cols(); ++column)
      for (Index i = 0; i < size; ++i)
        right(i, column) = lower.col(i).tail(size - i).dot(right.col(column).tail(size - i));
    return;
  }
  const Index top = size / 2;
  const Index bottom = size - top;
  multiply_transposed_lower<S>(lower.topLeftCorner(top, top), right.topRows(top));
  right.topRows(top).noalias() +=
      lower.bottomLeftCorner(bottom, top).transpose() * right.bottomRows(bottom);
  multiply_transposed_lower<S>(lower.bottomRightCorner(bottom, bottom), right.bottomRows(bottom));
}

/// The lower triangle of L^T L in place of L's.
template <RealScalar S>
void gram_of_lower(MatrixRef<S> lower) {
  const Index size = lower.rows();
  if (size <= kTriangleLeaf) {
    for (Index j = 0; j < size; ++j)
      for (Index i = j; i < size; ++i)
        lower(i, j) = lower.col(i).tail(size - i).dot(lower.col(j).tail(size - i));
    return;
  }
  const Index top = size / 2;
  const Index bottom = size - top;
  MatrixRef<S> upper_left = lower.topLeftCorner(top, top);
  MatrixRef<S> lower_left = lower.bottomLeftCorner(bottom, top);
  MatrixRef<S> lower_right = lower.bottomRightCorner(bottom, bottom);
  gram_of_lower<S>(upper_left);
  upper_left.template selfadjointView<Eigen::Lower>().rankUpdate(lower_left.transpose());
  multiply_transposed_lower<S>(lower_right, lower_left);
  gram_of_lower<S>(lower_right);
}

}  // namespace detail

/// Copies the lower triangle of a square matrix to the upper.
template <RealScalar S>
void symmetrize_from_lower(MatrixRef<S> matrix) {
  for (Index j = 1; j < matrix.cols(); ++j)
    matrix.col(j).head(j) = matrix.row(j).head(j).transpose();
}

/// Replaces a symmetric positive definite matrix, of which the lower triangle is read, with its
/// inverse (both triangles), in place: Cholesky, inverse of the triangle, and its Gram matrix,
/// n^3/6 multiply-adds each. Returns the smallest over the largest squared pivot, 0 if the matrix
/// is not positive definite to working precision (its contents are then lost): a ratio near the
/// scalar's epsilon says that it is singular.
template <RealScalar S>
S invert_spd(MatrixRef<S> matrix) {
  if (matrix.rows() == 0) return S(1);
  const Eigen::LLT<MatrixRef<S>, Eigen::Lower> cholesky(matrix);
  if (cholesky.info() != Eigen::Success) return S(0);
  if (!matrix.diagonal().allFinite()) return S(0);
  const S ratio = matrix.diagonal().minCoeff() / matrix.diagonal().maxCoeff();
  if (!(ratio > S(0))) return S(0);
  detail::invert_lower<S>(matrix);
  detail::gram_of_lower<S>(matrix);
  symmetrize_from_lower<S>(matrix);
  return ratio * ratio;
}

}  // namespace kfac::linalg
