#pragma once

#include <limits>
#include <memory>
#include <string>
#include <utility>

#include <kfac/curvature/curvature_block.hpp>
#include <kfac/curvature/example_gradients.hpp>
#include <kfac/curvature/running_mean.hpp>
#include <kfac/linalg/matrix_product.hpp>
#include <kfac/linalg/row_cholesky.hpp>

namespace kfac {
namespace detail {

/// V as a matrix with a row for each unit: V itself, or its only column in another form.
template <RealScalar S>
MatrixRef<S> rows_of_units(MatrixRef<S> v, Index units) {
  if (v.rows() == units) return v;
  eigen_assert(v.cols() == 1);
  return MatrixMap<S>(v.data(), units, v.rows() / units);
}

}  // namespace detail

/// A matrix that is block-diagonal with a small matrix for each unit, on V of `rows x columns`.
template <RealScalar S>
class UnitwiseMatrix : public CurvatureMatrix<S> {
 public:
  /// `triangles` as of row_cholesky.hpp, a row for each unit, of matrices of so many entries each
  /// way.
  UnitwiseMatrix(const Matrix<S>& triangles, Index rows, Index columns, S damping)
      : triangles_(triangles), rows_(rows), columns_(columns), size_(rows * columns / units()) {
    for (Index i = 0; i < size_; ++i) triangles_.col(diagonal_entry(i)).array() += damping;
    const S ratio = cholesky_.compute(triangles_, size_, S(0));
    const S least = damping > 0 ? S(0) : static_cast<S>(size_) * std::numeric_limits<S>::epsilon();
    singular_ = !(ratio > least);
  }

  Index rows() const override { return rows_; }
  Index columns() const override { return columns_; }
  S trace() const override { return diagonal().sum(); }
  Matrix<S> diagonal() const override {
    Matrix<S> result(units(), size_);
    for (Index i = 0; i < size_; ++i) result.col(i) = triangles_.col(diagonal_entry(i));
    return result.reshaped(rows_, columns_);
  }
  bool singular() const override { return singular_; }

 private:
  Index units() const { return triangles_.rows(); }
  Index diagonal_entry(Index i) const { return linalg::triangle_entry(size_, i, i); }

  void do_multiply(MatrixRef<S> v) const override {
    Buffer<S> scratch;
    linalg::multiply_rows<S>(triangles_, detail::rows_of_units<S>(v, units()), scratch);
  }
  void do_solve(MatrixRef<S> v) const override {
    cholesky_.solve(detail::rows_of_units<S>(v, units()));
  }
  void do_multiply_sqrt(MatrixRef<S> v) const override {
    cholesky_.multiply(detail::rows_of_units<S>(v, units()));
  }
  void do_multiply_inverse_sqrt(MatrixRef<S> v) const override {
    cholesky_.solve_transposed(detail::rows_of_units<S>(v, units()));
  }
  S do_log_determinant() const override { return cholesky_.log_determinant(); }

  Matrix<S> triangles_;
  Index rows_, columns_, size_;
  linalg::RowCholesky<S> cholesky_;
  bool singular_ = false;
};

/// For each output unit the exact block of that unit's own parameters, a small matrix; nothing
/// between units. Parameters are a `units x size` matrix, one row a unit:
///
/// - of a normalisation (LayerNorm, GroupNorm, BatchNorm, ...) scale and shift: 2x2 a channel;
/// - of a linear map [W b] its rows: `columns() x columns()` an output (memory of outputs
///   columns()^2 / 2), the unit-wise Fisher.
///
/// Each is the mean of p p^T over the examples' own gradients p of the unit's parameters, so that
/// tokens and pixels of an example are summed before they are squared. It lies between the diagonal
/// (`DiagonalBlock`) and the whole block (`FullBlock`). Damping is added to it exactly.
///
/// For BatchNorm in training p takes the batch's statistics as constants (see there).
/// \source Ollivier, Riemannian metrics for neural networks I: feedforward networks, 2015, arXiv
///         1303.0818 (unitwise metrics, after Kurita 1993); for normalisations Osawa et al.,
///         Scalable and practical natural gradient for large-scale deep learning, 2020, arXiv
///         2002.06015
template <RealScalar S>
class UnitwiseBlock : public CurvatureBlock<S> {
  using Base = CurvatureBlock<S>;

 public:
  /// With `options.units` units (0: `outputs`), which for a map of several columns are its outputs.
  /// \throws OptionError
  explicit UnitwiseBlock(BlockOptions<S> options)
      : Base(kWhere, std::move(options)),
        units_(Base::options().units == 0 ? Base::outputs() : Base::options().units),
        size_(Base::outputs() * Base::columns() / units_),
        gradients_(Base::has_bias()),
        moments_(units_, linalg::triangle_entries(size_)),
        triangles_(moments_.value()) {
    detail::check_option(units_ == Base::outputs() || Base::columns() == 1, kWhere, "units", units_,
                         "the outputs, or any divisor of these where there is one column");
  }
  std::unique_ptr<Base> clone() const override {
    return std::unique_ptr<Base>(new UnitwiseBlock(*this));
  }
  void assign(const Base& other) override { *this = static_cast<const UnitwiseBlock&>(other); }
  const char* kind() const override { return "unit-wise"; }
  BlockCost cost() const override {
    const auto units = static_cast<double>(units_);
    const auto size = static_cast<double>(size_);
    const double entries = units * static_cast<double>(linalg::triangle_entries(size_));
    return {.factors = std::to_string(units_) + " of " + detail::square_text("C", size_),
            .bytes = ((keeps_undamped() ? 7 : 5) * entries + 2 * units * size) * sizeof(S),
            .update = entries,
            .inverse = units * size * size * size / 6,
            .precondition = units * size * size};
  }

