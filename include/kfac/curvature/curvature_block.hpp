#pragma once

#include <cmath>
#include <memory>
#include <string>
#include <utility>

#include <kfac/core/state.hpp>
#include <kfac/curvature/block_cost.hpp>
#include <kfac/curvature/block_options.hpp>
#include <kfac/curvature/curvature_matrix.hpp>

namespace kfac {

/// A running estimate of the curvature of one layer's parameters [W b], of whatever kind: K-FAC,
/// EKFAC, diagonal, ... It is fed with the layer's inputs and output gradients and gives a
/// preconditioner (`refresh_inverse`, `precondition`: cheap, in place, without allocation) and the
/// whole matrix (`matrix`: product, inverse, roots, determinant, samples).
///
/// `accumulate` feeds it with matrices. Its parts, for anything else: for each batch `add_input`
/// once and `add_output_gradient` for each of the vectors that make up the Hessian of an example's
/// criterion; any number of batches; then `commit`. `Preconditioner`, `KfacOptimizer` and
/// `CurvatureEstimator` do that. To add a kind, derive and override the private functions;
/// `block_factory` hands it to all of them.
template <RealScalar S>
class CurvatureBlock {
 public:
  using Scalar = S;

  /// \throws OptionError, naming `where`
  CurvatureBlock(const char* where, BlockOptions<S> options)
      : options_((options.validate(where), std::move(options))) {}
  virtual ~CurvatureBlock() = default;
  virtual std::unique_ptr<CurvatureBlock> clone() const = 0;
  /// Becomes a copy of `other`. \pre `other` is of the same type
  virtual void assign(const CurvatureBlock& other) = 0;
  /// Such as "K-FAC".
  virtual const char* kind() const = 0;

  const BlockOptions<S>& options() const { return options_; }
  Index inputs() const { return options_.inputs; }
  Index outputs() const { return options_.outputs; }
  bool has_bias() const { return options_.bias; }
  /// Columns of the augmented [W b].
  Index columns() const { return options_.columns(); }
  const std::string& name() const { return options_.name; }
  /// What it costs in memory and work.
  virtual BlockCost cost() const = 0;

  /// Takes one batch into the running averages: inputs of the map, `inputs x batch`, and gradients
  /// of the loss with respect to its outputs, `outputs x batch` (empirical Fisher; of sampled
  /// targets: Monte-Carlo).
  /// \throws ShapeError, ValueError (not finite)
  void accumulate(const ConstMatrixRef<S>& activations, const ConstMatrixRef<S>& output_gradients) {
    detail::naming_layer(name(), [&] {
      static constexpr const char* kWhere = "kfac::CurvatureBlock::accumulate";
      const Index batch = activations.cols();
      if (batch == 0)
        raise<ShapeError>(std::string(kWhere) +
                          ": 'activations' has 0 examples, expected at least 1");
      detail::check_shape(kWhere, "activations", activations.rows(), batch, inputs(), batch);
      detail::check_shape(kWhere, "output_gradients", output_gradients.rows(),
                          output_gradients.cols(), outputs(), batch);
      detail::check_finite(kWhere, "activations", activations);
      detail::check_finite(kWhere, "output_gradients", output_gradients);
    });
    const S factor = options().gradient_scale.factor(activations.cols());
    const SharedBatch<S> input = contiguous(activations, activations_);
    discard();
    add_input(input);
    add_output_gradient(input, contiguous(output_gradients, gradients_), S(1) / (factor * factor));
    commit(factor * static_cast<S>(activations.cols()));
  }

  // The parts of `accumulate`, for several batches or several vectors an example.

  /// What the coming batches are for: factors, and the second moments of kinds that keep them apart
  /// (EKFAC). Returns whether this kind wants the batches at all. At first: both.
  bool collect(bool factors, bool moments) { return do_collect(factors, moments); }
  /// What the map was applied to, `inputs x (positions * batch)`, once a forward pass. `mask` says
  /// which positions are not padding; null: all. Inputs that depend on the vectors (of a transposed
  /// use) are added for each of these, the examples counted once (`is_new`).
  void add_input(const SharedBatch<S>& input, const PositionMask* mask = nullptr,
                 bool is_new = true) {
    do_add_input(input, mask);
    if (is_new) examples_ += input.batch();
  }
  /// Adds the outer products of the gradients of each example, times `weight`. The vectors of one
  /// example are to make up the Hessian of its criterion, without the loss's reduction factor, and
  /// are 0 in the padding. `input` is what was given to `add_input`.
  void add_output_gradient(const SharedBatch<S>& input, const SharedBatch<S>& gradient, S weight) {
    do_add_output_gradient(input, gradient, weight);
    has_gradients_ = true;
  }
  /// Takes the identity in place of output gradients (forward-only curvature).
  /// \throws StateError if the kind has no such form
  void add_output_identity() {
    do_add_output_identity();
    has_gradients_ = true;
  }
  bool has_fresh_data() const { return examples_ > 0 && has_gradients_; }
  /// Whether what was added since the last commit is finite.
  virtual bool fresh_is_finite() const = 0;
  /// Takes what was added into the running averages. Averaged are the moments of one example,
  /// whatever the batch sizes; `scale`, the reduction factor R of the loss L = R sum_n c_n times
  /// the number of examples of a batch, gives the block the scale of the loss (1 for a mean over
  /// examples). \pre has_fresh_data()
  void commit(S scale) {
    do_commit(scale, examples_, factor_decay_);
    ++commits_;
    forget_counts();
  }
  /// Forgets what was added since the last commit.
  void discard() {
    do_discard();
    forget_counts();
  }
  Index commits() const { return commits_; }
  /// For schedules. \throws OptionError
  void set_factor_decay(S decay) {
    detail::check_option(decay >= 0 && decay < 1, "kfac::CurvatureBlock::set_factor_decay", "decay",
                         decay, "in [0, 1)");
    factor_decay_ = decay;
  }

