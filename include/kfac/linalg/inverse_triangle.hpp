#pragma once

#include <algorithm>
#include <limits>

#include <kfac/core/state.hpp>
#include <kfac/linalg/packed_triangle.hpp>
#include <kfac/linalg/spd_inverse.hpp>

namespace kfac::linalg {

/// The inverse of a symmetric positive definite matrix C = L L^T as T^T T with T = L^-1: two thirds
/// of the work of C^-1 itself, half its memory, and products with it cost the same.
template <RealScalar S>
class InverseTriangle {
 public:
  /// T in place of the lower triangle of C, whose upper one is left alone; 2/3 n^3 operations.
  /// Returns the smallest over the largest squared pivot; 0 if C is not positive definite to
  /// working precision (its contents are then lost).
  static S invert(MatrixRef<S> matrix) {
    const Index half = detail::first_half(matrix.rows());
    constexpr Index kLeast{4 * detail::kTriangleLeaf * detail::kTriangleLeaf};
    S* const scratch =
        detail::triangle_memory<S>().map(std::max(half * (matrix.rows() - half), kLeast), 1).data();
    detail::Pivots<S> pivots;
    if (!detail::invert_cholesky<S>(matrix, scratch, pivots)) return S(0);
    return pivots.smallest / pivots.largest;
  }

  /// Copies T, as `invert` left it.
  void assign(const ConstMatrixRef<S>& lower) {
    const Index size = lower.rows();
    storage_.resize(storage_rows(size), storage_columns(size));
    if (is_whole(size)) {
      storage_.template triangularView<Eigen::Lower>() = lower;
      symmetrize_from_lower<S>(storage_);
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

  /// V <- C^-1 V. Returns the sum of the squares of T V, which is the inner product of V and C^-1
  /// V.
  S apply_left(MatrixRef<S> v) const {
    S squares = 0;
    if (is_whole(v.rows()) && v.rows() < v.cols() && v.size() <= kFew) {
      const auto row = [&](Index i) { return v.row(i); };
      combine(row);
      squares = v.squaredNorm();
      combine_transposed(row);
      return squares;
    }
    if (is_whole(v.rows()) && v.size() <= kFew) {
      for (Index j = 0; j < v.cols(); ++j) {
        SmallVector x = v.col(j);
        multiply(x);
        squares += x.squaredNorm();
        multiply_transposed(x);
        v.col(j) = x;
      }
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
    if (is_whole(v.cols()) && v.cols() < v.rows() && v.size() <= kFew) {
      const auto column = [&](Index j) { return v.col(j); };
      return transposed ? combine(column) : combine_transposed(column);
    }
    if (is_whole(v.cols()) && v.size() <= kFew) {
      for (Index i = 0; i < v.rows(); ++i) {
        SmallVector x = v.row(i).transpose();
        transposed ? multiply(x) : multiply_transposed(x);
        v.row(i) = x.transpose();
      }
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

 private:
  using Strided = detail::Strided<S>;
  using Result = detail::ProductResult<S>;
  static constexpr detail::Triangle kLower = detail::Triangle::Lower;
  static constexpr detail::Triangle kUpper = detail::Triangle::Upper;

  /// Small triangles are kept in a square, for fewer and larger products.
  static constexpr Index kWhole = 64;
  static bool is_whole(Index size) { return size <= kWhole; }
  /// Entries of a matrix that is better taken vector by vector, or the vectors themselves combined
  /// where they are longer than many.
  static constexpr Index kFew = 1024;
  static Index storage_rows(Index size) {
    return is_whole(size) ? size : detail::packed_rows(size);
  }
  static Index storage_columns(Index size) {
    return is_whole(size) ? size : detail::packed_columns(size);
  }

  /// Columns or rows are taken a few hundred at a time, which bounds the scratch memory and is
  /// enough for the products to be efficient.
  template <class Body>
  static void for_each_part(Index size, Body&& body) {
    constexpr Index kLargest = 384;
    const Index parts = (size + kLargest - 1) / kLargest;
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

  /// Row i of T (x_0, x_1, ...)^T in the place of each vector x_i; T is in a square.
  template <class Vectors>
  void combine(Vectors&& x) const {
    for (Index i = storage_.rows() - 1; i >= 0; --i) {
      x(i) *= storage_(i, i);
      for (Index k = 0; k < i; ++k) x(i) += storage_(i, k) * x(k);
    }
  }
  /// The same of T^T.
  template <class Vectors>
  void combine_transposed(Vectors&& x) const {
    for (Index k = 0; k < storage_.rows(); ++k) {
      x(k) *= storage_(k, k);
      for (Index i = k + 1; i < storage_.rows(); ++i) x(k) += storage_(i, k) * x(i);
    }
  }

  using SmallVector = Eigen::Matrix<S, Eigen::Dynamic, 1, 0, kWhole, 1>;

  /// x <- T x for a T in a square.
  void multiply(SmallVector& x) const {
    for (Index k = x.size() - 1; k >= 0; --k) {
      const S factor = x(k);
      x(k) *= storage_(k, k);
      const Index rest = x.size() - k - 1;
      x.tail(rest) += factor * storage_.col(k).tail(rest);
    }
  }
  /// x <- T^T x likewise.
  void multiply_transposed(SmallVector& x) const {
    for (Index i = 0; i < x.size(); ++i) {
      const S factor = x(i);
      x(i) *= storage_(i, i);
      x.head(i) += factor * storage_.col(i).head(i);
    }
  }

  /// into = T^T v.
  void multiply_transposed(const Strided& v, const Result& into) const {
    if (is_whole(v.rows))
      return detail::product<S>(1, Strided::of(storage_, kLower).transposed(), v, into, false);
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
      const Strided t = Strided::of(storage_, kLower);
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

  /// Packed (`PackedTriangle`), or the lower triangle of a square, with its transpose above it.
  Matrix<S> storage_;
};

}  // namespace kfac::linalg
