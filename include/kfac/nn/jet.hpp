#pragma once

#include <cmath>
#include <string>

#include <kfac/core/errors.hpp>

namespace kfac {

/// Which derivatives with respect to a network's inputs are propagated: slot 0 of a jet is the
/// value, then come the first derivatives along each of `directions`, then sums of second
/// derivatives along these, sum_i second(m, i) d^2/dv_i^2.
template <RealScalar S>
struct JetSlots {
  Matrix<S> directions;  ///< `inputs x directions`: a v_i in each column
  Matrix<S> second;      ///< `sums x directions`: the weights; no rows: no second derivatives

  /// All first derivatives.
  static JetSlots gradient(Index inputs) {
    check_inputs(inputs);
    return {Matrix<S>::Identity(inputs, inputs), Matrix<S>(0, inputs)};
  }
  /// As well, and the Laplacian: the forward Laplacian, inputs + 2 slots.
  static JetSlots laplacian(Index inputs) {
    check_inputs(inputs);
    return {Matrix<S>::Identity(inputs, inputs), Matrix<S>::Ones(1, inputs)};
  }
  /// With sum_i weights_i d^2/dx_i^2 in its place. (Of the heat equation in (t, x): 0 and 1.)
  static JetSlots weighted_laplacian(const ConstVectorRef<S>& weights) {
    check_inputs(weights.size());
    return {Matrix<S>::Identity(weights.size(), weights.size()), weights.transpose()};
  }
  /// With each d^2/dx_i^2 by itself: 2 inputs + 1 slots.
  static JetSlots second_derivatives(Index inputs) {
    check_inputs(inputs);
    return {Matrix<S>::Identity(inputs, inputs), Matrix<S>::Identity(inputs, inputs)};
  }

  Index inputs() const { return directions.rows(); }
  Index firsts() const { return directions.cols(); }
  Index seconds() const { return second.rows(); }
  Index count() const { return 1 + firsts() + seconds(); }

  /// \throws ShapeError, ValueError
  void validate(const char* where) const {
    if (directions.size() == 0)
      raise<ShapeError>(std::string(where) + ": 'slots.directions' is empty, expected a direction");
    detail::check_size(where, "slots.second", second.cols(), firsts(), "columns");
    detail::check_finite(where, "slots.directions", directions);
    detail::check_finite(where, "slots.second", second);
  }

 private:
  static void check_inputs(Index inputs) {
    detail::check_option(inputs >= 1, "kfac::JetSlots", "inputs", inputs, ">= 1");
  }
};

/// A number with its derivatives in the slots of a `JetSlots`, for functions that are written once
/// for numbers and for jets (features, envelopes, residuals): +, -, *, /, sqrt, exp, log, sin, cos,
/// tanh, pow with a constant exponent, and `square`. A jet that is made of a number is a constant.
template <RealScalar S>
class Jet {
 public:
  using Array = Eigen::Array<S, Eigen::Dynamic, 1>;

  Jet(S constant = 0) : value_(constant) {}  // NOLINT(google-explicit-constructor): is a number
  /// The i-th coordinate of a point, whose derivatives are the directions' i-th entries.
  Jet(S value, const JetSlots<S>& slots, Index i)
      : value_(value),
        first_(slots.directions.row(i).transpose().array()),
        second_(Array::Zero(slots.seconds())),
        weights_(&slots.second) {}
  /// A number with given first derivatives and none else.
  Jet(S value, Array first) : value_(value), first_(std::move(first)) {}

  S value() const { return value_; }
  /// The derivatives, empty where all are 0.
  const Array& firsts() const { return first_; }
  const Array& seconds() const { return second_; }

  /// f(a) with f, f' and f'' at the value of a.
  friend Jet compose(const Jet& a, S f, S slope, S curvature) {
    Jet result(f);
    if (a.first_.size() == 0) return result;
    result.first_ = slope * a.first_;
    result.weights_ = a.weights_;
    if (a.weights_)
      result.second_ =
          slope * a.second_ + curvature * (*a.weights_ * a.first_.square().matrix()).array();
    return result;
  }

