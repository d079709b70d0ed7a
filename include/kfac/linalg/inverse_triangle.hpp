#pragma once

#include <algorithm>
#include <limits>

#include <kfac/core/state.hpp>
#include <kfac/linalg/packed_triangle.hpp>
#include <kfac/linalg/spd_inverse.hpp>

namespace kfac::linalg {

/// The inverse of a symmetric positive definite matrix C = L L^T as T^T T with T = L^-1: two thirds
/// of the work of C^-1 itself, half its memory where it is large, and products with it cost the
/// same.
template <RealScalar S>
class InverseTriangle {
 public:
  /// T in place of the lower triangle of C, whose upper one is left alone; 2/3 n^3 operations.
  /// Returns the smallest over the largest squared pivot; 0 if C is not positive definite to
  /// working precision (its contents are then lost).
  static S invert(MatrixRef<S> matrix) {
    S* const scratch = detail::triangle_memory<S>().map(inversion_size(matrix.rows()), 1).data();
    detail::Pivots<S> pivots;
    if (!detail::invert_cholesky<S>(matrix, scratch, pivots)) return S(0);
    return pivots.smallest / pivots.largest;
  }

  /// Copies T, as `invert` left it.
  void assign(const ConstMatrixRef<S>& lower) {
    const Index size = lower.rows();
    storage_.resize(storage_rows(size), storage_columns(size));
    if (is_whole(size)) {
      storage_.setZero();
      for (Index j = 0; j < size; ++j) storage_.col(j).tail(size - j) = lower.col(j).tail(size - j);
      storage_.rightCols(size) = storage_.leftCols(size).transpose();
      return;
    }
    const detail::PackedTriangle<Matrix<S>> packed(storage_);
    const Index first = packed.first();
    const Index second = packed.second();
    packed.upper_left().template triangularView<Eigen::Lower>() = lower.topLeftCorner(first, first);
    packed.lower_left() = lower.bottomLeftCorner(second, first);
    detail::transpose_lower<S>(lower.bottomRightCorner(second, second), packed.lower_right());
  }

  bool empty() const { return storage_.size() == 0; }
  /// How many numbers are kept for a C of that size.
  static Index entries(Index size) { return storage_rows(size) * storage_columns(size); }

  /// How many numbers of scratch the thread keeps that inverts a C of that size and applies the
  /// inverse to so many vectors.
  static Index scratch_size(Index size, Index vectors) {
    const Index parts = part_count(vectors);
    return std::max(inversion_size(size), size * ((vectors + parts - 1) / parts));
  }

  /// V <- C^-1 V. Returns the sum of the squares of T V, which is the inner product of V and C^-1
  /// V.
  S apply_left(MatrixRef<S> v) const {
    S squares = 0;
    if (is_whole(v.rows()) && v.size() <= kFew) {
      MatrixMap<S> product = detail::triangle_memory<S>().map(v.rows(), v.cols());
      linalg::multiply(square(false), v, product);
      squares = product.squaredNorm();
      linalg::multiply(square(true), product, v);
      return squares;
    }
    for_each_part(v.cols(), [&](Index first, Index count) {
      // Transposed, since products have the least to do with a triangle on their right.
      MatrixMap<S> product = detail::triangle_memory<S>().map(count, v.rows());
      MatrixRef<S> part = v.middleCols(first, count);
      multiply_from_right(Strided::of(part).transposed(), detail::result_of(product), true);
      squares += product.squaredNorm();
      multiply_transposed(Strided::of(product).transposed(), detail::result_of(part));
    });
    return squares;
  }
  /// V <- V T, or V T^T.
  void multiply_right(MatrixRef<S> v, bool transposed) const {
    if (is_whole(v.cols()) && v.size() <= kFew) {
      MatrixMap<S> product = detail::triangle_memory<S>().map(v.rows(), v.cols());
      linalg::multiply(v, square(transposed), product);
      v = product;
      return;
    }
    for_each_part(v.rows(), [&](Index first, Index count) {
      MatrixMap<S> product = detail::triangle_memory<S>().map(count, v.cols());
      MatrixRef<S> part = v.middleRows(first, count);
      multiply_from_right(Strided::of(part), detail::result_of(product), transposed);
      part = product;
    });
  }

  /// Of a C of that size.
  void visit_state(StateVisitor& visitor, Index size) {
    visitor.visit_optional("triangle", storage_, storage_rows(size), storage_columns(size));
  }

  /// Up to so many entries of a matrix the triangles' zeros do not matter, nor does a copy of it.
  static constexpr Index kFew = 1024;

