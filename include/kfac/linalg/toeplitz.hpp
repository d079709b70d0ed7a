#pragma once

#include <algorithm>

#include <kfac/core/types.hpp>

/// Upper-triangular Toeplitz matrices T(i, j) = t(j - i), zero for j < i, by their first row t. The
/// products go through tiles, so that they run as dense products without a dense matrix.
namespace kfac::linalg::detail {

inline constexpr Index kToeplitzTile = 64;

/// On the stack.
template <RealScalar S>
using ToeplitzTile =
    Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic, Eigen::ColMajor, kToeplitzTile, kToeplitzTile>;

/// Calls `body(i, j, rows, columns)` with the first rows and columns and the sizes of all tiles
/// that are `offset` tiles right of the diagonal.
template <class Body>
void for_each_tile(Index size, Index offset, Body&& body) {
  for (Index i = 0, j = offset * kToeplitzTile; j < size; i += kToeplitzTile, j += kToeplitzTile)
    body(i, j, std::min(kToeplitzTile, size - i), std::min(kToeplitzTile, size - j));
}

/// y = T x, or T^T x.
template <RealScalar S>
void toeplitz_multiply(const ConstVectorRef<S>& t, bool transposed, const ConstMatrixRef<S>& x,
                       MatrixRef<S> y) {
  const Index size = t.size();
  const Index side = std::min(kToeplitzTile, size);
  ToeplitzTile<S> tile(side, side);
  y.setZero();
  for (Index offset = 0; offset * kToeplitzTile < size; ++offset) {
    for (Index j = 0; j < side; ++j)
      for (Index i = 0; i < side; ++i) {
        const Index distance = offset * kToeplitzTile + j - i;
        tile(i, j) = distance >= 0 && distance < size ? t(distance) : S(0);
      }
    for_each_tile(size, offset, [&](Index i, Index j, Index rows, Index columns) {
      const Eigen::Block<const ToeplitzTile<S>> part(tile, 0, 0, rows, columns);
      if (transposed)
        y.middleRows(j, columns).noalias() += part.transpose() * x.middleRows(i, rows);
      else
        y.middleRows(i, rows).noalias() += part * x.middleRows(j, columns);
    });
  }
}

/// The weight with which a projection takes the sum of a symmetric matrix's `distance`-th diagonal:
/// for its mean, twice that off the diagonal.
template <RealScalar S>
S toeplitz_share(Index size, Index distance) {
  return S(distance == 0 ? 1 : 2) / static_cast<S>(size - distance);
}

/// Adds weight times the projection of x x^T to t.
template <RealScalar S>
void toeplitz_add_gram(const ConstMatrixRef<S>& x, S weight, VectorRef<S> t) {
  const Index size = t.size();
  const Index side = std::min(kToeplitzTile, size);
  ToeplitzTile<S> tile(side, side);
  for (Index offset = 0; offset * kToeplitzTile < size; ++offset)
    for_each_tile(size, offset, [&](Index i, Index j, Index rows, Index columns) {
      Eigen::Block<ToeplitzTile<S>> part(tile, 0, 0, rows, columns);
      part.noalias() = x.middleRows(i, rows) * x.middleRows(j, columns).transpose();
      for (Index column = 0; column < columns; ++column)
        for (Index row = 0; row < rows; ++row) {
          const Index distance = j - i + column - row;
          if (distance >= 0)
            t(distance) += weight * toeplitz_share<S>(size, distance) * part(row, column);
        }
    });
}

/// The projection of T^T T: the sum of its `distance`-th diagonal has t(p) t(p + distance) as often
/// as there are rows below p that reach it. `gram` must not overlap `t`.
template <RealScalar S>
void toeplitz_gram(const ConstVectorRef<S>& t, VectorRef<S> gram) {
  const Index size = t.size();
  for (Index distance = 0; distance < size; ++distance) {
    const Index count = size - distance;
    S sum = 0;
    for (Index p = 0; p < count; ++p) sum += static_cast<S>(count - p) * t(p) * t(p + distance);
    gram(distance) = toeplitz_share<S>(size, distance) * sum;
  }
}

/// The first row of the product of two such matrices, which must not overlap theirs.
template <RealScalar S>
void toeplitz_product(const ConstVectorRef<S>& a, const ConstVectorRef<S>& b,
                      VectorRef<S> product) {
  const Index size = a.size();
  product.setZero();
  for (Index i = 0; i < size; ++i) product.tail(size - i) += a(i) * b.head(size - i);
}

}  // namespace kfac::linalg::detail
