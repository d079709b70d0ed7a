#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <numbers>

#include <kfac/core/pieces.hpp>
#include <kfac/nn/layer.hpp>

namespace kfac {
namespace detail {

template <class Function, class S>
concept TwiceDifferentiableFunction = requires(const ConstMatrixMap<S>& in, MatrixMap<S> out) {
  Function::second_derivative(in.array(), in.array(), out.array());
};

template <class Function, class S>
concept ThriceDifferentiableFunction = TwiceDifferentiableFunction<Function, S> &&
    requires(const ConstMatrixMap<S>& in, MatrixMap<S> out) {
  Function::third_derivative(in.array(), in.array(), out.array());
};

}  // namespace detail

/// What the derivatives of a function are computed from.
enum class DerivativesOf { InputAndOutput, Input, Output };

/// An elementwise layer y = f(x) on any shape. `Function` gives f and f' on Eigen arrays:
/// `value(x, into)`, and `derivative(x, y, into)` where y = f(x) is at hand; for products with the
/// Hessian also f'', `second_derivative(x, y, into)`, and for derivatives with respect to a
/// network's inputs (`jet_network`) f''', `third_derivative(x, y, into)`. They are called with a
/// part of a batch at a time, from several threads. A function whose derivatives read only one of x
/// and y says so, in `static constexpr DerivativesOf kDerivativesOf`: of y alone, it can work in
/// place, where `value` is called with the same x and into, and derivatives with the same x and y.
template <RealScalar S, class Function>
class Activation : public ParameterFree<S> {
 public:
  struct Scratch {};
  static constexpr bool kElementwise = true;
  static const char* kind() { return Function::kind(); }

  Shape output_shape(const Shape& shape) const { return shape; }
  static constexpr Index output_size(Index inputs) { return inputs; }
  static constexpr MemoryUse memory_use() {
    if constexpr (requires { Function::kDerivativesOf; })
      return {
          Function::kDerivativesOf == DerivativesOf::Output ? InPlace::Replaces : InPlace::Never,
          Function::kDerivativesOf != DerivativesOf::Input};
    else
      return {};
  }

  void forward(const ConstBatchView<S>& x, BatchView<S> y, Scratch&, const Mode&) const {
    detail::for_each_piece(x.values.size(), detail::kPieceSize, [&](Index first, Index count) {
      Function::value(part(x, first, count), part(y, first, count));
    });
  }
  void backward(const ConstBatchView<S>& x, const ConstBatchView<S>& y,
                const ConstBatchView<S>& grad_output, BatchView<S>* grad_input, VectorMap<S>*,
                Scratch&, const Mode&) const {
    if (grad_input) scale(x, y, grad_output, *grad_input);
  }
  void tangent(const ConstBatchView<S>& x, const ConstBatchView<S>& y,
               const ConstBatchView<S>* x_tangent, const ConstVectorMap<S>*, BatchView<S> y_tangent,
               Scratch&) const {
    if (x_tangent)
      scale(x, y, *x_tangent, y_tangent);
    else
      y_tangent.values.setZero();
  }
  void backward_tangent(const ConstBatchView<S>& x, const ConstBatchView<S>& y,
                        const ConstBatchView<S>& grad_output, const ConstBatchView<S>* x_tangent,
                        const ConstVectorMap<S>*, const ConstBatchView<S>& grad_output_tangent,
                        BatchView<S>* grad_input_tangent, VectorMap<S>*,
                        Scratch&) const requires detail::TwiceDifferentiableFunction<Function, S> {
    if (!grad_input_tangent) return;
    scale(x, y, grad_output_tangent, *grad_input_tangent);
    if (!x_tangent) return;
    for_each_block(x, [&](Index first, Index count, MatrixMap<S> second) {
      Function::second_derivative(part(x, first, count), part(y, first, count), second.array());
      part(*grad_input_tangent, first, count) +=
          second.array() * part(*x_tangent, first, count) * part(grad_output, first, count);
    });
  }

 private:
  using Array = Eigen::ArrayWrapper<MatrixMap<S>>;
  using ConstArray = Eigen::ArrayWrapper<const ConstMatrixMap<S>>;

  static ConstArray part(const ConstBatchView<S>& batch, Index first, Index count) {
    return ConstArray(ConstMatrixMap<S>(batch.values.data() + first, count, 1));
  }
  static Array part(BatchView<S>& batch, Index first, Index count) {
    return MatrixMap<S>(batch.values.data() + first, count, 1).array();
  }

