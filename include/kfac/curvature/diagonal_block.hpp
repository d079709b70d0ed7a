#pragma once

#include <memory>
#include <string>
#include <utility>

#include <kfac/curvature/curvature_block.hpp>
#include <kfac/curvature/example_gradients.hpp>
#include <kfac/curvature/running_mean.hpp>

namespace kfac {

/// A damped diagonal matrix.
template <RealScalar S>
class DiagonalMatrix : public CurvatureMatrix<S> {
 public:
  /// `diagonal`, >= 0, where the entries of V are.
  DiagonalMatrix(const Matrix<S>& diagonal, S damping)
      : diagonal_((diagonal.array() + damping).matrix()) {}

  Index rows() const override { return diagonal_.rows(); }
  Index columns() const override { return diagonal_.cols(); }
  S trace() const override { return diagonal_.sum(); }
  Matrix<S> diagonal() const override { return diagonal_; }
  bool singular() const override { return !(diagonal_.minCoeff() > 0); }

 private:
  void do_multiply(MatrixRef<S> v) const override { v.array() *= diagonal_.array(); }
  void do_solve(MatrixRef<S> v) const override { v.array() /= diagonal_.array(); }
  void do_multiply_sqrt(MatrixRef<S> v) const override { v.array() *= diagonal_.array().sqrt(); }
  void do_multiply_inverse_sqrt(MatrixRef<S> v) const override {
    v.array() /= diagonal_.array().sqrt();
  }
  S do_log_determinant() const override { return diagonal_.array().log().sum(); }

  Matrix<S> diagonal_;
};

/// The diagonal of the exact curvature block: second moments of the examples' own gradients, not
/// the square of their mean.
/// \source Becker and LeCun, Improving the convergence of back-propagation learning with second
///         order methods, 1988
template <RealScalar S>
class DiagonalBlock : public CurvatureBlock<S> {
  using Base = CurvatureBlock<S>;

 public:
  /// \throws OptionError
  explicit DiagonalBlock(BlockOptions<S> options)
      : DiagonalBlock("kfac::DiagonalBlock", std::move(options)) {}
  std::unique_ptr<Base> clone() const override {
    return std::unique_ptr<Base>(new DiagonalBlock(*this));
  }
  void assign(const Base& other) override { *this = static_cast<const DiagonalBlock&>(other); }
  const char* kind() const override { return "diagonal"; }
  BlockCost cost() const override {
    const auto size = static_cast<double>(Base::outputs() * Base::columns());
    return {.factors = "diagonal of " + std::to_string(Base::outputs() * Base::columns()),
            .bytes = 5 * size * sizeof(S),
            .update = size,
            .inverse = size,
            .precondition = size};
  }

  bool fresh_is_finite() const override { return moments_.fresh_is_finite(); }

  /// The diagonal, `outputs x columns()`.
  const Matrix<S>& value() const { return diagonal_; }

 protected:
  DiagonalBlock(const char* where, BlockOptions<S> options)
      : Base(where, std::move(options)),
        gradients_(Base::has_bias()),
        moments_(Base::outputs(), Base::columns()),
        diagonal_(moments_.value()) {}

 private:
  /// What a kind makes of the estimated diagonal, in place.
  virtual void simplify(Matrix<S>& diagonal) const { static_cast<void>(diagonal); }
  /// The bases in which it is the diagonal, of inputs and of output gradients; null: the identity.
  virtual std::pair<const Matrix<S>*, const Matrix<S>*> bases() const { return {}; }

  void do_add_input(const SharedBatch<S>&, const PositionMask*) override {}
  void do_add_output_gradient(const SharedBatch<S>& input, const SharedBatch<S>& gradient,
                              S weight) override {
    const auto [input_basis, output_basis] = bases();
    gradients_.add_squares(input, gradient, weight, input_basis, output_basis, moments_.fresh());
  }
  void do_commit(S scale, Index examples, S decay) override {
    moments_.commit(examples, decay);
    diagonal_ = scale * moments_.value();
    simplify(diagonal_);
  }
  void do_discard() override { moments_.discard(); }
  bool do_begin_pass(Index pass) override {
    if (pass == 0) moments_.reset();
    return pass == 0;
  }
  void do_prepare_inverse(S damping) override {
    next_ = diagonal_;
    next_damping_ = damping;
  }
  bool do_compute_inverse() override {
    return next_.minCoeff() + next_damping_ > 0 && next_.allFinite();
  }
  void do_adopt_inverse() override {
    in_use_.swap(next_);
    damping_ = next_damping_;
  }
  bool do_set_damping(S damping) override {
    damping_ = damping;
    return true;
  }
  void do_precondition(MatrixRef<S> v) override { v.array() /= in_use_.array() + damping_; }
  void do_multiply(MatrixRef<S> v) override { v.array() *= diagonal_.array(); }
  std::unique_ptr<CurvatureMatrix<S>> do_matrix(S damping) const override {
    return std::make_unique<DiagonalMatrix<S>>(diagonal_, damping);
  }
  void do_visit_state(StateVisitor& visitor) override {
    visitor.in("moments", moments_);
    visitor.visit("diagonal", diagonal_);
    visitor.visit_optional("in_use", in_use_, Base::outputs(), Base::columns());
    visitor.visit_optional("next", next_, Base::outputs(), Base::columns());
    visitor.visit("damping", damping_);
    visitor.visit("next_damping", next_damping_);
  }

  ExampleGradients<S> gradients_;
  RunningMean<S> moments_;  // of one example's criterion
  Matrix<S> diagonal_;      // with the scale of the loss
  Matrix<S> in_use_, next_;
  S damping_ = 0;
  S next_damping_ = 0;
};

/// The mean of the diagonal times the identity: the cheapest block with the right scale.
template <RealScalar S>
class ScaledIdentityBlock : public DiagonalBlock<S> {
 public:
  /// \throws OptionError
  explicit ScaledIdentityBlock(BlockOptions<S> options)
      : DiagonalBlock<S>("kfac::ScaledIdentityBlock", std::move(options)) {}
  std::unique_ptr<CurvatureBlock<S>> clone() const override {
    return std::unique_ptr<CurvatureBlock<S>>(new ScaledIdentityBlock(*this));
  }
  void assign(const CurvatureBlock<S>& other) override {
    *this = static_cast<const ScaledIdentityBlock&>(other);
  }
  const char* kind() const override { return "scaled identity"; }

 private:
  void simplify(Matrix<S>& diagonal) const override { diagonal.setConstant(diagonal.mean()); }
};

}  // namespace kfac