  Index units() const { return units_; }
  /// C_u, with the scale of the loss.
  Matrix<S> unit_matrix(Index unit) const {
    Matrix<S> result(size_, size_);
    for (Index j = 0; j < size_; ++j)
      for (Index i = j; i < size_; ++i)
        result(i, j) = result(j, i) = triangles_(unit, linalg::triangle_entry(size_, i, j));
    return result;
  }

  bool fresh_is_finite() const override { return moments_.fresh_is_finite(); }

 private:
  static constexpr const char* kWhere = "kfac::UnitwiseBlock";

  /// Small matrices are decomposed anew at next to no cost: what they are without damping is kept.
  bool keeps_undamped() const { return size_ <= 4; }

  void do_add_input(const SharedBatch<S>&, const PositionMask*) override {}
  void do_add_output_gradient(const SharedBatch<S>& input, const SharedBatch<S>& gradient,
                              S weight) override {
    gradients_.for_each_block(
        input, gradient, nullptr, nullptr,
        [&](MatrixMap<S> inputs, MatrixMap<S> outputs, Index positions) {
          if (positions == 1 && units_ == Base::outputs())
            return add_rank_one(inputs, outputs, weight);
          gradients_.for_each_gradient(inputs, outputs, positions, [&](const MatrixMap<S>& p) {
            const ConstMatrixMap<S> rows(p.data(), units_, size_);
            for (Index j = 0; j < size_; ++j)
              for (Index i = j; i < size_; ++i)
                moments_.fresh().col(linalg::triangle_entry(size_, i, j)).array() +=
                    weight * rows.col(i).array() * rows.col(j).array();
          });
        });
  }
  /// Where the rows of an example's gradient are g_u x^T.
  void add_rank_one(const MatrixMap<S>& inputs, const MatrixMap<S>& outputs, S weight) {
    MatrixMap<S> squares = squares_.map(outputs.rows(), outputs.cols());
    for (Index j = 0; j < size_; ++j) {
      squares = weight * (outputs.array().square().rowwise() * inputs.row(j).array()).matrix();
      linalg::multiply_add(
          S(1), squares, inputs.bottomRows(size_ - j).transpose(),
          moments_.fresh().middleCols(linalg::triangle_entry(size_, j, j), size_ - j));
    }
  }
  void do_commit(S scale, Index examples, S decay) override {
    moments_.commit(examples, decay);
    triangles_ = scale * moments_.value();
  }
  void do_discard() override { moments_.discard(); }
  bool do_begin_pass(Index pass) override {
    if (pass == 0) moments_.reset();
    return pass == 0;
  }

  void do_prepare_inverse(S damping) override {
    next_ = triangles_;
    next_damping_ = damping;
  }
  bool do_compute_inverse() override {
    const S ratio = next_cholesky_.compute(next_, size_, next_damping_);
    return ratio >
           (next_damping_ > 0 ? S(0) : static_cast<S>(size_) * std::numeric_limits<S>::epsilon());
  }
  void do_adopt_inverse() override {
    std::swap(cholesky_, next_cholesky_);
    if (keeps_undamped()) in_use_.swap(next_);
  }
  bool do_set_damping(S damping) override {
    if (!keeps_undamped()) return false;
    if (!(other_cholesky_.compute(in_use_, size_, damping) > 0)) return false;
    std::swap(cholesky_, other_cholesky_);
    return true;
  }
  void do_precondition(MatrixRef<S> v) override {
    cholesky_.solve(detail::rows_of_units<S>(v, units_));
  }
  void do_multiply(MatrixRef<S> v) override {
    linalg::multiply_rows<S>(triangles_, detail::rows_of_units<S>(v, units_), product_);
  }
  std::unique_ptr<CurvatureMatrix<S>> do_matrix(S damping) const override {
    return std::make_unique<UnitwiseMatrix<S>>(triangles_, Base::outputs(), Base::columns(),
                                               damping);
  }
  void do_visit_state(StateVisitor& visitor) override {
    visitor.in("moments", moments_);
    visitor.visit("triangles", triangles_);
    visitor.visit_optional("in_use", in_use_, units_, triangles_.cols());
    visitor.visit_optional("next", next_, units_, triangles_.cols());
    visitor.in("cholesky", cholesky_, units_, size_);
    visitor.in("next_cholesky", next_cholesky_, units_, size_);
    visitor.visit("next_damping", next_damping_);
  }

  Index units_, size_;
  ExampleGradients<S> gradients_;
  RunningMean<S> moments_;  // of one example's criterion, as triangles
  Matrix<S> triangles_;     // with the scale of the loss
  Matrix<S> in_use_, next_;
  linalg::RowCholesky<S> cholesky_, next_cholesky_, other_cholesky_;
  S next_damping_ = 0;
  Buffer<S> squares_, product_;
};

}  // namespace kfac
