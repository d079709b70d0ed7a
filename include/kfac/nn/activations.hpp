#pragma once

#include <cmath>
#include <numbers>

#include <kfac/nn/layer.hpp>

namespace kfac {

/// An elementwise layer y = f(x) on any shape. `Function` gives f and f' on Eigen arrays:
/// `value(x)`, and `derivative(x, y)` where y = f(x) is at hand.
template <RealScalar S, class Function>
class Activation : public ParameterFree<S> {
 public:
  struct Scratch {};
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
    d = x.unaryExpr([](S z) {
      const S density =
          std::exp(S(-0.5) * z * z) * std::numbers::inv_sqrtpi_v<S> / std::numbers::sqrt2_v<S>;
      return cumulative(z) + z * density;
    });
  }
  /// The standard normal distribution function.
  template <class S>
  static S cumulative(S z) {
    return S(0.5) * std::erfc(-z / std::numbers::sqrt2_v<S>);
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
