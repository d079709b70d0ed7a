#pragma once

#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <kfac/posterior/fit_laplace.hpp>
#include <kfac/posterior/prior_penalty.hpp>
#include <kfac/posterior/tune_evidence.hpp>

namespace kfac {

template <RealScalar S>
struct EvidenceTrainingOptions {
  Index epochs = 100;  ///< >= 1
  Index burn_in = 0;   ///< epochs before the first fit of a posterior, >= 0
  Index every = 1;     ///< epochs from one fit to the next, >= 1
  /// Of the search for the hyperparameters at each fit, >= 1: a few, as the network has to follow.
  Index hyper_steps = 10;
  bool newton = false;  ///< that by Newton's method, not the fixed point
  /// The run ends after so many fits without more evidence than before; >= 0, 0: never.
  Index patience = 0;
  LaplaceOptions<S> posterior = {};  ///< with the hyperparameters to start from
  EstimateOptions estimate = {};
  bool full = false;  ///< dense curvature of all random parameters, as `fit_full_laplace`

  /// \throws OptionError
  void validate(const char* where) const {
    detail::check_option(epochs >= 1, where, "epochs", epochs, ">= 1");
    detail::check_option(burn_in >= 0 && burn_in < epochs, where, "burn_in", burn_in,
                         ">= 0 and below 'epochs'");
    detail::check_option(every >= 1, where, "every", every, ">= 1");
    detail::check_option(hyper_steps >= 1, where, "hyper_steps", hyper_steps, ">= 1");
    detail::check_option(patience >= 0, where, "patience", patience, ">= 0");
    posterior.validate(where);
  }
};

template <RealScalar S>
struct EvidenceTrainingResult {
  Laplace<S> posterior;           ///< the one of most evidence, at the network's parameters
  Index epoch = 0;                ///< after which it was fitted, from 1
  std::vector<double> evidences;  ///< the logarithm after each fit
};

/// Trains a network and its hyperparameters in turns (empirical Bayes, without validation data):
/// epochs on the loss and the prior; after every few of them a posterior is fitted, of which a few
/// steps towards more evidence change the prior precisions and the noise. At the end the network
/// has the parameters whose posterior had the most evidence.
///
///     const auto result = kfac::train_by_evidence(model, loss, kfac::slices(train, 500),
///         [&](const kfac::PriorPenalty<double>& penalty, kfac::Index epoch) {
///           decay = penalty.weight_decay(64);  // which the optimizer's schedule reads
///           for (const auto& [x, y] : kfac::batches(train, 64, rng)) optimizer.step(x, y);
///         }, {.posterior = {.likelihood = kfac::Likelihood::Regression}});
///
/// `epoch` trains one epoch with any optimizer; the epochs' numbers count from 1.
/// \throws OptionError; as `fit_laplace` and the optimizer
/// \source Immer et al. 2021, Scalable marginal likelihood estimation for model selection in deep
///         learning, arXiv 2104.04975
template <class Model, Loss L, class Epoch>
EvidenceTrainingResult<typename L::Scalar> train_by_evidence(
    Model& model, const L& loss,
    const std::vector<Slice<typename L::Scalar, typename L::Targets>>& slices, Epoch&& epoch,
    const EvidenceTrainingOptions<typename L::Scalar>& options = {}) {
  using S = typename L::Scalar;
  static constexpr const char* kWhere = "kfac::train_by_evidence";
  options.validate(kWhere);
  LaplaceOptions<S> current = options.posterior;
  const detail::Linearization<Model> at(kWhere, model, slices);
  const std::vector<ParameterBlock> blocks = parameter_blocks(model);
  const std::vector<bool> random = detail::random_blocks(kWhere, blocks, current);
  const auto penalty = [&] {
    const double noise = current.observation_noise;
    return PriorPenalty<S>(Prior<S>(kWhere, blocks, random, current),
                           1 / (noise * noise * current.temperature), at.examples(),
                           [&loss, outputs = at.outputs()](Index batch) {
                             return static_cast<double>(loss.scale(outputs, batch));
                           });
  };
  std::optional<Laplace<S>> best;
  double most = 0;
  Index best_epoch = 0, fits_since = 0;
  std::vector<double> evidences;
  for (Index i = 1; i <= options.epochs; ++i) {
    const PriorPenalty<S> prior = penalty();
    epoch(prior, i);
    const bool fits = i > options.burn_in && (i - options.burn_in - 1) % options.every == 0;
    if (!fits && i < options.epochs) continue;
    Laplace<S> posterior =
        options.full ? fit_full_laplace(model, loss, slices, current, options.estimate.memory_limit)
                     : fit_laplace(model, loss, slices, current, options.estimate);
    const TuningOptions tuning{.max_iterations = options.hyper_steps};
    const TuningResult tuned =
        options.newton ? tune_by_newton(posterior, tuning) : tune_by_fixed_point(posterior, tuning);
    current = posterior.options();
    evidences.push_back(tuned.log_marginal_likelihood);
    ++fits_since;
    if (!best || tuned.log_marginal_likelihood > most) {
      most = tuned.log_marginal_likelihood;
      best = std::move(posterior);
      best_epoch = i;
      fits_since = 0;
    }
    if (options.patience > 0 && fits_since >= options.patience) break;
  }
  set_flat_parameters(model, best->mean());
  return {std::move(*best), best_epoch, std::move(evidences)};
}

}  // namespace kfac