  /// Prepares for the `pass`-th pass over a data set, from 0, and says whether the kind wants one
  /// more; each ends with a commit. Pass 0 forgets all estimates. (K-FAC takes one pass, EKFAC
  /// two.)
  bool begin_pass(Index pass) {
    discard();
    if (pass == 0) commits_ = 0;
    return do_begin_pass(pass);
  }

  /// Recomputes the damped inverse. Returns false, keeping the one before, if that cannot be done
  /// in this precision.
  /// \throws OptionError for damping that is negative or not finite; StateError before any data;
  ///         SingularError if `damping` is 0 and the block is singular to working precision
  bool refresh_inverse(S damping) {
    check_damping("kfac::CurvatureBlock::refresh_inverse", damping);
    const bool done = do_refresh_inverse(damping);
    has_inverse_ = has_inverse_ || done;
    if (!done && damping == 0)
      raise<SingularError>(
          "kfac::CurvatureBlock::refresh_inverse: 'damping' is 0 and a factor is singular, "
          "expected "
          "damping > 0 (layer '" +
          name() + "')");
    return done;
  }
  // Its parts, of which the second, where the time goes, may run on another thread while the block
  // goes on being fed and preconditioning.

  /// Copies what the inverse is made of. \throws OptionError, StateError likewise
  void prepare_inverse(S damping) {
    check_damping("kfac::CurvatureBlock::refresh_inverse", damping);
    do_prepare_inverse(damping);
  }
  /// Makes the inverse of what was copied; false if that cannot be done.
  bool compute_inverse() { return do_compute_inverse(); }
  /// Puts it to use. \pre compute_inverse() returned true
  void adopt_inverse() {
    do_adopt_inverse();
    has_inverse_ = true;
  }
  /// Changes the damping of the inverse in use at next to no cost; false, and nothing happens, for
  /// kinds that cannot: theirs changes at the next `refresh_inverse`.
  /// \throws OptionError for damping that is not > 0 or not finite
  bool set_damping(S damping) {
    detail::check_option(damping > 0 && std::isfinite(damping), "kfac::CurvatureBlock::set_damping",
                         "damping", damping, "> 0 and finite");
    return has_inverse_ && do_set_damping(damping);
  }
  bool has_inverse() const { return has_inverse_; }

  /// Multiplies a gradient of [W b], `outputs x columns()`, with the damped inverse, in place.
  /// \throws ShapeError; StateError before `refresh_inverse`
  void precondition(MatrixRef<S> augmented_gradient) {
    static constexpr const char* kWhere = "kfac::CurvatureBlock::precondition";
    detail::check_shape(kWhere, "augmented_gradient", augmented_gradient.rows(),
                        augmented_gradient.cols(), outputs(), columns());
    check_inverse(kWhere);
    do_precondition(augmented_gradient);
  }
  /// As well; returns the inner product of the gradient and what became of it.
  S precondition_with_dot(MatrixRef<S> augmented_gradient) {
    static constexpr const char* kWhere = "kfac::CurvatureBlock::precondition_with_dot";
    detail::check_shape(kWhere, "augmented_gradient", augmented_gradient.rows(),
                        augmented_gradient.cols(), outputs(), columns());
    check_inverse(kWhere);
    return do_precondition_with_dot(augmented_gradient);
  }
  /// `precondition` for weights and bias that are stored apart, `outputs x inputs` (in either
  /// storage order) and `outputs`.
  template <class Weights, class Bias>
  void precondition(Eigen::MatrixBase<Weights>& weight_gradient,
                    Eigen::MatrixBase<Bias>& bias_gradient) {
    static constexpr const char* kWhere = "kfac::CurvatureBlock::precondition";
    if (!has_bias())
      raise<ShapeError>(std::string(kWhere) +
                        ": 'bias_gradient' was given, expected none: the block has no "
                        "bias (layer '" +
                        name() + "')");
    detail::check_shape(kWhere, "weight_gradient", weight_gradient.rows(), weight_gradient.cols(),
                        outputs(), inputs());
    detail::check_size(kWhere, "bias_gradient", bias_gradient.size(), outputs(), "entries");
    check_inverse(kWhere);
    MatrixMap<S> augmented = augmented_.map(outputs(), columns());
    augmented.leftCols(inputs()) = weight_gradient;
    augmented.col(inputs()) = bias_gradient;
    do_precondition(augmented);
    weight_gradient = augmented.leftCols(inputs());
    bias_gradient = augmented.col(inputs());
  }

