#pragma once

#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <kfac/data/calibration.hpp>
#include <kfac/data/slices.hpp>
#include <kfac/posterior/predictive.hpp>

namespace kfac {
namespace detail {

/// The sum of -log p of all targets, and their number.
struct LikelihoodSum {
  double total = 0;
  Index targets = 0;

  LikelihoodSum& operator+=(const LikelihoodSum& other) {
    total += other.total;
    targets += other.targets;
    return *this;
  }
};

template <RealScalar S>
LikelihoodSum negative_log_likelihood_of(const char* where, const Prediction<S>& prediction,
                                         const Eigen::Ref<const Labels>& labels,
                                         const PredictOptions& options) {
  if (prediction.probabilities.size() == 0 || options.outputs == Classes::Independent)
    raise<ValueError>(std::string(where) +
                      ": 'targets' are labels, expected them for exclusive classes alone");
  const Index size = options.classes == 0 ? prediction.probabilities.rows() : options.classes;
  const Matrix<S> positions =
      prediction.probabilities.reshaped(size, prediction.probabilities.size() / size);
  check_labels(where, labels, size, positions.cols());
  return {negative_log_likelihood(positions, labels) * static_cast<double>(labels.size()),
          labels.size()};
}

template <RealScalar S>
LikelihoodSum negative_log_likelihood_of(const char* where, const Prediction<S>& prediction,
                                         const ConstMatrixRef<S>& targets,
                                         const PredictOptions& options) {
  const Matrix<S>& p = prediction.probabilities;
  if (p.size() > 0 && options.outputs == Classes::Exclusive)
    raise<ValueError>(std::string(where) +
                      ": 'targets' are a matrix, expected labels for exclusive classes");
  check_shape(where, "targets", targets.rows(), targets.cols(), prediction.f.outputs(),
              prediction.f.examples());
  if (p.size() == 0)
    return {gaussian_negative_log_likelihood(prediction.f.mean, prediction.variances, targets) *
                static_cast<double>(targets.size()),
            targets.size()};
  double sum = 0;
  for (Index n = 0; n < p.cols(); ++n)
    for (Index k = 0; k < p.rows(); ++k) {
      const auto y = static_cast<double>(targets(k, n));
      const auto q = static_cast<double>(p(k, n));
      if (y > 0) sum -= y * std::log(q);
      if (y < 1) sum -= (1 - y) * std::log1p(-q);
    }
  return {sum, targets.size()};
}

}  // namespace detail

/// The mean negative log-likelihood, in nats a target, of held-out data under what `predict` gives
/// with the same options: what hyperparameters are tuned by on a grid. Of regression the variances
/// always contain the observation noise.
///
///     kfac::ValidationScore score(model, kfac::slices(validation, 500), {.link =
///     kfac::Link::Probit}); for (const double delta : grid) {
///       posterior.set_prior_precision(delta);
///       std::cout << delta << ": " << score(posterior) << '\n';
///     }
///
/// What does not depend on the hyperparameters (the passes through the network, in the eigenbases
/// of the posterior's curvature) is kept from one call to the next as far as `cache` bytes allow,
/// and made anew for another curvature. Network and data must outlive it.
template <class Model, class Targets>
class ValidationScore {
  using S = typename Model::Scalar;

 public:
  /// \throws OptionError; ShapeError without slices
  ValidationScore(Model& model, std::vector<Slice<S, Targets>> slices,
                  const PredictOptions& options = {}, double cache = 1e9)
      : model_(model), slices_(std::move(slices)), options_(options), cache_(cache) {
    options_.validate(kWhere);
    options_.observation_noise = true;
    if (options_.covariance == OutputCovariance::Joint)
      options_.covariance = OutputCovariance::PerExample;
    if (options_.link == Link::Probit || options_.link == Link::Plugin)
      options_.covariance = OutputCovariance::Variances;
    detail::check_option(cache >= 0, kWhere, "cache", cache, ">= 0");
    if (slices_.empty())
      raise<ShapeError>(std::string(kWhere) + ": 'slices' is empty, expected at least one");
  }

  /// \throws as `predict`; ShapeError or ValueError if the targets do not fit
  double operator()(const Laplace<S>& posterior) {
    detail::check_posterior(kWhere, model_, posterior);
    // The bases are those of the curvature, which copies share.
    if (!of_ || &of_->curvature() != &posterior.curvature() || of_->mean() != posterior.mean()) {
      kept_.clear();
      of_.emplace(posterior);
    }
    BlockPasses<Model> passes(model_);
    detail::LikelihoodSum sum;
    std::size_t next = 0;
    double bytes = 0;
    for (const Slice<S, Targets>& slice : slices_) {
      const Index examples = slice.inputs.cols();
      const Index piece = detail::predictive_piece(kWhere, passes, posterior, slice.shape, examples,
                                                   options_.covariance, options_.memory_limit);
      for (Index first = 0; first < examples; first += piece, ++next) {
        const Index count = std::min(piece, examples - first);
        bytes +=
            detail::predictive_memory(passes, posterior, slice.shape, count, options_.covariance)
                .total();
        std::optional<detail::OutputGradients<S>> made;
        if (next >= kept_.size()) {
          made.emplace(passes, posterior, slice.inputs.middleCols(first, count), slice.shape);
          if (next == kept_.size() && bytes <= cache_) kept_.push_back(std::move(*made));
        }
        const detail::OutputGradients<S>& gradients = next < kept_.size() ? kept_[next] : *made;
        const Prediction<S> prediction = detail::prediction_of(
            kWhere, detail::distribution_of(gradients, posterior, options_.covariance), posterior,
            options_);
        sum += detail::negative_log_likelihood_of(kWhere, prediction,
                                                  targets_of(slice, first, count), options_);
      }
    }
    return sum.total / static_cast<double>(sum.targets);
  }

 private:
  static constexpr const char* kWhere = "kfac::ValidationScore";

  static auto targets_of(const Slice<S, Targets>& slice, Index first, Index count) {
    if constexpr (std::same_as<Targets, Labels>) {
      const Index positions = slice.targets.size() / slice.inputs.cols();
      return Eigen::Ref<const Labels>(slice.targets.segment(first * positions, count * positions));
    } else {
      return ConstMatrixRef<S>(slice.targets.middleCols(first, count));
    }
  }

  Model& model_;
  std::vector<Slice<S, Targets>> slices_;
  PredictOptions options_;
  double cache_;
  std::optional<Laplace<S>> of_;  // of whose curvature the gradients are
  std::vector<detail::OutputGradients<S>> kept_;
};

}  // namespace kfac
