#pragma once

#include <algorithm>
#include <array>
#include <limits>

#include <kfac/core/state.hpp>
#include <kfac/linalg/packed_triangle.hpp>
#include <kfac/linalg/spd_inverse.hpp>

namespace kfac::linalg {

/// How the inverse of C = L L^T is kept.
enum class InverseForm : Index {
  Matrix,    ///< C^-1: n^3 operations to make
  Triangle,  ///< T = L^-1, of which C^-1 is T^T T: 2/3 n^3, but products take some longer
};

/// The inverse of a symmetric positive definite matrix C, in the memory of a triangle where it is
/// large, and products with it.
template <RealScalar S>
class PackedInverse {
 public:
  /// The form that takes less time for a C of that size whose inverse is multiplied with so many
  /// vectors. Both forms multiply with 2 n^2 operations for each, but triangles at about 7/8 of the
  /// speed of whole matrices: 2/7 n^2 more against the n^3/3 of making them. Small ones have but
  /// one form.
  static InverseForm cheaper_form(Index size, Index vectors) {
    return is_whole(size) || 7 * size > 6 * vectors ? InverseForm::Triangle : InverseForm::Matrix;
  }

  /// The inverse's lower triangle in that form, in place of that of C; the upper one is left alone.
  /// Returns the smallest over the largest squared pivot; 0 if C is not positive definite to
  /// working precision (its contents are then lost).
  static S invert(MatrixRef<S> matrix, InverseForm form) {
    const Index size = matrix.rows();
    detail::Pivots<S> pivots;
    if (form == InverseForm::Matrix) {
      if (!detail::invert_lower<S>(matrix, pivots)) return S(0);
    } else {
      S* const scratch =
          detail::triangle_memory<S>().map(detail::inversion_scratch_size(size), 1).data();
      if (!detail::invert_cholesky<S>(matrix, scratch, pivots)) return S(0);
    }
    return pivots.smallest / pivots.largest;
  }

