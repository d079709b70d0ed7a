#pragma once

#include <cmath>

#include <kfac/loss/loss.hpp>

namespace kfac {

/// The cross-entropy of independent Bernoulli variables given by logits, as
/// torch.nn.BCEWithLogitsLoss: the mean (or sum) of softplus(f) - f y over all entries, y in [0,
/// 1]. Hessian of one example: diag(p (1 - p)) with p = sigmoid(f).
template <RealScalar S>
class BinaryCrossEntropy : public detail::MatrixTargetLoss<S> {
  using Base = detail::MatrixTargetLoss<S>;

 public:
  using typename Base::Targets;
  using typename Base::TargetsRef;

  explicit BinaryCrossEntropy(LossOptions options = {}) : Base(options) {}

  /// \throws ValueError if a target is outside [0, 1]
  void check(const ConstMatrixRef<S>& outputs, const TargetsRef& targets) const {
    Base::check_targets("kfac::BinaryCrossEntropy", outputs, targets);
    if (targets.minCoeff() < S(0) || targets.maxCoeff() > S(1))
      raise<ValueError>("kfac::BinaryCrossEntropy: 'targets' spans " +
                        detail::text(targets.minCoeff()) + " to " +
                        detail::text(targets.maxCoeff()) + ", expected 0 to 1");
  }

  S scale(Index outputs, Index batch) const { return Base::reduction_factor(outputs, batch); }

  S value(const ConstMatrixRef<S>& outputs, const TargetsRef& targets) const {
    check(outputs, targets);
    return scale(outputs.rows(), outputs.cols()) *
           detail::sum_over_entries<S>(
               outputs, targets, nullptr,
               [](const auto& f, const auto& y, const auto&) { return criterion(f, y); });
  }

  void gradient(const ConstMatrixRef<S>& outputs, const TargetsRef& targets,
                MatrixRef<S> into) const {
    check(outputs, targets);
    const S factor = scale(outputs.rows(), outputs.cols());
    detail::sum_over_entries<S>(outputs, targets, &into,
                                [&](const auto& f, const auto& y, auto&& g) {
                                  g = factor * (f.logistic() - y);
                                  return S(0);
                                });
  }
  /// Writes the gradient and returns the value.
  S value_and_gradient(const ConstMatrixRef<S>& outputs, const TargetsRef& targets,
                       MatrixRef<S> into) const {
    check(outputs, targets);
    const S factor = scale(outputs.rows(), outputs.cols());
    return factor * detail::sum_over_entries<S>(outputs, targets, &into,
                                                [&](const auto& f, const auto& y, auto&& g) {
                                                  const S sum = criterion(f, y);
                                                  g = factor * (f.logistic() - y);
                                                  return sum;
                                                });
  }
  Matrix<S> gradient(const ConstMatrixRef<S>& outputs, const TargetsRef& targets) const {
    Matrix<S> result(outputs.rows(), outputs.cols());
    gradient(outputs, targets, result);
    return result;
  }

  void hessian_product(const ConstMatrixRef<S>& outputs, const ConstMatrixRef<S>& v,
                       MatrixRef<S> into) const {
    // p (1 - p) = e / (1 + e)^2 with e = exp(-|f|): no cancellation.
    into = (-outputs.array().abs()).exp();
    into.array() *= v.array() / (S(1) + into.array()).square();
  }

  Index hessian_sqrt_columns(Index outputs) const { return outputs; }
  void hessian_sqrt(const ConstMatrixRef<S>& outputs, Index column, MatrixRef<S> into) const {
    into.setZero();
    // sqrt(p (1 - p)) likewise: e / (1 + e^2) with e = exp(-|f| / 2).
    into.row(column) = (S(-0.5) * outputs.row(column).array().abs()).exp();
    into.row(column).array() /= S(1) + into.row(column).array().square();
  }
  void hessian_sqrt_product(const ConstMatrixRef<S>& outputs, const ConstMatrixRef<S>& u,
                            MatrixRef<S> into) const {
    into = (S(-0.5) * outputs.array().abs()).exp();
    into.array() *= u.array() / (S(1) + into.array().square());
  }

  Targets sample(const ConstMatrixRef<S>& outputs, Rng& rng) const {
    return outputs.unaryExpr([&rng](S f) { return draw(f, rng); });
  }
  void sampled_gradient(const ConstMatrixRef<S>& outputs, Rng& rng, MatrixRef<S> into) const {
    for (Index n = 0; n < outputs.cols(); ++n)
      for (Index k = 0; k < outputs.rows(); ++k)
        into(k, n) = sigmoid(outputs(k, n)) - draw(outputs(k, n), rng);
  }

 private:
  /// The sum of softplus(f) - f y, where softplus(f) = max(f, 0) + log(1 + exp(-|f|)) does not
  /// overflow.
  template <class Outputs, class Entries>
  static S criterion(const Outputs& f, const Entries& y) {
    return (f.max(S(0)) + (-f.abs()).exp().log1p() - f * y).sum();
  }
  static S sigmoid(S f) {
    return f >= 0 ? S(1) / (S(1) + std::exp(-f)) : std::exp(f) / (S(1) + std::exp(f));
  }
  static S draw(S f, Rng& rng) {
    return rng.uniform() < static_cast<double>(sigmoid(f)) ? S(1) : S(0);
  }
};

}  // namespace kfac