  /// Calls `body(first, count, derivatives)` for parts of a batch like `x`, each with memory for as
  /// many derivatives, which so never leave the first-level cache.
  template <class Body>
  static void for_each_block(const ConstBatchView<S>& x, Body&& body) {
    static constexpr Index kBlock = 512;
    detail::for_each_piece(x.values.size(), detail::kPieceSize, [&](Index begin, Index size) {
      alignas(64) std::array<S, static_cast<std::size_t>(kBlock)> derivatives;
      for (Index first = 0; first < size; first += kBlock) {
        const Index count = std::min(kBlock, size - first);
        body(begin + first, count, MatrixMap<S>(derivatives.data(), count, 1));
      }
    });
  }

  /// The Jacobian is diagonal, so products from the left and from the right are the same.
  static void scale(const ConstBatchView<S>& x, const ConstBatchView<S>& y,
                    const ConstBatchView<S>& vector, BatchView<S> product) {
    for_each_block(x, [&](Index first, Index count, MatrixMap<S> derivative) {
      Function::derivative(part(x, first, count), part(y, first, count), derivative.array());
      part(product, first, count) = derivative.array() * part(vector, first, count);
    });
  }
};

namespace detail {

/// 1 or 0, many at once: a comparison in Eigen is one at a time.
template <RealScalar S>
struct IsPositive {
  S operator()(S y) const { return y > S(0) ? S(1) : S(0); }
  template <class Packet>
  // NOLINTNEXTLINE(readability-identifier-naming): as Eigen calls it
  Packet packetOp(const Packet& y) const {
    using namespace Eigen::internal;  // NOLINT(google-build-using-namespace): as an operator of it
    const Packet zero = pzero(y);
    return pand(pcmp_lt(zero, y), pset1<Packet>(S(1)));
  }
};

}  // namespace detail
}  // namespace kfac

template <class S>
struct Eigen::internal::functor_traits<kfac::detail::IsPositive<S>> {
  enum { Cost = NumTraits<S>::AddCost, PacketAccess = packet_traits<S>::HasCmp };
};

