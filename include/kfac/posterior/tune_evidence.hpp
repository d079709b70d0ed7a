#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include <kfac/linalg/symmetric_eigen.hpp>
#include <kfac/posterior/evidence.hpp>

namespace kfac {

/// How a search for the hyperparameters ended.
enum class TuningStatus {
  Converged,       ///< the evidence's gradient is 0 to the tolerance
  AtBound,         ///< so it is but for precisions that would leave their bounds
  IterationLimit,  ///< not yet
  Stalled,         ///< no step raises the evidence any more, to rounding
};

struct TuningOptions {
  bool prior_precision = true;    ///< whether delta is tuned, of every group
  bool observation_noise = true;  ///< whether sigma is, of regression
  /// Whether the mean follows the hyperparameters, as `Laplace::recentre`: for linear models, where
  /// that is exact. Else it stays where it was trained to.
  bool recentre = false;
  Index max_iterations = 200;  ///< >= 1
  /// Of the gradient by the logarithms, relative to the number of parameters of a group (of
  /// observations); > 0. Precision allows no less than ten times the scalar's epsilon.
  double tolerance = 1e-9;
  double smallest_precision = 1e-12;  ///< bounds of delta, > 0
  double largest_precision = 1e12;

  /// \throws OptionError
  void validate(const char* where) const {
    detail::check_option(max_iterations >= 1, where, "max_iterations", max_iterations, ">= 1");
    detail::check_option(tolerance > 0 && std::isfinite(tolerance), where, "tolerance", tolerance,
                         "> 0 and finite");
    detail::check_option(smallest_precision > 0, where, "smallest_precision", smallest_precision,
                         "> 0");
    detail::check_option(
        largest_precision >= smallest_precision && std::isfinite(largest_precision), where,
        "largest_precision", largest_precision, "finite and not below 'smallest_precision'");
  }
};

struct TuningResult {
  TuningStatus status = TuningStatus::IterationLimit;
  Index iterations = 0;
  double log_marginal_likelihood = 0;
  double gradient = 0;  ///< the largest relative derivative left, as `TuningOptions::tolerance`
};

namespace detail {

/// What both searches share: which hyperparameters are tuned, and when they are.
template <RealScalar S>
class EvidenceSearch {
 public:
  EvidenceSearch(const char* where, Laplace<S>& posterior, const TuningOptions& options)
      : posterior_(posterior), options_(options) {
    options.validate(where);
    tunes_noise_ = options.observation_noise && posterior.likelihood() == Likelihood::Regression;
    if (!options.prior_precision && !tunes_noise_)
      raise<OptionError>(std::string(where) +
                         ": 'prior_precision' and 'observation_noise' leave nothing to tune");
    const double least = posterior.prior().precision().minCoeff();
    if (options.prior_precision && !(least > 0))
      raise<OptionError>(std::string(where) + ": 'prior_precision' of the posterior is " +
                         text(least) + ", expected > 0 to start from");
    posterior.log_likelihood();  // throws if the data are not known
    tolerance_ =
        std::max(options.tolerance, 10 * static_cast<double>(std::numeric_limits<S>::epsilon()));
    if (options.recentre) posterior.recentre();
  }

  bool tunes_noise() const { return tunes_noise_; }

  /// Whether a hyperparameter's group is at a bound that its derivative points out of.
  bool at_bound(double derivative, double delta) const {
    return (derivative > 0 && delta >= options_.largest_precision) ||
           (derivative < 0 && delta <= options_.smallest_precision);
  }

  /// Writes what is left of the gradient; true if the search is over.
  bool done(const Evidence& at, TuningResult& result) const {
    result.log_marginal_likelihood = at.log_marginal_likelihood;
    result.gradient = remaining(posterior_, at);
    if (!(result.gradient <= tolerance_)) return false;
    const Prior<S>& prior = posterior_.prior();
    result.status = TuningStatus::Converged;
    for (Index g = 0; options_.prior_precision && g < prior.groups(); ++g)
      if (at_bound(at.prior_gradient(g), prior.precision()(g)) &&
          std::abs(at.prior_gradient(g)) > tolerance_ * prior.sizes()(g))
        result.status = TuningStatus::AtBound;
    return true;
  }

  /// The largest relative derivative by what is tuned and may move.
  double remaining(const Laplace<S>& posterior) const {
    return remaining(posterior, evidence(posterior));
  }

  /// Gives a posterior other hyperparameters, within the bounds.
  void set(Laplace<S>& posterior, Vector<double> precision, double noise) const {
    precision =
        precision.cwiseMax(options_.smallest_precision).cwiseMin(options_.largest_precision);
    posterior.set_hyperparameters(
        options_.prior_precision ? precision : posterior.prior().precision(), noise,
        static_cast<double>(posterior.temperature()));
    if (options_.recentre) posterior.recentre();
  }

 private:
  double remaining(const Laplace<S>& posterior, const Evidence& at) const {
    const Prior<S>& prior = posterior.prior();
    double largest = 0;
    for (Index g = 0; options_.prior_precision && g < prior.groups(); ++g)
      if (!at_bound(at.prior_gradient(g), prior.precision()(g)))
        largest = std::max(largest, std::abs(at.prior_gradient(g)) / prior.sizes()(g));
    if (tunes_noise_)
      largest = std::max(largest, std::abs(at.noise_gradient) /
                                      static_cast<double>(posterior.data().observations));
    return largest;
  }