  /// Multiplies V, `outputs x columns()`, with the estimate as it is now, without damping, in
  /// place. \throws ShapeError; StateError before any data
  void multiply(MatrixRef<S> v) {
    static constexpr const char* kWhere = "kfac::CurvatureBlock::multiply";
    detail::check_shape(kWhere, "v", v.rows(), v.cols(), outputs(), columns());
    check_damping(kWhere, S(0));
    do_multiply(v);
  }

  /// The estimate as it is now, with that damping.
  /// \throws OptionError, StateError likewise
  std::unique_ptr<CurvatureMatrix<S>> matrix(S damping = S(0)) const {
    check_damping("kfac::CurvatureBlock::matrix", damping);
    return do_matrix(damping);
  }

  /// Running averages, inverses, and inverses being made. \pre nothing was added since the last
  /// commit, and no thread is at `compute_inverse`
  void visit_state(StateVisitor& visitor) {
    visitor.visit("commits", commits_);
    visitor.visit("has_inverse", has_inverse_);
    do_visit_state(visitor);
  }

 protected:
  CurvatureBlock(const CurvatureBlock&) = default;
  CurvatureBlock& operator=(const CurvatureBlock&) = default;

  /// All at once, for kinds that can do with less memory then.
  virtual bool do_refresh_inverse(S damping) {
    do_prepare_inverse(damping);
    if (!do_compute_inverse()) return false;
    do_adopt_inverse();
    return true;
  }

 private:
  virtual void do_add_input(const SharedBatch<S>& input, const PositionMask* mask) = 0;
  virtual void do_add_output_gradient(const SharedBatch<S>& input, const SharedBatch<S>& gradient,
                                      S weight) = 0;
  virtual void do_add_output_identity() {
    raise<StateError>("kfac::CurvatureBlock::add_output_identity: a " + std::string(kind()) +
                      " block has no forward-only form, expected a K-FAC block (layer '" + name() +
                      "')");
  }
  virtual bool do_collect(bool factors, bool moments) {
    static_cast<void>(moments);
    return factors;
  }
  virtual void do_commit(S scale, Index examples, S decay) = 0;
  virtual void do_discard() = 0;
  virtual bool do_begin_pass(Index pass) = 0;
  virtual void do_prepare_inverse(S damping) = 0;
  virtual bool do_compute_inverse() = 0;
  virtual void do_adopt_inverse() = 0;
  virtual bool do_set_damping(S damping) {
    static_cast<void>(damping);
    return false;
  }
  virtual void do_precondition(MatrixRef<S> v) = 0;
  virtual S do_precondition_with_dot(MatrixRef<S> v) {
    MatrixMap<S> before = augmented_.map(v.rows(), v.cols());
    before = v;
    do_precondition(v);
    return before.cwiseProduct(v).sum();
  }
  virtual void do_multiply(MatrixRef<S> v) { do_matrix(S(0))->multiply(v); }
  virtual std::unique_ptr<CurvatureMatrix<S>> do_matrix(S damping) const = 0;
  virtual void do_visit_state(StateVisitor& visitor) = 0;

  static SharedBatch<S> contiguous(const ConstMatrixRef<S>& values, Buffer<S>& copy) {
    if (values.outerStride() == values.rows() || values.cols() == 1)
      return SharedBatch<S>({values.data(), values.rows(), values.cols()});
    copy.map(values.rows(), values.cols()) = values;
    return SharedBatch<S>({copy.data(), values.rows(), values.cols()});
  }

  void check_damping(const char* where, S damping) const {
    detail::check_option(damping >= 0 && std::isfinite(damping), where, "damping", damping,
                         ">= 0 and finite");
    if (commits_ == 0)
      raise<StateError>(std::string(where) + ": no batch was accumulated before it (layer '" +
                        name() + "')");
  }
  void check_inverse(const char* where) const {
    if (!has_inverse_)
      raise<StateError>(std::string(where) +
                        ": no inverse yet, expected refresh_inverse before it (layer '" + name() +
                        "')");
  }
  void forget_counts() {
    examples_ = 0;
    has_gradients_ = false;
  }

  BlockOptions<S> options_;
  S factor_decay_ = options_.factor_decay;
  Index examples_ = 0;
  Index commits_ = 0;
  bool has_gradients_ = false;
  bool has_inverse_ = false;
  Buffer<S> activations_, gradients_, augmented_;
};

}  // namespace kfac
