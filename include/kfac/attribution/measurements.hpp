#pragma once

#include <cmath>
#include <string>

#include <kfac/loss/loss.hpp>

namespace kfac {

/// What influence is asked about: a number m(f, y) of each example, such as its loss or its margin.
/// It is anything that can be called as `measurement(outputs, targets, into)` and writes, for each
/// example, the gradient of m with respect to its outputs (`outputs x examples`):
///
///     // The first output, whatever the targets.
///     const auto first = [](const auto& outputs, const auto&, kfac::MatrixRef<double> into) {
///       into.setZero();
///       into.row(0).setOnes();
///     };
template <class M, class L>
concept Measurement = Loss<L> &&
    requires(const M& measurement, const ConstMatrixRef<typename L::Scalar>& outputs,
             const typename L::TargetsRef& targets, MatrixRef<typename L::Scalar> into) {
  measurement(outputs, targets, into);
};

/// The loss of the example by itself: what the loss is on a batch of it alone.
template <Loss L>
struct LossMeasurement {
  L loss;

  void operator()(const ConstMatrixRef<typename L::Scalar>& outputs,
                  const typename L::TargetsRef& targets, MatrixRef<typename L::Scalar> into) const {
    loss.gradient(outputs, targets, into);
    into *= loss.scale(outputs.rows(), 1) / loss.scale(outputs.rows(), outputs.cols());
  }
};
template <class L>
LossMeasurement(L) -> LossMeasurement<L>;

namespace detail {

/// Of measurements of softmax classifiers with one label for each example.
template <RealScalar S>
void check_labels(const char* where, const ConstMatrixRef<S>& outputs,
                  const Eigen::Ref<const Labels>& labels) {
  check_size(where, "labels", labels.size(), outputs.cols(), "entries");
  for (Index n = 0; n < labels.size(); ++n)
    if (labels(n) < 0 || labels(n) >= outputs.rows())
      raise<ValueError>(std::string(where) + ": 'labels' has " + std::to_string(labels(n)) +
                        " at " + std::to_string(n) + ", expected 0 to " +
                        std::to_string(outputs.rows() - 1));
}

/// log sum_k exp f_k.
template <class Column>
typename Column::Scalar log_sum_exp(const Column& f) {
  const auto largest = f.maxCoeff();
  return largest + std::log((f.array() - largest).exp().sum());
}

}  // namespace detail

/// log p_y of a softmax classifier. \throws ShapeError, ValueError if labels do not fit
struct LogProbability {
  template <class Outputs>
  Vector<typename Outputs::Scalar> values(const Outputs& outputs, const Labels& labels) const {
    using S = typename Outputs::Scalar;
    const ConstMatrixRef<S> f(outputs);
    detail::check_labels<S>("kfac::LogProbability", f, labels);
    Vector<S> result(f.cols());
    for (Index n = 0; n < f.cols(); ++n)
      result(n) = f(labels(n), n) - detail::log_sum_exp(f.col(n));
    return result;
  }
  template <class Outputs, class Into>
  void operator()(const Outputs& outputs, const Eigen::Ref<const Labels>& labels,
                  Into&& into) const {
    using S = typename Outputs::Scalar;
    detail::check_labels<S>("kfac::LogProbability", outputs, labels);
    for (Index n = 0; n < outputs.cols(); ++n) {
      into.col(n) = -(outputs.col(n).array() - detail::log_sum_exp(outputs.col(n))).exp();
      into(labels(n), n) += S(1);
    }
  }
};

/// The margin of a softmax classifier, log p_y / (1 - p_y): by how much the label's logit is above
/// the others', f_y - log sum_(k != y) exp f_k. Unlike a loss it does not saturate.
/// \throws ShapeError, ValueError if labels do not fit
/// \source Park et al. 2023, TRAK, arXiv 2303.14186
struct Margin {
  template <class Outputs>
  Vector<typename Outputs::Scalar> values(const Outputs& outputs, const Labels& labels) const {
    using S = typename Outputs::Scalar;
    const ConstMatrixRef<S> f(outputs);
    detail::check_labels<S>("kfac::Margin", f, labels);
    Vector<S> result(f.cols());
    for (Index n = 0; n < f.cols(); ++n)
      result(n) = f(labels(n), n) - detail::log_sum_exp(others<S>(f.col(n), labels(n)));
    return result;
  }
  template <class Outputs, class Into>
  void operator()(const Outputs& outputs, const Eigen::Ref<const Labels>& labels,
                  Into&& into) const {
    using S = typename Outputs::Scalar;
    detail::check_labels<S>("kfac::Margin", outputs, labels);
    for (Index n = 0; n < outputs.cols(); ++n) {
      const Vector<S> rest = others<S>(outputs.col(n), labels(n));
      into.col(n) = -(rest.array() - detail::log_sum_exp(rest)).exp();
      into(labels(n), n) = S(1);
    }
  }

 private:
  /// With the label's own so small that it does not count.
  template <RealScalar S, class Column>
  static Vector<S> others(const Column& f, int label) {
    Vector<S> rest = f;
    rest(label) = -std::numeric_limits<S>::infinity();
    return rest;
  }
};

}  // namespace kfac
