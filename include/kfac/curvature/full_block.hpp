#pragma once

#include <limits>
#include <memory>
#include <utility>

#include <kfac/curvature/curvature_block.hpp>
#include <kfac/curvature/example_gradients.hpp>
#include <kfac/curvature/running_covariance.hpp>
#include <kfac/curvature/spectral_matrix.hpp>

namespace kfac {

/// A dense matrix on V stacked by columns, in its eigenbasis.
template <RealScalar S>
class FullMatrix : public CurvatureMatrix<S> {
 public:
  /// \pre `matrix` is `(rows columns) x (rows columns)`, finite
  FullMatrix(const Matrix<S>& matrix, Index rows, Index columns, S damping)
      : rows_(rows), columns_(columns), inner_(eigen_of(matrix), damping) {}

  Index rows() const override { return rows_; }
  Index columns() const override { return columns_; }
  S trace() const override { return inner_.trace(); }
  Matrix<S> diagonal() const override { return inner_.diagonal().reshaped(rows_, columns_); }
  Matrix<S> dense() const override { return inner_.dense(); }
  bool singular() const override { return inner_.singular(); }

 private:
  /// A full matrix is the Kronecker product of 1 and itself.
  static linalg::KroneckerEigen<S> eigen_of(const Matrix<S>& matrix) {
    linalg::KroneckerEigen<S> eigen;
    if (!eigen.compute(Matrix<S>::Ones(1, 1), matrix))
      raise<ValueError>(
          "kfac::FullMatrix: 'matrix' has no eigendecomposition, expected finite "
          "numbers");
    return eigen;
  }

  /// Calls `body` with V as one contiguous column.
  template <class Body>
  void on_stacked(MatrixRef<S> v, Body&& body) const {
    Matrix<S> column = v.reshaped();
    body(column);
    v = column.reshaped(rows_, columns_);
  }

  void do_multiply(MatrixRef<S> v) const override {
    on_stacked(v, [&](Matrix<S>& column) { inner_.multiply(column); });
  }
  void do_solve(MatrixRef<S> v) const override {
    on_stacked(v, [&](Matrix<S>& column) { inner_.solve(column); });
  }
  void do_multiply_sqrt(MatrixRef<S> v) const override {
    on_stacked(v, [&](Matrix<S>& column) { inner_.multiply_sqrt(column); });
  }
  void do_multiply_inverse_sqrt(MatrixRef<S> v) const override {
    on_stacked(v, [&](Matrix<S>& column) { inner_.multiply_inverse_sqrt(column); });
  }
  S do_log_determinant() const override { return inner_.log_determinant(); }

  Index rows_, columns_;
  SpectralMatrix<S> inner_;
};

/// The exact block itself, dense: for small layers, memory of (outputs columns)^2.
template <RealScalar S>
class FullBlock : public CurvatureBlock<S> {
  using Base = CurvatureBlock<S>;

 public:
  /// \throws OptionError
  explicit FullBlock(BlockOptions<S> options)
      : Base("kfac::FullBlock", std::move(options)),
        gradients_(Base::has_bias()),
        moment_(Base::outputs() * Base::columns(), false) {}
  std::unique_ptr<Base> clone() const override {
    return std::unique_ptr<Base>(new FullBlock(*this));
  }
  void assign(const Base& other) override { *this = static_cast<const FullBlock&>(other); }
  const char* kind() const override { return "full"; }
  BlockCost cost() const override {
    const Index rows = Base::outputs() * Base::columns();
    const auto size = static_cast<double>(rows);
    return {.factors = detail::square_text("C", rows),
            .bytes = (4 * size + 1) * size * sizeof(S),
            .update = size * size / 2,
            .inverse = size * size * size / 2,
            .precondition = size * size};
  }

  bool fresh_is_finite() const override { return moment_.fresh_is_finite(); }

  /// The block, where [W b] is stacked by columns.
  const Matrix<S>& value() const { return matrix_; }

 private:
  void do_add_input(const SharedBatch<S>&, const PositionMask*) override {}
  void do_add_output_gradient(const SharedBatch<S>& input, const SharedBatch<S>& gradient,
                              S weight) override {
    gradients_.add_outer_products(input, gradient, weight, moment_.fresh());
  }
  void do_commit(S scale, Index examples, S decay) override {
    moment_.commit(examples, decay);
    moment_.copy_to(matrix_, scale);
  }
  void do_discard() override { moment_.discard(); }
  bool do_begin_pass(Index pass) override {
    if (pass == 0) moment_.reset();
    return pass == 0;
  }
  void do_prepare_inverse(S damping) override {
    next_ = matrix_;
    next_.diagonal().array() += damping;
    least_ratio_ =
        damping > 0 ? S(0) : static_cast<S>(matrix_.rows()) * std::numeric_limits<S>::epsilon();
  }
  bool do_compute_inverse() override { return linalg::invert_spd<S>(next_) > least_ratio_; }
  void do_adopt_inverse() override { inverse_.swap(next_); }
  void do_precondition(MatrixRef<S> v) override { multiply_stacked(inverse_, v); }
  void do_multiply(MatrixRef<S> v) override { multiply_stacked(matrix_, v); }
  void multiply_stacked(const Matrix<S>& matrix, MatrixRef<S> v) {
    VectorMap<S> column(column_.map(v.size(), 1).data(), v.size());
    VectorMap<S> product(product_.map(v.size(), 1).data(), v.size());
    MatrixMap<S>(column.data(), v.rows(), v.cols()) = v;
    product.noalias() = matrix * column;
    v = MatrixMap<S>(product.data(), v.rows(), v.cols());
  }
  std::unique_ptr<CurvatureMatrix<S>> do_matrix(S damping) const override {
    return std::make_unique<FullMatrix<S>>(matrix_, Base::outputs(), Base::columns(), damping);
  }
  void do_visit_state(StateVisitor& visitor) override {
    const Index size = Base::outputs() * Base::columns();
    visitor.in("moment", moment_);
    visitor.visit_optional("matrix", matrix_, size, size);
    visitor.visit_optional("inverse", inverse_, size, size);
    visitor.visit_optional("next", next_, size, size);
  }

  ExampleGradients<S> gradients_;
  RunningCovariance<S> moment_;  // of one example's criterion
  Matrix<S> matrix_;             // with the scale of the loss
  Matrix<S> inverse_, next_;
  S least_ratio_ = 0;  // of pivots, below which `next_` counts as singular
  Buffer<S> column_, product_;
};

}  // namespace kfac
