#pragma once

#include <kfac/nn/layer.hpp>

namespace kfac {
namespace detail {

/// A layer that changes the shape of its input and nothing else.
template <RealScalar S>
class Reshaping : public ParameterFree<S>, public LocallyLinear<Reshaping<S>, S> {
 public:
  struct Scratch {};

  static constexpr MemoryUse memory_use() { return {InPlace::Keeps, false}; }
  static constexpr Index output_size(Index inputs) { return inputs; }

  void forward(const ConstBatchView<S>& x, BatchView<S> y, Scratch&, const Mode&) const {
    y.values = x.values;
  }
  void backward(const ConstBatchView<S>&, const ConstBatchView<S>&,
                const ConstBatchView<S>& grad_output, BatchView<S>* grad_input, VectorMap<S>*,
                Scratch&, const Mode&) const {
    if (grad_input) grad_input->values = grad_output.values;
  }
  void tangent(const ConstBatchView<S>&, const ConstBatchView<S>&,
               const ConstBatchView<S>* x_tangent, const ConstVectorMap<S>*, BatchView<S> y_tangent,
               Scratch&) const {
    if (x_tangent)
      y_tangent.values = x_tangent->values;
    else
      y_tangent.values.setZero();
  }
};

}  // namespace detail

/// Any shape to a vector with the same entries, as torch.nn.Flatten.
template <RealScalar S>
class Flatten : public detail::Reshaping<S> {
 public:
  static const char* kind() { return "Flatten"; }
  Shape output_shape(const Shape& shape) const { return {shape.size()}; }
};

/// A vector to the given shape, such as `Unflatten<float>({1, 28, 28})` in front of a convolution.
template <RealScalar S>
class Unflatten : public detail::Reshaping<S> {
 public:
  static const char* kind() { return "Unflatten"; }
  explicit Unflatten(const Shape& shape) : shape_(shape) {}

  const Shape& shape() const { return shape_; }

  Shape output_shape(const Shape& shape) const {
    if (!(shape == Shape{shape_.size()}))
      raise<ShapeError>("kfac::Unflatten: 'input' has shape " + shape.to_string() + ", expected " +
                        std::to_string(shape_.size()) + ", the entries of " + shape_.to_string());
    return shape_;
  }

 private:
  Shape shape_;
};

}  // namespace kfac
