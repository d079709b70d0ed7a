#pragma once

#include <kfac/loss/loss.hpp>

namespace kfac {

/// The squared error as torch.nn.MSELoss defines it: the mean (or sum) of (f - y)^2 over all
/// entries, without a 1/2. The criterion of one example is 1/2 |f - y|^2, the negative
/// log-likelihood of a normal distribution around f with unit covariance, so its Hessian is I and
/// R is 2 (sum), 2 over the number of entries (mean) or of examples (mean over examples).
template <RealScalar S>
class MeanSquaredError : public detail::MatrixTargetLoss<S> {
  using Base = detail::MatrixTargetLoss<S>;

 public:
  using typename Base::Targets;
  using typename Base::TargetsRef;

  explicit MeanSquaredError(LossOptions options = {}) : Base(options) {}

  void check(const ConstMatrixRef<S>& outputs, const TargetsRef& targets) const {
    Base::check_targets("kfac::MeanSquaredError", outputs, targets);
  }

  S scale(Index outputs, Index batch) const { return 2 * Base::reduction_factor(outputs, batch); }

  S value(const ConstMatrixRef<S>& outputs, const TargetsRef& targets) const {
    check(outputs, targets);
    return Base::reduction_factor(outputs.rows(), outputs.cols()) *
           detail::sum_over_entries<S>(
               outputs, targets, nullptr,
               [](const auto& f, const auto& y, const auto&) { return (f - y).square().sum(); });
  }

  void gradient(const ConstMatrixRef<S>& outputs, const TargetsRef& targets,
                MatrixRef<S> into) const {
    check(outputs, targets);
    into = scale(outputs.rows(), outputs.cols()) * (outputs - targets);
  }
  /// Writes the gradient and returns the value.
  S value_and_gradient(const ConstMatrixRef<S>& outputs, const TargetsRef& targets,
                       MatrixRef<S> into) const {
    check(outputs, targets);
    const S factor = scale(outputs.rows(), outputs.cols());
    const S sum = detail::sum_over_entries<S>(outputs, targets, &into,
                                              [&](const auto& f, const auto& y, auto&& g) {
                                                g = factor * (f - y);
                                                return (f - y).square().sum();
                                              });
    return Base::reduction_factor(outputs.rows(), outputs.cols()) * sum;
  }
  Matrix<S> gradient(const ConstMatrixRef<S>& outputs, const TargetsRef& targets) const {
    Matrix<S> result(outputs.rows(), outputs.cols());
    gradient(outputs, targets, result);
    return result;
  }

  void hessian_product(const ConstMatrixRef<S>&, const ConstMatrixRef<S>& v,
                       MatrixRef<S> into) const {
    into = v;
  }

  Index hessian_sqrt_columns(Index outputs) const { return outputs; }
  void hessian_sqrt(const ConstMatrixRef<S>&, Index column, MatrixRef<S> into) const {
    into.setZero();
    into.row(column).setOnes();
  }
  void hessian_sqrt_product(const ConstMatrixRef<S>&, const ConstMatrixRef<S>& u,
                            MatrixRef<S> into) const {
    into = u;
  }

  Targets sample(const ConstMatrixRef<S>& outputs, Rng& rng) const {
    Matrix<S> noise(outputs.rows(), outputs.cols());
    rng.fill_normal(noise);
    return outputs + noise;
  }
  void sampled_gradient(const ConstMatrixRef<S>&, Rng& rng, MatrixRef<S> into) const {
    rng.fill_normal(into);
  }
};

}  // namespace kfac
