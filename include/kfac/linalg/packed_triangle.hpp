#pragma once

#include <algorithm>

#include <kfac/core/types.hpp>

namespace kfac::linalg::detail {

/// A view of a lower-triangular matrix that is stored in size (size + 1) / 2 numbers and yet is
/// multiplied at the speed of dense matrices: the left half of its columns as they are, and what is
/// left of the right half, transposed, in the triangle above them. `Storage` is a `Matrix<S>`,
/// const or not, of `packed_rows(size) x packed_columns(size)`. \source Gustavson, Wasniewski,
/// Dongarra and Langou, Rectangular full packed format for Cholesky's
///         algorithm, 2010
template <class Storage>
class PackedTriangle {
 public:
  explicit PackedTriangle(Storage& storage)
      : storage_(storage),
        first_(storage.cols()),
        shift_(storage.rows() == 2 * storage.cols() + 1 ? 1 : 0),
        second_(storage.rows() - shift_ - first_) {}

  /// Rows of the halves. The second is empty for size 1; Eigen's triangular products do not bear
  /// that.
  Index first() const { return first_; }
  Index second() const { return second_; }

  /// Of its lower triangle only.
  Eigen::Block<Storage> upper_left() const { return storage_.block(shift_, 0, first_, first_); }
  Eigen::Block<Storage> lower_left() const {
    return storage_.block(shift_ + first_, 0, second_, first_);
  }
  /// Transposed, so of its upper triangle only.
  Eigen::Block<Storage> lower_right() const {
    return storage_.block(0, 1 - shift_, second_, second_);
  }

