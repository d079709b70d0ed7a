#pragma once

#include <vector>

#include <kfac/core/buffer.hpp>
#include <kfac/nn/jet.hpp>
#include <kfac/nn/linear.hpp>

namespace kfac {

/// A Linear layer on jets, examples of shape `{slots, inputs}`: all slots are multiplied with W,
/// and the bias is added to the value. It has the parameters of the layer it is made of, which must
/// outlive it and stay where it is. What it announces for Kronecker factors are the inputs of all
/// slots, with the 1 that stands for the bias in that of the value alone.
template <RealScalar S, int In = Eigen::Dynamic, int Out = Eigen::Dynamic>
class JetLinear {
 public:
  using Scalar = S;
  struct Scratch {
    mutable Buffer<S> augmented;  ///< the inputs that are announced
  };
  static const char* kind() { return "Linear"; }

  JetLinear(Linear<S, In, Out>& layer, const JetSlots<S>& slots)
      : layer_(&layer), slots_(slots.count()) {}

  Index parameter_count() const { return layer_->parameter_count(); }
  VectorMap<S> parameters() { return layer_->parameters(); }
  std::vector<ParameterInfo> parameter_info() const { return layer_->parameter_info(); }
  Shape output_shape(const Shape& shape) const { return layer_->output_shape(shape); }
  static constexpr MemoryUse memory_use() { return {InPlace::Never, false}; }
  Index scratch_size(const Shape& shape, Index examples) const {
    return layer_->has_bias() ? (shape.back() + 1) * slots_ * examples : 0;
  }

  void forward(const ConstBatchView<S>& x, BatchView<S> y, Scratch&, const Mode&) const {
    products().multiply(weight(), nullptr, x, y);
    add_bias(bias_of(weight()), y);
  }
  void backward(const ConstBatchView<S>& x, const ConstBatchView<S>&,
                const ConstBatchView<S>& grad_output, BatchView<S>* grad_input,
                VectorMap<S>* grad_parameters, Scratch&, const Mode&) const {
    if (grad_input) products().multiply_transposed(weight(), grad_output, *grad_input);
    if (!grad_parameters) return;
    products().multiply_outer(grad_output, x, grad_parameters->data());
    if (!layer_->has_bias()) return;
    VectorMap<S> sum(bias_of(grad_parameters->data()), layer_->outputs());
    sum.setZero();
    for (Index n = 0; n < grad_output.examples(); ++n)
      sum += grad_output.values.col(n).head(layer_->outputs());
  }
  void tangent(const ConstBatchView<S>& x, const ConstBatchView<S>&,
               const ConstBatchView<S>* x_tangent, const ConstVectorMap<S>* parameter_tangent,
               BatchView<S> y_tangent, Scratch&) const {
    if (parameter_tangent) {
      products().multiply(parameter_tangent->data(), nullptr, x, y_tangent);
      add_bias(bias_of(parameter_tangent->data()), y_tangent);
      if (x_tangent) products().add_multiplied(weight(), *x_tangent, y_tangent);
    } else if (x_tangent) {
      products().multiply(weight(), nullptr, *x_tangent, y_tangent);
    } else {
      y_tangent.values.setZero();
    }
  }

  KroneckerStructure kronecker_structure() const {
    return {layer_->inputs() + (layer_->has_bias() ? 1 : 0), layer_->outputs(), false, 1};
  }
  SharedBatch<S> kronecker_input(const ConstBatchView<S>& x, const Scratch& scratch) const {
    if (!layer_->has_bias()) return shared(x.columns());
    const ConstMatrixMap<S> columns = x.columns();
    MatrixMap<S> augmented = scratch.augmented.map(columns.rows() + 1, columns.cols());
    augmented.topRows(columns.rows()) = columns;
    for (Index j = 0; j < columns.cols(); ++j)
      augmented(columns.rows(), j) = j % slots_ == 0 ? S(1) : S(0);
    return shared({augmented.data(), augmented.rows(), augmented.cols()});
  }
  SharedBatch<S> kronecker_output_gradient(const ConstBatchView<S>& grad_output,
                                           const Scratch&) const {
    return shared(grad_output.columns());
  }

 private:
  detail::LinearProducts<S, In, Out> products() const {
    return {layer_->inputs(), layer_->outputs()};
  }
  const S* weight() const { return layer_->augmented_weight().data(); }
  /// The bias of such parameters; null if there is none.
  template <class Data>
  Data* bias_of(Data* parameters) const {
    return layer_->has_bias() ? parameters + layer_->outputs() * layer_->inputs() : nullptr;
  }
  void add_bias(const S* bias, BatchView<S>& y) const {
    if (!bias) return;
    const ConstVectorMap<S> b(bias, layer_->outputs());
    for (Index n = 0; n < y.values.cols(); ++n) y.values.col(n).head(b.size()) += b;
  }
  SharedBatch<S> shared(const ConstMatrixMap<S>& columns) const {
    return {columns.data(), columns.rows(), columns.cols(), slots_,
            SharedBatch<S>::Order::ColumnMajor};
  }

  Linear<S, In, Out>* layer_;
  Index slots_;
};

}  // namespace kfac
