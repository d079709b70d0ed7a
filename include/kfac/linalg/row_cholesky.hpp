#pragma once

#include <algorithm>

#include <kfac/core/buffer.hpp>
#include <kfac/core/state.hpp>

namespace kfac::linalg {

// Small symmetric matrices C_u, `size x size`, one for each row u of a matrix V of `size` columns.
// Their lower triangles are a matrix `rows x triangle_entries(size)`: a column for each entry, so
// that the innermost loops are over rows, however small the C_u.

/// How many entries a lower triangle has.
inline Index triangle_entries(Index size) {
  return size * (size + 1) / 2;
}

/// The column that entry (i, j), i >= j, is in; those of (j, j), (j + 1, j), ... are together.
inline Index triangle_entry(Index size, Index i, Index j) {
  return j * size - j * (j + 1) / 2 + i;
}

/// V.row(u) <- V.row(u) C_u.
template <RealScalar S>
void multiply_rows(const Matrix<S>& triangles, MatrixRef<S> v, Buffer<S>& scratch) {
  const Index size = v.cols();
  MatrixMap<S> before = scratch.map(v.rows(), size);
  before = v;
  v.setZero();
  for (Index j = 0; j < size; ++j)
    for (Index i = j; i < size; ++i) {
      const ConstVectorMap<S> entry(triangles.col(triangle_entry(size, i, j)).data(), v.rows());
      v.col(i) += entry.cwiseProduct(before.col(j));
      if (i > j) v.col(j) += entry.cwiseProduct(before.col(i));
    }
}

/// Cholesky decompositions C_u = L_u L_u^T of positive semi-definite matrices for all rows at once.
template <RealScalar S>
class RowCholesky {
 public:
  /// Returns the least of all ratios of the smallest to the largest squared pivot of a C_u; 0 if
  /// one is not positive definite to working precision. Columns of L_u whose pivot is not positive
  /// are then zero.
  S compute(const Matrix<S>& triangles, Index size, S damping) {
    size_ = size;
    factors_ = triangles;
    inverse_pivots_.resize(triangles.rows(), size);
    for (Index j = 0; j < size; ++j) {
      factors_.col(entry(j, j)).array() += damping;
      for (Index k = 0; k < j; ++k)
        for (Index i = j; i < size; ++i)
          factors_.col(entry(i, j)).array() -=
              factors_.col(entry(i, k)).array() * factors_.col(entry(j, k)).array();
      const ConstVectorMap<S> pivot(factors_.col(entry(j, j)).data(), factors_.rows());
      inverse_pivots_.col(j) =
          (pivot.array() > S(0)).select(pivot.array().sqrt().inverse(), S(0)).matrix();
      for (Index i = j; i < size; ++i)
        factors_.col(entry(i, j)).array() *= inverse_pivots_.col(j).array();
    }
    S least = 1;
    for (Index u = 0; u < inverse_pivots_.rows(); ++u) {
      const S ratio = inverse_pivots_.row(u).minCoeff() / inverse_pivots_.row(u).maxCoeff();
      least = ratio > S(0) ? std::min(least, ratio * ratio) : S(0);
    }
    return least;
  }

  /// V.row(u) <- C_u^-1 V.row(u)^T, by both triangles.
  void solve(MatrixRef<S> v) const {
    for (Index j = 0; j < size_; ++j) {
      v.col(j).array() *= inverse_pivots_.col(j).array();
      for (Index i = j + 1; i < size_; ++i)
        v.col(i).array() -= factors_.col(entry(i, j)).array() * v.col(j).array();
    }
    solve_transposed(v);
  }
  /// V.row(u) <- L_u^-T V.row(u)^T.
  void solve_transposed(MatrixRef<S> v) const {
    for (Index j = size_; j-- > 0;) {
      for (Index i = j + 1; i < size_; ++i)
        v.col(j).array() -= factors_.col(entry(i, j)).array() * v.col(i).array();
      v.col(j).array() *= inverse_pivots_.col(j).array();
    }
  }
  /// V.row(u) <- L_u V.row(u)^T.
  void multiply(MatrixRef<S> v) const {
    for (Index i = size_; i-- > 0;) {
      v.col(i).array() *= factors_.col(entry(i, i)).array();
      for (Index j = 0; j < i; ++j)
        v.col(i).array() += factors_.col(entry(i, j)).array() * v.col(j).array();
    }
  }
  /// The sum of the logarithms of the determinants of all C_u.
  S log_determinant() const { return S(-2) * inverse_pivots_.array().log().sum(); }

  void visit_state(StateVisitor& visitor, Index rows, Index size) {
    size_ = size;
    visitor.visit_optional("factors", factors_, rows, triangle_entries(size));
    visitor.visit_optional("inverse_pivots", inverse_pivots_, rows, size);
  }

 private:
  Index entry(Index i, Index j) const { return triangle_entry(size_, i, j); }

  Index size_ = 0;
  Matrix<S> factors_;         // as the triangles are
  Matrix<S> inverse_pivots_;  // 1 over the diagonals of L_u, 0 where these are 0
};

}  // namespace kfac::linalg
