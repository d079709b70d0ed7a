#pragma once

#include <algorithm>
#include <array>
#include <cstddef>

#include <kfac/nn/activations.hpp>
#include <kfac/nn/jet.hpp>

namespace kfac {

/// An elementwise function on jets, examples of shape `{slots, features}`: the value becomes f(z),
/// the first derivatives f'(z) z_i, the sums of second derivatives f'(z) z_m + f''(z) sum_i c_mi
/// z_i^2. The backward pass also takes f'''.
/// \source Li et al., Forward Laplacian: a new computational framework for neural network-based
///         variational Monte Carlo, 2023, arXiv 2307.08214
template <RealScalar S, class Function>
class JetActivation : public ParameterFree<S> {
 public:
  struct Scratch {};
  static const char* kind() { return Function::kind(); }

  explicit JetActivation(const JetSlots<S>& slots) : slots_(slots) {}

  Shape output_shape(const Shape& shape) const { return shape; }
  static constexpr MemoryUse memory_use() { return {InPlace::Never, true}; }

  void forward(const ConstBatchView<S>& x, BatchView<S> y, Scratch&, const Mode&) const {
    for_each_part(x, [&](Index n, Index first, Index count, Parts& parts) {
      const auto in = [&](Index slot) { return part(x, n, slot, first, count); };
      const auto out = [&](Index slot) { return part(y, n, slot, first, count); };
      Function::value(in(0), out(0));
      Array slope(parts[0].data(), count);
      Function::derivative(in(0), ConstArray(out(0).data(), count), slope);
      for (Index slot = 1; slot < slots_.count(); ++slot) out(slot) = slope * in(slot);
      if (slots_.seconds() == 0) return;
      Array curvature(parts[1].data(), count);
      Function::second_derivative(in(0), ConstArray(out(0).data(), count), curvature);
      for_each_second(
          [&](Index slot, Index i, S weight) { out(slot) += weight * curvature * in(i).square(); });
    });
  }

  void backward(const ConstBatchView<S>& x, const ConstBatchView<S>& y,
                const ConstBatchView<S>& grad_output, BatchView<S>* grad_input, VectorMap<S>*,
                Scratch&, const Mode&) const {
    if (!grad_input) return;
    for_each_part(x, [&](Index n, Index first, Index count, Parts& parts) {
      const auto in = [&](Index slot) { return part(x, n, slot, first, count); };
      const auto gradient = [&](Index slot) { return part(grad_output, n, slot, first, count); };
      const auto out = [&](Index slot) { return part(*grad_input, n, slot, first, count); };
      const Derivatives f = derivatives(x, y, n, first, count, parts);
      for (Index slot = 0; slot < slots_.count(); ++slot) out(slot) = f.slope * gradient(slot);
      for (Index slot = 1; slot < slots_.count(); ++slot)
        out(0) += f.curvature * gradient(slot) * in(slot);
      for_each_second([&](Index slot, Index i, S weight) {
        out(0) += weight * f.third * gradient(slot) * in(i).square();
        out(i) += (S(2) * weight) * f.curvature * gradient(slot) * in(i);
      });
    });
  }

  void tangent(const ConstBatchView<S>& x, const ConstBatchView<S>& y,
               const ConstBatchView<S>* x_tangent, const ConstVectorMap<S>*, BatchView<S> y_tangent,
               Scratch&) const {
    if (!x_tangent) {
      y_tangent.values.setZero();
      return;
    }
    for_each_part(x, [&](Index n, Index first, Index count, Parts& parts) {
      const auto in = [&](Index slot) { return part(x, n, slot, first, count); };
      const auto along = [&](Index slot) { return part(*x_tangent, n, slot, first, count); };
      const auto out = [&](Index slot) { return part(y_tangent, n, slot, first, count); };
      const Derivatives f = derivatives(x, y, n, first, count, parts);
      for (Index slot = 0; slot < slots_.count(); ++slot) out(slot) = f.slope * along(slot);
      for (Index slot = 1; slot < slots_.count(); ++slot)
        out(slot) += f.curvature * along(0) * in(slot);
      for_each_second([&](Index slot, Index i, S weight) {
        out(slot) += weight * (f.third * along(0) * in(i) + S(2) * f.curvature * along(i)) * in(i);
      });
    });
  }

 private:
  using Array = Eigen::Map<Eigen::Array<S, Eigen::Dynamic, 1>>;
  using ConstArray = Eigen::Map<const Eigen::Array<S, Eigen::Dynamic, 1>>;
  static constexpr Index kPart = 256;
  using Parts = std::array<std::array<S, static_cast<std::size_t>(kPart)>, 3>;
  struct Derivatives {
    Array slope, curvature, third;
  };

  static ConstArray part(const ConstBatchView<S>& batch, Index n, Index slot, Index first,
                         Index count) {
    return {batch.values.col(n).data() + slot * batch.shape.back() + first, count};
  }
  static Array part(BatchView<S>& batch, Index n, Index slot, Index first, Index count) {
    return {batch.values.col(n).data() + slot * batch.shape.back() + first, count};
  }

  /// Calls `body(example, first feature, count, memory for derivatives)` for all features of all
  /// examples.
  template <class Body>
  static void for_each_part(const ConstBatchView<S>& x, const Body& body) {
    const Index features = x.shape.back();
    const Index at_once = std::max<Index>(1, detail::kPieceSize / x.values.rows());
    detail::for_each_piece(x.examples(), at_once, [&](Index begin, Index size) {
      alignas(64) Parts parts;
      for (Index n = begin; n < begin + size; ++n)
        for (Index first = 0; first < features; first += kPart)
          body(n, first, std::min(kPart, features - first), parts);
    });
  }
  /// Calls `body(slot, i, weight)` for the second derivatives d^2/dv_i^2 of each sum, where i is
  /// the slot of the first derivative.
  template <class Body>
  void for_each_second(const Body& body) const {
    for (Index m = 0; m < slots_.seconds(); ++m)
      for (Index i = 0; i < slots_.firsts(); ++i)
        if (slots_.second(m, i) != S(0)) body(1 + slots_.firsts() + m, 1 + i, slots_.second(m, i));
  }
  Derivatives derivatives(const ConstBatchView<S>& x, const ConstBatchView<S>& y, Index n,
                          Index first, Index count, Parts& parts) const {
    Derivatives result{
        {parts[0].data(), count}, {parts[1].data(), count}, {parts[2].data(), count}};
    const ConstArray in = part(x, n, 0, first, count);
    const ConstArray out = part(y, n, 0, first, count);
    Function::derivative(in, out, result.slope);
    Function::second_derivative(in, out, result.curvature);
    if (slots_.seconds() > 0)
      Function::third_derivative(in, out, result.third);
    else
      result.third.setZero();
    return result;
  }

  JetSlots<S> slots_;
};

}  // namespace kfac
