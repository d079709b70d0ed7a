#pragma once

#include <cmath>
#include <numbers>

#include <kfac/core/buffer.hpp>
#include <kfac/nn/layer.hpp>

namespace kfac {
namespace detail {

template <class Function, class S>
concept TwiceDifferentiableFunction = requires(const ConstMatrixMap<S>& in, MatrixMap<S> out) {
  Function::second_derivative(in.array(), in.array(), out.array());
};

}  // namespace detail

/// An elementwise layer y = f(x) on any shape. `Function` gives f and f' on Eigen arrays:
/// `value(x, into)`, and `derivative(x, y, into)` where y = f(x) is at hand; for products with the
/// Hessian also f'', `second_derivative(x, y, into)`.
template <RealScalar S, class Function>
class Activation : public ParameterFree<S> {
 public:
  struct Scratch {
    Buffer<S> product;  ///< used by `backward_tangent` alone
  };
  static const char* kind() { return Function::kind(); }

  Shape output_shape(const Shape& shape) const { return shape; }

  void forward(const ConstBatchView<S>& x, BatchView<S> y, Scratch&, const Mode&) const {
    Function::value(x.values.array(), y.values.array());
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
  void backward_tangent(
      const ConstBatchView<S>& x, const ConstBatchView<S>& y, const ConstBatchView<S>& grad_output,
      const ConstBatchView<S>* x_tangent, const ConstVectorMap<S>*,
      const ConstBatchView<S>& grad_output_tangent, BatchView<S>* grad_input_tangent, VectorMap<S>*,
      Scratch& scratch) const requires detail::TwiceDifferentiableFunction<Function, S> {
    if (!grad_input_tangent) return;
    scale(x, y, grad_output_tangent, *grad_input_tangent);
    if (!x_tangent) return;
    MatrixMap<S> product = scratch.product.map(x.values.rows(), x.values.cols());
    Function::second_derivative(x.values.array(), y.values.array(), product.array());
    grad_input_tangent->values.array() +=
        product.array() * x_tangent->values.array() * grad_output.values.array();
  }

 private:
  /// The Jacobian is diagonal, so products from the left and from the right are the same.
  static void scale(const ConstBatchView<S>& x, const ConstBatchView<S>& y,
                    const ConstBatchView<S>& vector, BatchView<S> product) {
    Function::derivative(x.values.array(), y.values.array(), product.values.array());
    product.values.array() *= vector.values.array();
  }
};

namespace detail {

struct ReLUFunction {
  static const char* kind() { return "ReLU"; }
  template <class X, class Y>
  static void value(const X& x, Y&& y) {
    y = x.max(typename X::Scalar(0));
  }
  template <class X, class Y, class D>
  static void derivative(const X& x, const Y&, D&& d) {
    d = (x > typename X::Scalar(0)).template cast<typename X::Scalar>();
  }
  template <class X, class Y, class D>
  static void second_derivative(const X&, const Y&, D&& d) {
    d.setZero();
  }
};

struct TanhFunction {
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
};

struct SigmoidFunction {
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
};

struct GELUFunction {
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
  static const char* kind() { return "Softplus"; }
  template <class X, class Y>
  static void value(const X& x, Y&& y) {
    using S = typename X::Scalar;
    y = x.max(S(0)) + (-x.abs()).exp().log1p();
  }
  template <class X, class Y, class D>
  static void derivative(const X& x, const Y&, D&& d) {
    d = x.logistic();
  }
  template <class X, class Y, class D>
  static void second_derivative(const X& x, const Y&, D&& d) {
    using S = typename X::Scalar;
    // e / (1 + e)^2 with e = exp(-|x|): no cancellation.
    d = (-x.abs()).exp();
    d /= (S(1) + d).square();
  }
};

struct IdentityFunction {
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

template <RealScalar S>
using Identity = Activation<S, detail::IdentityFunction>;

}  // namespace kfac