 private:
  using Strided = detail::Strided<S>;
  using Result = detail::ProductResult<S>;
  static constexpr detail::Triangle kLower = detail::Triangle::Lower;
  static constexpr detail::Triangle kUpper = detail::Triangle::Upper;

  /// Small triangles are kept in squares, T and T^T, for fewer and larger products.
  static constexpr Index kWhole = 64;
  static bool is_whole(Index size) { return size <= kWhole; }
  static Index storage_rows(Index size) {
    return is_whole(size) ? size : detail::packed_rows(size);
  }
  static Index storage_columns(Index size) {
    return is_whole(size) ? 2 * size : detail::packed_columns(size);
  }

  static Index inversion_size(Index size) {
    if (size <= Index{detail::kTriangleLeaf}) return 0;
    const Index half = detail::first_half(size);
    return half * (size - half);
  }

  /// Columns or rows are taken a few hundred at a time, which bounds the scratch memory and is
  /// enough for the products to be efficient.
  static Index part_count(Index size) {
    constexpr Index kLargest = 384;
    return (size + kLargest - 1) / kLargest;
  }
  template <class Body>
  static void for_each_part(Index size, Body&& body) {
    const Index parts = part_count(size);
    for (Index part = 0; part < parts; ++part) {
      const Index first = size * part / parts;
      body(first, size * (part + 1) / parts - first);
    }
  }

  static Strided rows_of(const Strided& all, Index first, Index count) {
    return {all.at(first, 0), count, all.columns, all.row_stride, all.column_stride};
  }
  static Strided columns_of(const Strided& all, Index first, Index count) {
    return rows_of(all.transposed(), first, count).transposed();
  }
  static Result rows_of(const Result& all, Index first, Index count) {
    return {all.data + first, count, all.columns, all.stride, all.triangle};
  }
  static Result columns_of(const Result& all, Index first, Index count) {
    return {all.data + first * all.stride, all.rows, count, all.stride, all.triangle};
  }

  /// The parts of T: its corners on the diagonal, and what is below them.
  struct Parts {
    Strided upper_left, lower_left, lower_right;
  };
  Parts parts() const {
    const detail::PackedTriangle<const Matrix<S>> packed(storage_);
    return {Strided::of(packed.upper_left(), kLower), Strided::of(packed.lower_left()),
            Strided::of(packed.lower_right(), kUpper).transposed()};
  }

  /// T, or T^T, where it is small, with its zeros.
  auto square(bool transposed) const {
    const Index size = storage_.rows();
    return storage_.middleCols(transposed ? size : 0, size);
  }

  /// into = T^T v.
  void multiply_transposed(const Strided& v, const Result& into) const {
    if (is_whole(v.rows))
      return detail::product<S>(1, Strided::of(square(false), kLower).transposed(), v, into, false);
    const Parts t = parts();
    const Index first = t.upper_left.rows;
    const Index second = t.lower_right.rows;
    const Result into_top = rows_of(into, 0, first);
    const Strided bottom = rows_of(v, first, second);
    detail::product<S>(1, t.upper_left.transposed(), rows_of(v, 0, first), into_top, false);
    detail::product<S>(1, t.lower_left.transposed(), bottom, into_top, true);
    detail::product<S>(1, t.lower_right.transposed(), bottom, rows_of(into, first, second), false);
  }
  /// into = v T, or v T^T.
  void multiply_from_right(const Strided& v, const Result& into, bool transposed) const {
    if (is_whole(v.columns)) {
      const Strided t = Strided::of(square(false), kLower);
      return detail::product<S>(1, v, transposed ? t.transposed() : t, into, false);
    }
    const Parts t = parts();
    const Index first = t.upper_left.rows;
    const Index second = t.lower_right.rows;
    const Strided left = columns_of(v, 0, first);
    const Strided right = columns_of(v, first, second);
    const Result into_left = columns_of(into, 0, first);
    const Result into_right = columns_of(into, first, second);
    if (transposed) {
      detail::product<S>(1, left, t.upper_left.transposed(), into_left, false);
      detail::product<S>(1, left, t.lower_left.transposed(), into_right, false);
      detail::product<S>(1, right, t.lower_right.transposed(), into_right, true);
    } else {
      detail::product<S>(1, left, t.upper_left, into_left, false);
      detail::product<S>(1, right, t.lower_left, into_left, true);
      detail::product<S>(1, right, t.lower_right, into_right, false);
    }
  }

  /// Packed (`PackedTriangle`), or the squares of T and of T^T side by side.
  Matrix<S> storage_;
};

}  // namespace kfac::linalg