 private:
  Storage& storage_;
  Index first_;
  Index shift_;
  Index second_;
};

/// Writes the lower triangle of `lower`, transposed, to the upper one of `upper`.
template <RealScalar S>
void transpose_lower(const ConstMatrixRef<S>& lower, MatrixRef<S> upper) {
  constexpr Index kBlock = 32;  // a block and its transpose stay in the first cache
  const Index size = lower.rows();
  for (Index j = 0; j < size; j += kBlock) {
    const Index columns = std::min(kBlock, size - j);
    upper.block(j, j, columns, columns).template triangularView<Eigen::Upper>() =
        lower.block(j, j, columns, columns).transpose();
    for (Index i = j + columns; i < size; i += kBlock) {
      const Index rows = std::min(kBlock, size - i);
      upper.block(j, i, columns, rows) = lower.block(i, j, rows, columns).transpose();
    }
  }
}

inline Index packed_rows(Index size) {
  return size % 2 == 0 ? size + 1 : size;
}
inline Index packed_columns(Index size) {
  return (size + 1) / 2;
}

/// y = L x.
template <RealScalar S>
void packed_multiply(const Matrix<S>& storage, const ConstMatrixRef<S>& x, MatrixRef<S> y) {
  const PackedTriangle<const Matrix<S>> lower(storage);
  const Index first = lower.first();
  const Index second = lower.second();
  y.topRows(first).noalias() =
      lower.upper_left().template triangularView<Eigen::Lower>() * x.topRows(first);
  if (second == 0) return;
  y.bottomRows(second).noalias() =
      lower.lower_right().transpose().template triangularView<Eigen::Lower>() *
      x.bottomRows(second);
  y.bottomRows(second).noalias() += lower.lower_left() * x.topRows(first);
}

/// y = L^T x.
template <RealScalar S>
void packed_multiply_transposed(const Matrix<S>& storage, const ConstMatrixRef<S>& x,
                                MatrixRef<S> y) {
  const PackedTriangle<const Matrix<S>> lower(storage);
  const Index first = lower.first();
  const Index second = lower.second();
  y.topRows(first).noalias() =
      lower.upper_left().transpose().template triangularView<Eigen::Upper>() * x.topRows(first);
  if (second == 0) return;
  y.topRows(first).noalias() += lower.lower_left().transpose() * x.bottomRows(second);
  y.bottomRows(second).noalias() =
      lower.lower_right().template triangularView<Eigen::Upper>() * x.bottomRows(second);
}

/// The product of two lower-triangular matrices.
template <RealScalar S>
void packed_product(const Matrix<S>& left, const Matrix<S>& right, Matrix<S>& product) {
  const PackedTriangle<const Matrix<S>> a(left), b(right);
  const PackedTriangle<Matrix<S>> c(product);
  Matrix<S> full = b.upper_left().template triangularView<Eigen::Lower>();
  Matrix<S> corner = a.upper_left().template triangularView<Eigen::Lower>() * full;
  c.upper_left().template triangularView<Eigen::Lower>() = corner;
  if (c.second() == 0) return;
  c.lower_left().noalias() = a.lower_left() * full;
  c.lower_left().noalias() +=
      a.lower_right().transpose().template triangularView<Eigen::Lower>() * b.lower_left();
  full = a.lower_right().template triangularView<Eigen::Upper>();
  corner = b.lower_right().template triangularView<Eigen::Upper>() * full;
  c.lower_right().template triangularView<Eigen::Upper>() = corner;
}

/// Adds weight times the lower triangle of x x^T, the entries below the diagonal doubled.
template <RealScalar S>
void packed_add_gram(Matrix<S>& storage, const ConstMatrixRef<S>& x, S weight) {
  const PackedTriangle<Matrix<S>> lower(storage);
  const ConstMatrixRef<S> top = x.topRows(lower.first());
  const ConstMatrixRef<S> bottom = x.bottomRows(lower.second());
  const S twice = 2 * weight;
  lower.upper_left().template selfadjointView<Eigen::Lower>().rankUpdate(top, twice);
  lower.upper_left().diagonal() -= weight * top.rowwise().squaredNorm();
  if (lower.second() == 0) return;
  lower.lower_left().noalias() += twice * bottom * top.transpose();
  lower.lower_right().template selfadjointView<Eigen::Upper>().rankUpdate(bottom, twice);
  lower.lower_right().diagonal() -= weight * bottom.rowwise().squaredNorm();
}

/// Adds weight times the lower triangle of a symmetric matrix, likewise doubled.
template <RealScalar S>
void packed_add_symmetric(Matrix<S>& storage, const ConstMatrixRef<S>& symmetric, S weight) {
  const PackedTriangle<Matrix<S>> lower(storage);
  const Index first = lower.first();
  const Index second = lower.second();
  const S twice = 2 * weight;
  lower.upper_left().template triangularView<Eigen::Lower>() +=
      twice * symmetric.topLeftCorner(first, first);
  lower.lower_left() += twice * symmetric.bottomLeftCorner(second, first);
  lower.lower_right().template triangularView<Eigen::Upper>() +=
      twice * symmetric.bottomRightCorner(second, second).transpose();
  lower.upper_left().diagonal() -= weight * symmetric.diagonal().head(first);
  lower.lower_right().diagonal() -= weight * symmetric.diagonal().tail(second);
}

/// The lower triangle of L^T L, likewise doubled.
template <RealScalar S>
void packed_gram(const Matrix<S>& storage, Matrix<S>& gram) {
  const PackedTriangle<const Matrix<S>> lower(storage);
  const PackedTriangle<Matrix<S>> result(gram);
  Matrix<S> full = lower.upper_left().template triangularView<Eigen::Lower>();
  Matrix<S> square = full.transpose() * full;
  square.noalias() += lower.lower_left().transpose() * lower.lower_left();
  result.upper_left().template triangularView<Eigen::Lower>() = S(2) * square;
  result.upper_left().diagonal() *= S(0.5);
  if (lower.second() == 0) return;
  result.lower_left().noalias() =
      lower.lower_right().template triangularView<Eigen::Upper>() * lower.lower_left();
  result.lower_left() *= S(2);
  full = lower.lower_right().template triangularView<Eigen::Upper>();
  square.noalias() = full * full.transpose();
  result.lower_right().template triangularView<Eigen::Upper>() = S(2) * square;
  result.lower_right().diagonal() *= S(0.5);
}

}  // namespace kfac::linalg::detail
