#pragma once

#include <cmath>
#include <string>
#include <utility>

#include <kfac/core/reduction.hpp>
#include <kfac/curvature/running_covariance.hpp>
#include <kfac/linalg/factored_inverse.hpp>

namespace kfac {

template <RealScalar S>
struct KroneckerBlockOptions {
  Index inputs = 0;   ///< >= 1
  Index outputs = 0;  ///< >= 1
  bool bias = true;   ///< the block is of [W b], and a 1 is appended to every input
  /// Weight of the past in the running averages once there is enough of it, in [0, 1).
  S factor_decay = S(0.95);
  /// Balances the damping over the factors by their traces.
  bool pi = true;
  /// How the loss was reduced whose gradients are given to `accumulate`.
  GradientScale<S> gradient_scale = {};
  std::string name = "block";  ///< for error messages

  void validate() const {
    static constexpr const char* kWhere = "kfac::KroneckerBlock";
    detail::check_option(inputs >= 1, kWhere, "inputs", inputs, ">= 1");
    detail::check_option(outputs >= 1, kWhere, "outputs", outputs, ">= 1");
    detail::check_option(factor_decay >= 0 && factor_decay < 1, kWhere, "factor_decay",
                         factor_decay, "in [0, 1)");
    gradient_scale.validate(kWhere);
  }
};

/// The Kronecker-factored curvature of one linear map z = W x + b, from nothing but matrices:
///
///     kfac::KroneckerBlock<float> block({.inputs = 784, .outputs = 100, .bias = true});
///     block.accumulate(activations, output_gradients);     // 784 x batch, 100 x batch
///     block.refresh_inverse(1e-2f);                        // damping
///     block.precondition(weight_gradient, bias_gradient);  // in place: 100 x 784, 100
///
/// The block is A (x) G in the order that stacks the columns of [W b]: A is the mean of x x^T over
/// examples and shared positions (x with a 1 appended), and G carries everything else, so that
/// A (x) G is the curvature of the loss as it was reduced. `Inverse` is how its damped inverse is
/// applied: `FactoredInverse` (Cholesky) or `SpectralInverse` (eigenbasis, exact damping).
/// \source Martens and Grosse 2015, arXiv 1503.05671; with shared positions KFAC-expand of
///         Eschenhagen et al. 2023, arXiv 2311.00636, which for convolutions is Grosse and Martens
///         2016, arXiv 1602.01407
template <RealScalar S, class Inverse = FactoredInverse<S>>
class KroneckerBlock {
 public:
  using Scalar = S;

  /// \throws OptionError
  explicit KroneckerBlock(KroneckerBlockOptions<S> options, Inverse inverse = {})
      : options_((options.validate(), std::move(options))),
        input_(options_.inputs, options_.bias),
        output_gradient_(options_.outputs, false),
        output_factor_(Matrix<S>::Zero(options_.outputs, options_.outputs)),
        inverse_(std::move(inverse)) {}

  Index inputs() const { return options_.inputs; }
  Index outputs() const { return options_.outputs; }
  bool has_bias() const { return options_.bias; }
  /// Columns of the augmented [W b].
  Index columns() const { return options_.inputs + (options_.bias ? 1 : 0); }
  const std::string& name() const { return options_.name; }