  /// Copies what `invert` made. \pre a small inverse is a triangle, as `cheaper_form` has it
  void assign(const ConstMatrixRef<S>& lower, InverseForm form) {
    const Index size = lower.rows();
    form_ = form;
    storage_.resize(storage_rows(size), storage_columns(size));
    if (is_whole(size)) {
      eigen_assert(form == InverseForm::Triangle);
      storage_.setZero();
      for (Index j = 0; j < size; ++j) {
        const auto column = lower.col(j).tail(size - j);
        storage_.col(j).tail(size - j) = column;
        storage_.row(j).tail(size - j) = column.transpose();
      }
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
  InverseForm form() const { return form_; }

  /// into = C^-1 v. \pre it is a matrix
  void multiply_left(const ConstMatrixRef<S>& v, MatrixRef<S> into) const {
    eigen_assert(form_ == InverseForm::Matrix);
    const Parts c = parts();
    const auto [top, bottom] = halves(Strided::of(v), c);
    const auto [into_top, into_bottom] = halves(detail::result_of(into), c);
    detail::product<S>(1, c.upper_left, top, into_top, false);
    detail::product<S>(1, c.lower_left.transposed(), bottom, into_top, true);
    detail::product<S>(1, c.lower_left, top, into_bottom, false);
    detail::product<S>(1, c.lower_right, bottom, into_bottom, true);
  }
  /// into = v C^-1. \pre it is a matrix
  void multiply_right(const ConstMatrixRef<S>& v, MatrixRef<S> into) const {
    eigen_assert(form_ == InverseForm::Matrix);
    const Parts c = parts();
    const auto [left, right] = sides(Strided::of(v), c);
    const auto [into_left, into_right] = sides(detail::result_of(into), c);
    detail::product<S>(1, left, c.upper_left, into_left, false);
    detail::product<S>(1, right, c.lower_left, into_left, true);
    detail::product<S>(1, left, c.lower_left.transposed(), into_right, false);
    detail::product<S>(1, right, c.lower_right, into_right, true);
  }

  /// into = T v, or T^T v. \pre it is a triangle
  void multiply_half_left(const ConstMatrixRef<S>& v, bool transposed, MatrixRef<S> into) const {
    eigen_assert(form_ == InverseForm::Triangle);
    if (is_whole(v.rows())) return linalg::multiply(square(transposed), v, into);
    const Parts t = parts();
    const auto [top, bottom] = halves(Strided::of(v), t);
    const auto [into_top, into_bottom] = halves(detail::result_of(into), t);
    if (transposed) {
      detail::product<S>(1, t.upper_left.transposed(), top, into_top, false);
      detail::product<S>(1, t.lower_left.transposed(), bottom, into_top, true);
      detail::product<S>(1, t.lower_right.transposed(), bottom, into_bottom, false);
    } else {
      detail::product<S>(1, t.upper_left, top, into_top, false);
      detail::product<S>(1, t.lower_left, top, into_bottom, false);
      detail::product<S>(1, t.lower_right, bottom, into_bottom, true);
    }
  }
  /// into = v T, or v T^T. \pre it is a triangle
  void multiply_half_right(const ConstMatrixRef<S>& v, bool transposed, MatrixRef<S> into) const {
    eigen_assert(form_ == InverseForm::Triangle);
    if (is_whole(v.cols())) return linalg::multiply(v, square(transposed), into);
    const Parts t = parts();
    const auto [left, right] = sides(Strided::of(v), t);
    const auto [into_left, into_right] = sides(detail::result_of(into), t);
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

  /// Of a C of that size.
  void visit_state(StateVisitor& visitor, Index size) {
    auto form = static_cast<Index>(form_);
    visitor.visit("form", form);
    form_ = static_cast<InverseForm>(form);
    visitor.visit_optional("entries", storage_, storage_rows(size), storage_columns(size));
  }

 private:
  using Strided = detail::Strided<S>;
  using Result = detail::ProductResult<S>;
  static constexpr detail::Triangle kLower = detail::Triangle::Lower;
  static constexpr detail::Triangle kUpper = detail::Triangle::Upper;

  /// Small triangles are kept in squares, T and T^T, for fewer and larger products.
  static bool is_whole(Index size) { return size <= 64; }
  static Index storage_rows(Index size) {
    return is_whole(size) ? size : detail::packed_rows(size);
  }
  static Index storage_columns(Index size) {
    return is_whole(size) ? 2 * size : detail::packed_columns(size);
  }

  /// T, or T^T, where it is small.
  auto square(bool transposed) const {
    const Index size = storage_.rows();
    return storage_.middleCols(transposed ? size : 0, size);
  }
  /// The parts of what is kept: corners on the diagonal, and what is below them.
  struct Parts {
    Strided upper_left, lower_left, lower_right;
  };
  Parts parts() const {
    const detail::PackedTriangle<const Matrix<S>> packed(storage_);
    Parts all{Strided::of(packed.upper_left(), kLower), Strided::of(packed.lower_left()),
              Strided::of(packed.lower_right(), kUpper).transposed()};
    all.upper_left.is_mirrored = all.lower_right.is_mirrored = form_ == InverseForm::Matrix;
    return all;
  }

  // What the parts are multiplied with: rows, or columns, of each.

  static std::array<Strided, 2> halves(const Strided& all, const Parts& parts) {
    const Index first = parts.upper_left.rows;
    const auto rows = [&](Index begin, Index count) {
      return Strided{all.at(begin, 0), count, all.columns, all.row_stride, all.column_stride};
    };
    return {rows(0, first), rows(first, parts.lower_right.rows)};
  }
  static std::array<Strided, 2> sides(const Strided& all, const Parts& parts) {
    const auto [left, right] = halves(all.transposed(), parts);
    return {left.transposed(), right.transposed()};
  }
  static std::array<Result, 2> halves(const Result& all, const Parts& parts) {
    const Index first = parts.upper_left.rows;
    return {
        Result{all.data, first, all.columns, all.stride, all.triangle},
        Result{all.data + first, parts.lower_right.rows, all.columns, all.stride, all.triangle}};
  }
  static std::array<Result, 2> sides(const Result& all, const Parts& parts) {
    const Index first = parts.upper_left.rows;
    return {Result{all.data, all.rows, first, all.stride, all.triangle},
            Result{all.data + first * all.stride, all.rows, parts.lower_right.rows, all.stride,
                   all.triangle}};
  }

  InverseForm form_ = InverseForm::Triangle;
  Matrix<S> storage_;  // packed (`PackedTriangle`), or the squares of T and of T^T side by side
};

}  // namespace kfac::linalg
