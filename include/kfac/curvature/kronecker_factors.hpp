#pragma once

#include <kfac/curvature/block_options.hpp>
#include <kfac/curvature/running_covariance.hpp>

namespace kfac {

/// Running averages of the two factors of a linear map's curvature, A (x) G in the order that
/// stacks the columns of [W b]: A is the mean of x x^T over examples and shared positions (x with a
/// 1 appended), and G carries everything else, so that A (x) G is the curvature of the loss as it
/// was reduced. With `WeightSharing::Reduce` x is the mean over an example's positions, and g their
/// sum. \source Martens and Grosse 2015, arXiv 1503.05671; for convolutions Grosse and Martens
/// 2016,
///         arXiv 1602.01407; expand and reduce: Eschenhagen et al. 2023, arXiv 2311.00636
template <RealScalar S>
class KroneckerFactors {
 public:
  explicit KroneckerFactors(const BlockOptions<S>& options)
      : input_(options.inputs, options.bias),
        output_gradient_(options.outputs, false),
        sharing_(options.sharing) {}

  /// What the map was applied to, `inputs x (positions * batch)`, once a forward pass. `mask` says
  /// which positions count; null: all.
  void add_input(const SharedBatch<S>& input, const PositionMask* mask = nullptr) {
    const detail::FactorInput<S> taken = detail::factor_input(sharing_, input, mask, scratch_);
    input_.add(taken.columns, S(1));
    columns_ += taken.columns.columns();
    identity_weight_ += taken.identity_weight;
  }

  /// Adds weight * sum of g g^T. The vectors g of one example are to make up the Hessian of its
  /// criterion, without the loss's reduction factor, and are 0 in the padding.
  void add_output_gradient(const SharedBatch<S>& gradient, S weight) {
    output_gradient_.add(detail::factor_gradient(sharing_, gradient, scratch_), weight);
  }
  /// G as a multiple of the identity, as if the criterion's Hessian were that with respect to the
  /// layer's own outputs (forward-only curvature), for the inputs added since the last commit or
  /// call.
  void add_output_identity() {
    output_gradient_.add_identity(identity_weight_);
    identity_weight_ = 0;
  }

  bool fresh_is_finite() const {
    return input_.fresh_is_finite() && output_gradient_.fresh_is_finite();
  }
  /// Takes what was added for that many examples into the running averages; `scale` is the loss's
  /// reduction factor times the number of examples in a batch, `decay` the weight of the past.
  void commit(S scale, Index examples, S decay) {
    input_.commit(columns_, decay);
    output_gradient_.commit(examples, decay);
    scale_ = scale;
    forget_counts();
  }
  /// Forgets what was added since the last commit.
  void discard() {
    input_.discard();
    output_gradient_.discard();
    forget_counts();
  }
  /// Forgets everything.
  void reset() {
    input_.reset();
    output_gradient_.reset();
    forget_counts();
  }

  /// A, of the augmented inputs.
  Matrix<S> input_factor() const { return input_.value(); }
  /// G, `outputs x outputs`, which carries the scale of the loss.
  Matrix<S> output_gradient_factor() const {
    Matrix<S> g;
    output_gradient_.copy_to(g, scale_);
    return g;
  }
  /// Writes both, without allocation if the matrices have their sizes.
  void copy_to(Matrix<S>& a, Matrix<S>& g) const {
    input_.copy_to(a);
    output_gradient_.copy_to(g, scale_);
  }
  /// Calls body(a, g) with copies of both, of which only the lower triangles may be read, and
  /// overwritten. They are in the memory of what is added, if that is not in use.
  template <class Body>
  decltype(auto) with_copies(Body&& body) {
    if (input_.has_fresh() || output_gradient_.has_fresh()) {
      Matrix<S> a = input_factor();
      Matrix<S> g = output_gradient_factor();
      return body(MatrixRef<S>(a), MatrixRef<S>(g));
    }
    return body(input_.working_copy(), output_gradient_.working_copy(scale_));
  }

  /// V <- G V A; `scratch` has room for V.
  void multiply(MatrixRef<S> v, Buffer<S>& scratch) {
    with_copies([&](const MatrixRef<S>& a, const MatrixRef<S>& g) {
      MatrixMap<S> half = scratch.map(v.rows(), v.cols());
      half.noalias() = g.template selfadjointView<Eigen::Lower>() * v;
      v.noalias() = half * a.template selfadjointView<Eigen::Lower>();
    });
  }

  void visit_state(StateVisitor& visitor) {
    visitor.in("a", input_);
    visitor.in("g", output_gradient_);
    visitor.visit("scale", scale_);
  }

 private:
  void forget_counts() {
    columns_ = 0;
    identity_weight_ = 0;
  }

  RunningCovariance<S> input_;
  RunningCovariance<S> output_gradient_;  // of the criterion of one example
  S scale_ = 0;                           // of the loss
  WeightSharing sharing_;
  Index columns_ = 0;
  S identity_weight_ = 0;  // as in `FactorInput`
  Buffer<S> scratch_;
};

}  // namespace kfac