namespace kfac {
namespace detail {

struct ReLUFunction {
  static constexpr DerivativesOf kDerivativesOf = DerivativesOf::Output;
  static const char* kind() { return "ReLU"; }
  template <class X, class Y>
  static void value(const X& x, Y&& y) {
    y = x.max(typename X::Scalar(0));
  }
  template <class X, class Y, class D>
  static void derivative(const X&, const Y& y, D&& d) {
    d = y.unaryExpr(IsPositive<typename Y::Scalar>{});
  }
  template <class X, class Y, class D>
  static void second_derivative(const X&, const Y&, D&& d) {
    d.setZero();
  }
};

struct TanhFunction {
  static constexpr DerivativesOf kDerivativesOf = DerivativesOf::Output;
  static const char* kind() { return "Tanh"; }
  template <class X, class Y>
  static void value(const X& x, Y&& y) {
    y = x.tanh();
  }
  template <class X, class Y, class D>
  static void derivative(const X&, const Y& y, D&& d) {
    d = typename X::Scalar(1) - y.square();
  }
  template <class X, class Y, class D>
  static void second_derivative(const X&, const Y& y, D&& d) {
    using S = typename X::Scalar;
    d = S(-2) * y * (S(1) - y.square());
  }
  template <class X, class Y, class D>
  static void third_derivative(const X&, const Y& y, D&& d) {
    using S = typename X::Scalar;
    d = (S(1) - y.square()) * (S(6) * y.square() - S(2));
  }
};

struct SigmoidFunction {
  static constexpr DerivativesOf kDerivativesOf = DerivativesOf::Output;
  static const char* kind() { return "Sigmoid"; }
  template <class X, class Y>
  static void value(const X& x, Y&& y) {
    y = x.logistic();
  }
  template <class X, class Y, class D>
  static void derivative(const X&, const Y& y, D&& d) {
    d = y * (typename X::Scalar(1) - y);
  }
  template <class X, class Y, class D>
  static void second_derivative(const X&, const Y& y, D&& d) {
    using S = typename X::Scalar;
    d = y * (S(1) - y) * (S(1) - S(2) * y);
  }
  template <class X, class Y, class D>
  static void third_derivative(const X&, const Y& y, D&& d) {
    using S = typename X::Scalar;
    d = y * (S(1) - y) * (S(1) - S(6) * y * (S(1) - y));
  }
};

struct GELUFunction {
  static constexpr DerivativesOf kDerivativesOf = DerivativesOf::Input;
  static const char* kind() { return "GELU"; }
  template <class X, class Y>
  static void value(const X& x, Y&& y) {
    using S = typename X::Scalar;
    y = x.unaryExpr([](S z) { return z * cumulative(z); });
  }
  template <class X, class Y, class D>
  static void derivative(const X& x, const Y&, D&& d) {
    using S = typename X::Scalar;
    d = x.unaryExpr([](S z) { return cumulative(z) + z * density(z); });
  }
  template <class X, class Y, class D>
  static void second_derivative(const X& x, const Y&, D&& d) {
    using S = typename X::Scalar;
    // In this order z^2 does not overflow.
    d = x.unaryExpr([](S z) { return S(2) * density(z) - z * (z * density(z)); });
  }
  template <class X, class Y, class D>
  static void third_derivative(const X& x, const Y&, D&& d) {
    using S = typename X::Scalar;
    d = x.unaryExpr([](S z) { return z * (z * (z * density(z))) - S(4) * (z * density(z)); });
  }
  /// The standard normal distribution function, and its density.
  template <class S>
  static S cumulative(S z) {
    return S(0.5) * std::erfc(-z / std::numbers::sqrt2_v<S>);
  }
  template <class S>
  static S density(S z) {
    return std::exp(S(-0.5) * z * z) * std::numbers::inv_sqrtpi_v<S> / std::numbers::sqrt2_v<S>;
  }
};

struct SoftplusFunction {
  static constexpr DerivativesOf kDerivativesOf = DerivativesOf::Output;
  static const char* kind() { return "Softplus"; }
  template <class X, class Y>
  static void value(const X& x, Y&& y) {
    using S = typename X::Scalar;
    y = x.max(S(0)) + (-x.abs()).exp().log1p();
  }
  template <class X, class Y, class D>
  static void derivative(const X&, const Y& y, D&& d) {
    // 1 - exp(-y) = 2 t / (1 + t) with t = tanh(y / 2): no cancellation.
    using S = typename Y::Scalar;
    d = (S(0.5) * y).tanh();
    d *= S(2) / (S(1) + d);
  }
  template <class X, class Y, class D>
  static void second_derivative(const X& x, const Y& y, D&& d) {
    derivative(x, y, d);
    d *= (-y).exp();
  }
  template <class X, class Y, class D>
  static void third_derivative(const X& x, const Y& y, D&& d) {
    using S = typename Y::Scalar;
    derivative(x, y, d);
    d *= (S(1) - S(2) * d) * (-y).exp();
  }
};

struct SineFunction {
  static constexpr DerivativesOf kDerivativesOf = DerivativesOf::Input;
  static const char* kind() { return "Sine"; }
  template <class X, class Y>
  static void value(const X& x, Y&& y) {
    y = x.sin();
  }
  template <class X, class Y, class D>
  static void derivative(const X& x, const Y&, D&& d) {
    d = x.cos();
  }
  template <class X, class Y, class D>
  static void second_derivative(const X& x, const Y&, D&& d) {
    d = -x.sin();
  }
  template <class X, class Y, class D>
  static void third_derivative(const X& x, const Y&, D&& d) {
    d = -x.cos();
  }
};

struct IdentityFunction {
  static constexpr DerivativesOf kDerivativesOf = DerivativesOf::Output;
  static const char* kind() { return "Identity"; }
  template <class X, class Y>
  static void value(const X& x, Y&& y) {
    y = x;
  }
  template <class X, class Y, class D>
  static void derivative(const X&, const Y&, D&& d) {
    d.setOnes();
  }
  template <class X, class Y, class D>
  static void second_derivative(const X&, const Y&, D&& d) {
    d.setZero();
  }
  template <class X, class Y, class D>
  static void third_derivative(const X&, const Y&, D&& d) {
    d.setZero();
  }
};

}  // namespace detail

/// max(x, 0); the derivative at 0 is 0.
template <RealScalar S>
using ReLU = Activation<S, detail::ReLUFunction>;

template <RealScalar S>
using Tanh = Activation<S, detail::TanhFunction>;

/// 1 / (1 + exp(-x))
template <RealScalar S>
using Sigmoid = Activation<S, detail::SigmoidFunction>;

/// x times the standard normal distribution function of x, the exact form.
/// \source Hendrycks and Gimpel, Gaussian error linear units, 2016
template <RealScalar S>
using GELU = Activation<S, detail::GELUFunction>;

/// log(1 + exp(x)), without overflow.
template <RealScalar S>
using Softplus = Activation<S, detail::SoftplusFunction>;

/// sin(x), for networks that are solutions of differential equations.
/// \source Sitzmann et al., Implicit neural representations with periodic activation functions,
/// 2020
template <RealScalar S>
using Sine = Activation<S, detail::SineFunction>;

template <RealScalar S>
using Identity = Activation<S, detail::IdentityFunction>;

}  // namespace kfac
