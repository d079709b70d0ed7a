#pragma once

#include <cmath>

#include <kfac/core/random.hpp>
#include <kfac/nn/layer.hpp>
#include <kfac/nn/linear_products.hpp>

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
  static constexpr int kInputs = In;
  static constexpr int kParameters = Out * (In + 1);  ///< at most, of compile-time sizes
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

  static constexpr MemoryUse memory_use() { return {InPlace::Never, false}; }
  static constexpr Index output_size(Index) requires(In != Eigen::Dynamic &&
                                                     Out != Eigen::Dynamic) {
    return Out;
  }

  void forward(const ConstBatchView<S>& x, BatchView<S> y, Scratch&, const Mode&) const {
    products().multiply(weights_.data(), bias_of(weights_.data()), x, y);
  }

  void backward(const ConstBatchView<S>& x, const ConstBatchView<S>&,
                const ConstBatchView<S>& grad_output, BatchView<S>* grad_input,
                VectorMap<S>* grad_parameters, Scratch&, const Mode&) const {
    if (grad_input) products().multiply_transposed(weights_.data(), grad_output, *grad_input);
    if (!grad_parameters) return;
    products().multiply_outer(grad_output, x, grad_parameters->data());
    if (bias_) products().sum_columns(grad_output, bias_of(grad_parameters->data()));
  }

  void tangent(const ConstBatchView<S>& x, const ConstBatchView<S>&,
               const ConstBatchView<S>* x_tangent, const ConstVectorMap<S>* parameter_tangent,
               BatchView<S> y_tangent, Scratch&) const {
    if (parameter_tangent) {
      const S* direction = parameter_tangent->data();
      products().multiply(direction, bias_of(direction), x, y_tangent);
      if (x_tangent) products().add_multiplied(weights_.data(), *x_tangent, y_tangent);
    } else if (x_tangent) {
      products().multiply(weights_.data(), nullptr, *x_tangent, y_tangent);
    } else {
      y_tangent.values.setZero();
    }
  }

  void backward_tangent(const ConstBatchView<S>& x, const ConstBatchView<S>&,
                        const ConstBatchView<S>& grad_output, const ConstBatchView<S>* x_tangent,
                        const ConstVectorMap<S>* parameter_tangent,
                        const ConstBatchView<S>& grad_output_tangent,
                        BatchView<S>* grad_input_tangent, VectorMap<S>* grad_parameters_tangent,
                        Scratch&) const {
    if (grad_input_tangent) {
      products().multiply_transposed(weights_.data(), grad_output_tangent, *grad_input_tangent);
      if (parameter_tangent)
        products().add_multiplied_transposed(parameter_tangent->data(), grad_output,
                                             *grad_input_tangent);
    }
    if (!grad_parameters_tangent) return;
    S* result = grad_parameters_tangent->data();
    products().multiply_outer(grad_output_tangent, x, result);
    if (x_tangent) products().add_multiplied_outer(grad_output, *x_tangent, result);
    if (bias_) products().sum_columns(grad_output_tangent, bias_of(result));
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
  detail::LinearProducts<S, In, Out> products() const { return {inputs_, outputs()}; }

  /// The bias of such parameters; null if there is none.
  template <class Data>
  Data* bias_of(Data* parameters) const {
    return bias_ ? parameters + outputs() * inputs_ : nullptr;
  }

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
