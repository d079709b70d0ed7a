#pragma once

#include <algorithm>
#include <utility>

#include <kfac/core/types.hpp>

namespace kfac::linalg::detail {

/// Which entries of a matrix count; the others are taken for zeros (or for the mirror images of
/// these), whatever is stored there.
enum class Triangle { All, Lower, Upper };

inline Triangle transposed(Triangle triangle) {
  if (triangle == Triangle::All) return triangle;
  return triangle == Triangle::Lower ? Triangle::Upper : Triangle::Lower;
}

/// A matrix in memory, at any distance from an entry to the next in its row and in its column.
template <RealScalar S>
struct Strided {
  const S* data = nullptr;
  Index rows = 0, columns = 0;
  Index row_stride = 1, column_stride = 1;
  Triangle triangle = Triangle::All;
  bool is_mirrored = false;  ///< a symmetric matrix, of which one triangle is stored

  template <class Derived>
  static Strided of(const Eigen::DenseBase<Derived>& matrix, Triangle triangle = Triangle::All) {
    const Derived& m = matrix.derived();
    const Index inner = m.innerStride();
    const Index outer = m.outerStride();
    if (Derived::IsRowMajor) return {m.data(), m.rows(), m.cols(), outer, inner, triangle};
    return {m.data(), m.rows(), m.cols(), inner, outer, triangle};
  }

  Strided transposed() const {
    return {data,       columns, rows, column_stride, row_stride, detail::transposed(triangle),
            is_mirrored};
  }
  const S* at(Index i, Index j) const { return data + i * row_stride + j * column_stride; }
  bool counts(Index i, Index j) const {
    if (triangle == Triangle::Lower) return i >= j;
    return triangle == Triangle::All || i <= j;
  }
  /// From which column to which, exclusive, `count` rows from row i on have entries that count.
  std::pair<Index, Index> span_of_rows(Index i, Index count) const {
    if (is_mirrored) return {0, columns};
    if (triangle == Triangle::Lower) return {0, std::min(columns, i + count)};
    if (triangle == Triangle::Upper) return {std::min(columns, i), columns};
    return {0, columns};
  }
};

}  // namespace kfac::linalg::detail