  friend Jet operator+(const Jet& a) { return a; }
  friend Jet operator-(const Jet& a) { return combine(-a.value_, S(-1), a, S(0), Jet()); }
  friend Jet operator+(const Jet& a, const Jet& b) {
    return combine(a.value_ + b.value_, S(1), a, S(1), b);
  }
  friend Jet operator-(const Jet& a, const Jet& b) {
    return combine(a.value_ - b.value_, S(1), a, S(-1), b);
  }
  friend Jet operator*(const Jet& a, const Jet& b) {
    Jet result = combine(a.value_ * b.value_, b.value_, a, a.value_, b);
    if (result.weights_ && a.first_.size() > 0 && b.first_.size() > 0)
      result.second_ += S(2) * (*result.weights_ * (a.first_ * b.first_).matrix()).array();
    return result;
  }
  friend Jet operator/(const Jet& a, const Jet& b) {
    const S inverse = S(1) / b.value_;
    return a * compose(b, inverse, -inverse * inverse, S(2) * inverse * inverse * inverse);
  }
  Jet& operator+=(const Jet& other) { return *this = *this + other; }
  Jet& operator-=(const Jet& other) { return *this = *this - other; }
  Jet& operator*=(const Jet& other) { return *this = *this * other; }
  Jet& operator/=(const Jet& other) { return *this = *this / other; }

  friend Jet square(const Jet& a) { return a * a; }
  friend Jet sqrt(const Jet& a) {
    const S root = std::sqrt(a.value_);
    return compose(a, root, S(0.5) / root, S(-0.25) / (root * a.value_));
  }
  friend Jet exp(const Jet& a) {
    const S value = std::exp(a.value_);
    return compose(a, value, value, value);
  }
  friend Jet log(const Jet& a) {
    return compose(a, std::log(a.value_), S(1) / a.value_, S(-1) / (a.value_ * a.value_));
  }
  friend Jet sin(const Jet& a) {
    const S value = std::sin(a.value_);
    return compose(a, value, std::cos(a.value_), -value);
  }
  friend Jet cos(const Jet& a) {
    const S value = std::cos(a.value_);
    return compose(a, value, -std::sin(a.value_), -value);
  }
  friend Jet tanh(const Jet& a) {
    const S value = std::tanh(a.value_);
    const S slope = S(1) - value * value;
    return compose(a, value, slope, S(-2) * value * slope);
  }
  friend Jet pow(const Jet& a, S exponent) {
    return compose(a, std::pow(a.value_, exponent), exponent * std::pow(a.value_, exponent - S(1)),
                   exponent * (exponent - S(1)) * std::pow(a.value_, exponent - S(2)));
  }

 private:
  /// The linear part: factors times the derivatives.
  static Jet combine(S value, S of_a, const Jet& a, S of_b, const Jet& b) {
    Jet result(value);
    result.weights_ = a.weights_ ? a.weights_ : b.weights_;
    result.first_ = sum(of_a, a.first_, of_b, b.first_);
    result.second_ = sum(of_a, a.second_, of_b, b.second_);
    return result;
  }
  static Array sum(S of_a, const Array& a, S of_b, const Array& b) {
    if (b.size() == 0) return of_a * a;
    if (a.size() == 0) return of_b * b;
    return of_a * a + of_b * b;
  }

  S value_;
  Array first_, second_;
  const Matrix<S>* weights_ = nullptr;  // of the slots, where there are second derivatives
};

/// x^2, as of jets.
template <RealScalar S>
S square(S x) {
  return x * x;
}

/// The slots of a network's outputs at one point, whose entries are numbers or jets: what a
/// residual is a function of.
template <class T>
class JetValues {
 public:
  /// Slot by slot, `outputs` entries each, with `firsts` first derivatives.
  JetValues(const T* data, Index outputs, Index firsts)
      : data_(data), outputs_(outputs), firsts_(firsts) {}

  Index outputs() const { return outputs_; }
  /// The k-th output.
  const T& value(Index k = 0) const { return data_[k]; }
  /// Its derivative along the i-th direction.
  const T& first(Index i, Index k = 0) const { return data_[(1 + i) * outputs_ + k]; }
  /// Its m-th sum of second derivatives.
  const T& second(Index m, Index k = 0) const { return data_[(1 + firsts_ + m) * outputs_ + k]; }
  /// The same of the first: with `JetSlots::laplacian`, the Laplacian.
  const T& laplacian(Index k = 0) const { return second(0, k); }

 private:
  const T* data_;
  Index outputs_;
  Index firsts_;
};

}  // namespace kfac
