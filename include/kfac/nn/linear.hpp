#pragma once

#include <cmath>

#include <kfac/core/random.hpp>
#include <kfac/nn/layer.hpp>

namespace kfac {

struct LinearOptions {
  bool bias = true;
};

/// y = W x + b on the fastest axis of the input: a vector `{inputs}` or each of the shared
/// positions of `{tokens, inputs}` and the like, as torch.nn.Linear. Sizes are template arguments
/// (`Linear<float, 2, 32>`, whose parameters are stored in the object) or constructor arguments
/// (`Linear<float>(2, 32, rng)`). Parameters: "weight" `outputs x inputs`, "bias" `outputs`,
/// uniform in +-1/sqrt(inputs) like PyTorch's default.
template <RealScalar S, int In = Eigen::Dynamic, int Out = Eigen::Dynamic>
class Linear {
  static constexpr int kMaxColumns = In == Eigen::Dynamic ? Eigen::Dynamic : In + 1;
  // Eigen wants matrices of one row, which have one order in memory, to be called row-major.
  static constexpr int kOrder = Out == 1 ? Eigen::RowMajor : Eigen::ColMajor;
  using Weights = Eigen::Matrix<S, Out, Eigen::Dynamic, kOrder, Out, kMaxColumns>;

 public:
  using Scalar = S;
  struct Scratch {};
  static const char* kind() { return "Linear"; }

  /// \throws OptionError if a size is below 1
  Linear(Index inputs, Index outputs, Rng& rng, LinearOptions options = {})
      : inputs_(inputs), bias_(options.bias) {
    detail::check_option(inputs >= 1, "kfac::Linear", "inputs", inputs, ">= 1");
    detail::check_option(outputs >= 1, "kfac::Linear", "outputs", outputs, ">= 1");
    static_assert(In == Eigen::Dynamic || Out == Eigen::Dynamic ||
                      Index{sizeof(S)} * Index{Out} * Index{In + 1} <= Index{128} * 1024,
                  "parameters this large do not go into the object: give the sizes at run time");
    static_assert(In == Eigen::Dynamic || In >= 1, "a Linear layer has at least one input");
    static_assert(Out == Eigen::Dynamic || Out >= 1, "a Linear layer has at least one output");
    detail::check_option(In == Eigen::Dynamic || In == inputs, "kfac::Linear", "inputs", inputs,
                         "the template argument");
    detail::check_option(Out == Eigen::Dynamic || Out == outputs, "kfac::Linear", "outputs",
                         outputs, "the template argument");
    weights_.resize(outputs, inputs + (bias_ ? 1 : 0));
    const double bound = 1.0 / std::sqrt(static_cast<double>(inputs));
    rng.fill_uniform(weights_, -bound, bound);
  }

  explicit Linear(Rng& rng, LinearOptions options = {}) requires(In != Eigen::Dynamic &&
                                                                 Out != Eigen::Dynamic)
      : Linear(In, Out, rng, options) {}

  Index inputs() const { return inputs_; }
  Index outputs() const { return weights_.rows(); }
  bool has_bias() const { return bias_; }

  /// [W b], `outputs x (inputs + bias)`.
  MatrixMap<S> augmented_weight() { return {weights_.data(), weights_.rows(), weights_.cols()}; }
  Index parameter_count() const { return weights_.size(); }
  VectorMap<S> parameters() { return {weights_.data(), weights_.size()}; }
  std::vector<ParameterInfo> parameter_info() const {
    std::vector<ParameterInfo> info{{"weight", 0, outputs(), inputs_}};
    if (bias_) info.push_back({"bias", outputs() * inputs_, outputs(), 1});
    return info;
  }

  Shape output_shape(const Shape& shape) const {
    if (shape.rank() == 0 || shape.back() != inputs_)
      raise<ShapeError>("kfac::Linear: 'input' has shape " + shape.to_string() + ", expected " +
                        std::to_string(inputs_) + " features on the last axis");
    return shape.with_back(outputs());
  }