  const Laplace<S>& posterior_;
  const TuningOptions& options_;
  bool tunes_noise_ = false;
  double tolerance_ = 0;
};

}  // namespace detail

/// Maximises the evidence over the prior precisions, and the observation noise of regression, by
/// MacKay's fixed point: delta = gamma / |theta - mean|^2 for each group, sigma^2 = the sum of
/// squares over T (observations - gamma), gamma being how many parameters the data determine. Where
/// that is of no use (nothing is determined, or everything), a step of expectation maximisation
/// stands in. It needs nothing but what the posterior holds: a step costs as much as the entries of
/// the blocks.
/// \throws OptionError; StateError if the posterior's data are not known
/// \source MacKay, Bayesian interpolation, 1992
template <RealScalar S>
TuningResult tune_by_fixed_point(Laplace<S>& posterior, const TuningOptions& options = {}) {
  detail::EvidenceSearch<S> search("kfac::tune_by_fixed_point", posterior, options);
  TuningResult result;
  for (;; ++result.iterations) {
    const Evidence current = evidence(posterior);
    if (search.done(current, result) || result.iterations == options.max_iterations) return result;
    const Prior<S>& prior = posterior.prior();
    const Vector<double> squares = prior.square_distances(posterior.mean());
    Vector<double> precision = prior.precision();
    for (Index g = 0; g < prior.groups(); ++g) {
      const double gamma = current.effective_parameters(g);
      const double size = prior.sizes()(g);
      precision(g) = gamma > 0 && squares(g) > 0
                         ? gamma / squares(g)
                         : size / (squares(g) + (size - gamma) / precision(g));
    }
    auto noise = posterior.options().observation_noise;
    if (search.tunes_noise()) {
      const auto observations = static_cast<double>(posterior.data().observations);
      const double gamma = current.effective_parameters.sum();
      const double sum = 2 * posterior.data().loss / static_cast<double>(posterior.temperature());
      const double variance = observations > gamma ? sum / (observations - gamma)
                                                   : (sum + gamma * noise * noise) / observations;
      if (variance > 0) noise = std::sqrt(variance);
    }
    search.set(posterior, precision, noise);
  }
}

/// The same maximum by Newton's method in the logarithms, safeguarded: where the evidence is not
/// concave its curvature's absolute value is used, no step changes a hyperparameter by more than a
/// factor of `e^4`, and steps are halved until the evidence rises. Fewer steps than the fixed point
/// takes; one costs as much as a few, and memory of the groups squared.
/// \throws as `tune_by_fixed_point`; OptionError for a prior precision of each parameter
template <RealScalar S>
TuningResult tune_by_newton(Laplace<S>& posterior, const TuningOptions& options = {}) {
  static constexpr const char* kWhere = "kfac::tune_by_newton";
  constexpr double kLongest = 4;
  constexpr int kHalvings = 40;
  // Of the evidence: by less than this a rise is not seen, and the gradient has to fall instead.
  constexpr double kRoundOff = 1e-11;
  if (posterior.prior().per_parameter())
    raise<OptionError>(std::string(kWhere) +
                       ": 'prior_grouping' is Parameter, expected fewer groups, or "
                       "tune_by_fixed_point");
  detail::EvidenceSearch<S> search(kWhere, posterior, options);
  const EvidenceHessian kind =
      options.recentre ? EvidenceHessian::AtMode : EvidenceHessian::FixedMean;
  const Index groups = posterior.prior().groups();
  TuningResult result;
  for (;; ++result.iterations) {
    const Evidence current = evidence(posterior, kind);
    if (search.done(current, result) || result.iterations == options.max_iterations) return result;

    // Of what is not tuned, or would leave its bounds, the step is 0.
    Vector<double> gradient(groups + 1);
    gradient << current.prior_gradient, current.noise_gradient;
    Matrix<double> curvature = -current.hessian;
    const Vector<double>& delta = posterior.prior().precision();
    for (Index i = 0; i <= groups; ++i) {
      const bool stays = i == groups
                             ? !search.tunes_noise()
                             : !options.prior_precision || search.at_bound(gradient(i), delta(i));
      if (!stays) continue;
      gradient(i) = 0;
      curvature.row(i).setZero();
      curvature.col(i).setZero();
      curvature(i, i) = 1;
    }
    Matrix<double> vectors;
    Vector<double> values;
    if (!linalg::detail::decompose_symmetric(curvature, vectors, values)) {
      result.status = TuningStatus::Stalled;
      return result;
    }
    const Vector<double> sizes = values.cwiseAbs().cwiseMax(1e-12 * values.cwiseAbs().maxCoeff());
    Vector<double> step = vectors * ((vectors.transpose() * gradient).cwiseQuotient(sizes));
    step *= std::min(1.0, kLongest / step.cwiseAbs().maxCoeff());

    bool rises = false;
    for (int halving = 0; halving < kHalvings && !rises; ++halving, step *= 0.5) {
      Laplace<S> next = posterior;
      search.set(next, delta.array() * step.head(groups).array().exp(),
                 posterior.options().observation_noise * std::exp(step(groups)));
      const double gain = gradient.dot(step);
      rises = next.log_marginal_likelihood() > current.log_marginal_likelihood + 1e-4 * gain;
      if (!rises && gain < kRoundOff * (1 + std::abs(current.log_marginal_likelihood)))
        rises = search.remaining(next) < result.gradient;
      if (rises) posterior = std::move(next);
    }
    if (!rises) {
      result.status = TuningStatus::Stalled;
      return result;
    }
  }
}

}  // namespace kfac
