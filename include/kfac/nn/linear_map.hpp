#pragma once

#include <kfac/nn/layer.hpp>

namespace kfac::detail {

/// Base of layers without parameters that are linear in their input. `Derived` has `apply(x, y)`,
/// which overwrites y, and its adjoint, `apply_adjoint(gradient, into)`, likewise.
template <class Derived, RealScalar S>
class LinearMap : public ParameterFree<S>, public LocallyLinear<Derived, S> {
 public:
  struct Scratch {};

  static constexpr MemoryUse memory_use() { return {InPlace::Never, false}; }

  void forward(const ConstBatchView<S>& x, BatchView<S> y, Scratch&, const Mode&) const {
    derived().apply(x, y);
  }
  void backward(const ConstBatchView<S>&, const ConstBatchView<S>&,
                const ConstBatchView<S>& grad_output, BatchView<S>* grad_input, VectorMap<S>*,
                Scratch&, const Mode&) const {
    if (grad_input) derived().apply_adjoint(grad_output, *grad_input);
  }
  void tangent(const ConstBatchView<S>&, const ConstBatchView<S>&,
               const ConstBatchView<S>* x_tangent, const ConstVectorMap<S>*, BatchView<S> y_tangent,
               Scratch&) const {
    if (x_tangent)
      derived().apply(*x_tangent, y_tangent);
    else
      y_tangent.values.setZero();
  }

 private:
  const Derived& derived() const { return static_cast<const Derived&>(*this); }
};

}  // namespace kfac::detail