  /// Takes one batch into the running averages: inputs of the map, `inputs x batch`, and gradients
  /// of the loss with respect to its outputs, `outputs x batch` (empirical Fisher; of sampled
  /// targets: Monte-Carlo).
  /// \throws ShapeError, ValueError (not finite)
  void accumulate(const ConstMatrixRef<S>& activations, const ConstMatrixRef<S>& output_gradients) {
    detail::naming_layer(options_.name, [&] {
      static constexpr const char* kWhere = "kfac::KroneckerBlock::accumulate";
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
    const S factor = options_.gradient_scale.factor(activations.cols());
    discard();
    add_input(contiguous(activations, activations_));
    add_output_gradient(contiguous(output_gradients, gradients_), S(1) / (factor * factor));
    commit(factor * static_cast<S>(activations.cols()));
  }

  /// The parts of `accumulate`, for several batches or several vectors an example. First the
  /// inputs, `inputs x (positions * batch)`, once a forward pass.
  void add_input(const SharedBatch<S>& input) {
    input_.add(input, S(1));
    examples_ += input.batch();
    columns_ += input.columns();
  }
  /// Adds weight * sum of g g^T over all columns. The vectors g of one example are to make up the
  /// Hessian of its criterion, without the loss's reduction factor.
  void add_output_gradient(const SharedBatch<S>& gradient, S weight) {
    output_gradient_.add(gradient, weight);
    has_gradients_ = true;
  }
  bool has_fresh_data() const { return columns_ > 0 && has_gradients_; }
  bool fresh_is_finite() const {
    return input_.fresh_is_finite() && output_gradient_.fresh_is_finite();
  }
  /// Takes what was added into the running averages. Averaged are the moments of one example,
  /// whatever the batch sizes; `scale`, the reduction factor R of the loss L = R sum_n c_n times
  /// the number of examples of a batch, gives G the scale of the loss (1 for a mean over examples).
  /// \pre has_fresh_data()
  void commit(S scale) {
    input_.commit(columns_, options_.factor_decay);
    output_gradient_.commit(examples_, options_.factor_decay);
    output_factor_ = scale * output_gradient_.value();
    forget_counts();
  }
  /// Forgets what was added since the last commit.
  void discard() {
    input_.discard();
    output_gradient_.discard();
    forget_counts();
  }

  /// A, `columns() x columns()`: the mean second moment of the inputs.
  const Matrix<S>& input_factor() const { return input_.value(); }
  /// G, `outputs x outputs`, which carries the scale of the loss.
  const Matrix<S>& output_gradient_factor() const { return output_factor_; }

  /// Recomputes the damped inverse. Returns false, keeping the one before, if a damped factor is
  /// not positive definite in this precision.
  /// \throws OptionError for damping that is negative or not finite; StateError before any data;
  ///         SingularError if `damping` is 0 and a factor is singular to working precision
  bool refresh_inverse(S damping) {
    static constexpr const char* kWhere = "kfac::KroneckerBlock::refresh_inverse";
    detail::check_option(damping >= 0 && std::isfinite(damping), kWhere, "damping", damping,
                         ">= 0 and finite");
    if (input_.commits() == 0)
      raise<StateError>(std::string(kWhere) + ": no batch was accumulated before it (layer '" +
                        options_.name + "')");
    const bool done = inverse_.refresh(input_factor(), output_factor_, damping, options_.pi);
    if (!done && damping == 0)
      raise<SingularError>(std::string(kWhere) +
                           ": 'damping' is 0 and a factor is singular, expected damping > 0 "
                           "(layer '" +
                           options_.name + "')");
    return done;
  }

  bool has_inverse() const { return !inverse_.empty(); }

  /// Multiplies a gradient of [W b], `outputs x columns()`, with the damped inverse, in place.
  /// \throws ShapeError; StateError before `refresh_inverse`
  void precondition(MatrixRef<S> augmented_gradient) {
    const char* where = "kfac::KroneckerBlock::precondition";
    detail::check_shape(where, "augmented_gradient", augmented_gradient.rows(),
                        augmented_gradient.cols(), outputs(), columns());
    check_inverse(where);
    inverse_.apply(augmented_gradient);
  }

  /// The same for weights and bias that are stored apart, `outputs x inputs` (in either storage
  /// order) and `outputs`.
  template <class Weights, class Bias>
  void precondition(Eigen::MatrixBase<Weights>& weight_gradient,
                    Eigen::MatrixBase<Bias>& bias_gradient) {
    const char* where = "kfac::KroneckerBlock::precondition";
    if (!has_bias())
      raise<ShapeError>(std::string(where) +
                        ": 'bias_gradient' was given, expected none: the block has no "
                        "bias (layer '" +
                        options_.name + "')");
    detail::check_shape(where, "weight_gradient", weight_gradient.rows(), weight_gradient.cols(),
                        outputs(), inputs());
    detail::check_size(where, "bias_gradient", bias_gradient.size(), outputs(), "entries");
    check_inverse(where);
    MatrixMap<S> augmented = augmented_.map(outputs(), columns());
    augmented.leftCols(inputs()) = weight_gradient;
    augmented.col(inputs()) = bias_gradient;
    inverse_.apply(augmented);
    weight_gradient = augmented.leftCols(inputs());
    bias_gradient = augmented.col(inputs());
  }

 private:
  static SharedBatch<S> contiguous(const ConstMatrixRef<S>& values, Buffer<S>& copy) {
    if (values.outerStride() == values.rows() || values.cols() == 1)
      return SharedBatch<S>({values.data(), values.rows(), values.cols()});
    copy.map(values.rows(), values.cols()) = values;
    return SharedBatch<S>({copy.data(), values.rows(), values.cols()});
  }

  void check_inverse(const char* where) const {
    if (!has_inverse())
      raise<StateError>(std::string(where) +
                        ": no inverse yet, expected refresh_inverse before it (layer '" +
                        options_.name + "')");
  }

  void forget_counts() {
    examples_ = 0;
    columns_ = 0;
    has_gradients_ = false;
  }

  KroneckerBlockOptions<S> options_;
  RunningCovariance<S> input_;
  RunningCovariance<S> output_gradient_;  // of the criterion of one example
  Matrix<S> output_factor_;               // the same with the scale of the loss
  Inverse inverse_;
  Index examples_ = 0;
  Index columns_ = 0;
  bool has_gradients_ = false;
  Buffer<S> activations_, gradients_, augmented_;
};

}  // namespace kfac
