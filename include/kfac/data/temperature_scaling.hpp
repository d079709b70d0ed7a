#pragma once

#include <algorithm>
#include <cmath>
#include <string>

#include <kfac/data/calibration.hpp>
#include <kfac/loss/softmax.hpp>

namespace kfac {

struct TemperatureFit {
  double temperature = 1;              ///< T of softmax(f / T)
  double negative_log_likelihood = 0;  ///< at it, nats an example
  double gradient = 0;                 ///< of that, with respect to 1 / T
  Index iterations = 0;                ///< Newton steps
};

/// The T that makes softmax(f / T) most likely on held-out data: `outputs` is `classes x examples`.
/// The loss is convex in 1 / T, where Newton steps are taken, each halving what is left of the
/// interval 1e-3 <= 1 / T <= 1e3 if it would leave it; where no T in it is best (all labels are
/// right, say) the nearest end is returned. Probabilities then are `softmax(outputs / T)`; no
/// prediction changes its class.
/// \throws ShapeError for no examples, or another number of labels; ValueError for outputs that are
///         not finite, or a label that is none of the classes
/// \source Guo et al. 2017, arXiv 1706.04599
template <class Derived>
TemperatureFit fit_temperature(const Eigen::MatrixBase<Derived>& outputs,
                               const Eigen::Ref<const Labels>& labels) {
  static constexpr const char* kWhere = "kfac::fit_temperature";
  static constexpr Index kMaxIterations = 200;
  static constexpr double kTolerance = 1e-12;  // of the gradient, relative to the logits' size
  if (outputs.size() == 0) raise<ShapeError>(std::string(kWhere) + ": 'outputs' has no examples");
  detail::check_finite(kWhere, "outputs", outputs);
  detail::check_labels(kWhere, labels, outputs.rows(), outputs.cols());
  const Matrix<double> f = outputs.template cast<double>();
  const auto count = static_cast<double>(f.cols());
  const double size = f.cwiseAbs().maxCoeff();

  double low = 1e-3;
  double high = 1e3;
  double inverse = 1;
  TemperatureFit fit;
  double curvature = 0;
  const auto evaluate = [&](double at) {
    fit.temperature = 1 / at;
    fit.negative_log_likelihood = fit.gradient = curvature = 0;
    for (Index n = 0; n < f.cols(); ++n) {
      const double largest = f.col(n).maxCoeff();
      const Eigen::ArrayXd shifted = f.col(n).array() - largest;
      const Eigen::ArrayXd exponentials = (at * shifted).exp();
      const double total = exponentials.sum();
      const double mean = (exponentials * shifted).sum() / total;
      fit.negative_log_likelihood += std::log(total) - at * shifted(labels(n));
      fit.gradient += mean - shifted(labels(n));
      curvature += (exponentials * (shifted - mean).square()).sum() / total;
    }
    fit.negative_log_likelihood /= count;
    fit.gradient /= count;
    curvature /= count;
  };
  for (evaluate(inverse); fit.iterations < kMaxIterations; ++fit.iterations) {
    if (std::abs(fit.gradient) <= kTolerance * size || high - low <= kTolerance * low) break;
    (fit.gradient > 0 ? high : low) = inverse;
    const double newton = inverse - fit.gradient / curvature;
    // Written so that a step that is not a number is none either.
    inverse = newton > low && newton < high ? newton : std::sqrt(low * high);
    evaluate(inverse);
  }
  return fit;
}

}  // namespace kfac
