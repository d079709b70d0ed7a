#pragma once

#include <algorithm>
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
  /// How many numbers of scratch the thread keeps that inverts a C of that size and multiplies the
  /// inverse with so many vectors.
  static Index scratch_size(Index size, Index vectors) {
    const Index parts = part_count(vectors);
    return std::max(detail::inversion_scratch_size(size), size * ((vectors + parts - 1) / parts));
  }

  /// V <- C^-1 V.
  void multiply_left(MatrixRef<S> v) const {
    if (is_whole(v.rows())) return multiply_whole_left(v);
    for_each_part(v.cols(), [&](Index first, Index count) {
      MatrixRef<S> part = v.middleCols(first, count);
      if (form_ == InverseForm::Matrix) {
        MatrixMap<S> product = detail::triangle_memory<S>().map(v.rows(), count);
        multiply_matrix_left(part, product);
        part = product;
      } else {
        // Transposed, since products have the least to do with a triangle on their right.
        MatrixMap<S> product = detail::triangle_memory<S>().map(count, v.rows());
        multiply_triangle_right(Strided::of(part).transposed(), detail::result_of(product), true);
        multiply_triangle_left(Strided::of(product).transposed(), detail::result_of(part));
      }
    });
  }
  /// V <- V C^-1.
  void multiply_right(MatrixRef<S> v) const {
    if (is_whole(v.cols())) return multiply_whole_right(v);
    for_each_part(v.rows(), [&](Index first, Index count) {
      MatrixMap<S> product = detail::triangle_memory<S>().map(count, v.cols());
      MatrixRef<S> part = v.middleRows(first, count);
      if (form_ == InverseForm::Matrix) {
        multiply_matrix_right(part, product);
        part = product;
      } else {
        multiply_triangle_right(Strided::of(part), detail::result_of(product), true);
        multiply_triangle_right(Strided::of(product), detail::result_of(part), false);
      }
    });
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

  /// T, or T^T, where it is small.
  auto square(bool transposed) const {
    const Index size = storage_.rows();
    return storage_.middleCols(transposed ? size : 0, size);
  }
  void multiply_whole_left(MatrixRef<S>& v) const {
    for_each_part(v.cols(), [&](Index first, Index count) {
      MatrixMap<S> product = detail::triangle_memory<S>().map(v.rows(), count);
      MatrixRef<S> part = v.middleCols(first, count);
      linalg::multiply(square(false), part, product);
      linalg::multiply(square(true), product, part);
    });
  }
  void multiply_whole_right(MatrixRef<S>& v) const {
    for_each_part(v.rows(), [&](Index first, Index count) {
      MatrixMap<S> product = detail::triangle_memory<S>().map(count, v.cols());
      MatrixRef<S> part = v.middleRows(first, count);
      linalg::multiply(part, square(true), product);
      linalg::multiply(product, square(false), part);
    });
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

  /// into = C^-1 v.
  void multiply_matrix_left(const MatrixRef<S>& v, MatrixMap<S>& into) const {
    const Parts c = parts();
    const Index first = c.upper_left.rows;
    const Index second = c.lower_right.rows;
    const Strided all = Strided::of(v);
    const Strided top = rows_of(all, 0, first);
    const Strided bottom = rows_of(all, first, second);
    const Result into_top = rows_of(detail::result_of(into), 0, first);
    const Result into_bottom = rows_of(detail::result_of(into), first, second);
    detail::product<S>(1, c.upper_left, top, into_top, false);
    detail::product<S>(1, c.lower_left.transposed(), bottom, into_top, true);
    detail::product<S>(1, c.lower_left, top, into_bottom, false);
    detail::product<S>(1, c.lower_right, bottom, into_bottom, true);
  }
  /// into = v C^-1.
  void multiply_matrix_right(const MatrixRef<S>& v, MatrixMap<S>& into) const {
    const Parts c = parts();
    const Index first = c.upper_left.rows;
    const Index second = c.lower_right.rows;
    const Strided all = Strided::of(v);
    const Strided left = columns_of(all, 0, first);
    const Strided right = columns_of(all, first, second);
    const Result into_left = columns_of(detail::result_of(into), 0, first);
    const Result into_right = columns_of(detail::result_of(into), first, second);
    detail::product<S>(1, left, c.upper_left, into_left, false);
    detail::product<S>(1, right, c.lower_left, into_left, true);
    detail::product<S>(1, left, c.lower_left.transposed(), into_right, false);
    detail::product<S>(1, right, c.lower_right, into_right, true);
  }

  /// into = T^T v.
  void multiply_triangle_left(const Strided& v, const Result& into) const {
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
  void multiply_triangle_right(const Strided& v, const Result& into, bool transposed) const {
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

  InverseForm form_ = InverseForm::Triangle;
  Matrix<S> storage_;  // packed (`PackedTriangle`), or the squares of T and of T^T side by side
};

}  // namespace kfac::linalg