  void forward(const ConstBatchView<S>& x, BatchView<S> y, Scratch&, const Mode&) const {
    MatrixMap<S> outputs = y.columns();
    outputs.noalias() = weight() * x.columns();
    if (bias_) outputs.colwise() += weights_.col(inputs_);
  }

  void backward(const ConstBatchView<S>& x, const ConstBatchView<S>&,
                const ConstBatchView<S>& grad_output, BatchView<S>* grad_input,
                VectorMap<S>* grad_parameters, Scratch&, const Mode&) const {
    const ConstMatrixMap<S> gradient = grad_output.columns();
    if (grad_input) grad_input->columns().noalias() = weight().transpose() * gradient;
    if (!grad_parameters) return;
    MatrixMap<S> grad_weights(grad_parameters->data(), outputs(), weights_.cols());
    grad_weights.leftCols(inputs_).noalias() = gradient * x.columns().transpose();
    if (bias_) grad_weights.col(inputs_) = gradient.rowwise().sum();
  }

  void tangent(const ConstBatchView<S>& x, const ConstBatchView<S>&,
               const ConstBatchView<S>* x_tangent, const ConstVectorMap<S>* parameter_tangent,
               BatchView<S> y_tangent, Scratch&) const {
    MatrixMap<S> result = y_tangent.columns();
    if (x_tangent)
      result.noalias() = weight() * x_tangent->columns();
    else
      result.setZero();
    if (!parameter_tangent) return;
    const ConstMatrixMap<S> weights_tangent(parameter_tangent->data(), outputs(), weights_.cols());
    result.noalias() += weights_tangent.leftCols(inputs_) * x.columns();
    if (bias_) result.colwise() += weights_tangent.col(inputs_);
  }

  void backward_tangent(const ConstBatchView<S>& x, const ConstBatchView<S>&,
                        const ConstBatchView<S>& grad_output, const ConstBatchView<S>* x_tangent,
                        const ConstVectorMap<S>* parameter_tangent,
                        const ConstBatchView<S>& grad_output_tangent,
                        BatchView<S>* grad_input_tangent, VectorMap<S>* grad_parameters_tangent,
                        Scratch&) const {
    const ConstMatrixMap<S> gradient = grad_output.columns();
    const ConstMatrixMap<S> gradient_tangent = grad_output_tangent.columns();
    if (grad_input_tangent) {
      MatrixMap<S> result = grad_input_tangent->columns();
      result.noalias() = weight().transpose() * gradient_tangent;
      if (parameter_tangent) {
        const ConstMatrixMap<S> weight_tangent(parameter_tangent->data(), outputs(), inputs_);
        result.noalias() += weight_tangent.transpose() * gradient;
      }
    }
    if (!grad_parameters_tangent) return;
    MatrixMap<S> result(grad_parameters_tangent->data(), outputs(), weights_.cols());
    result.leftCols(inputs_).noalias() = gradient_tangent * x.columns().transpose();
    if (x_tangent)
      result.leftCols(inputs_).noalias() += gradient * x_tangent->columns().transpose();
    if (bias_) result.col(inputs_) = gradient_tangent.rowwise().sum();
  }

  KroneckerStructure kronecker_structure() const { return {inputs_, outputs(), bias_, 1}; }
  SharedBatch<S> kronecker_input(const ConstBatchView<S>& x, const Scratch&) const {
    return shared(x);
  }
  SharedBatch<S> kronecker_output_gradient(const ConstBatchView<S>& grad_output,
                                           const Scratch&) const {
    return shared(grad_output);
  }

 private:
  auto weight() const { return weights_.template leftCols<In>(inputs_); }

  static SharedBatch<S> shared(const ConstBatchView<S>& batch) {
    const Index features = batch.shape.back();
    return {batch.values.data(), features, batch.values.size() / features,
            batch.shape.size() / features, SharedBatch<S>::Order::ColumnMajor};
  }

  Index inputs_ = In;
  bool bias_ = true;
  Weights weights_;
};

}  // namespace kfac
