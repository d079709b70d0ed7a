#pragma once

#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include <kfac/compression/compensation.hpp>
#include <kfac/compression/rounds.hpp>
#include <kfac/compression/saliency.hpp>

namespace kfac {

struct PruneOptions {
  double ratio = 0.8;         ///< of the weights, in [0, 1)
  double layer_limit = 0.95;  ///< the most that one layer may lose, in [ratio, 1]
  /// What decides. With the compensation the magnitude is as good as any curvature up to about 80
  /// %, and above where the network was trained with weight decay (docs/compression.md).
  Saliency saliency = Saliency::Magnitude;
  bool compensate = true;  ///< whether the weights that are left make up for the others
  CompensationOptions compensation = {};
  double damping = 1e-3;   ///< as `SaliencyOptions`
  std::uint64_t seed = 0;  ///< of Saliency::Random
};

struct PruneRound {
  double ratio = 0;                       ///< removed after it, of all weights
  std::vector<BlockCompensation> blocks;  ///< empty without compensation
};

template <RealScalar S>
struct PruneResult {
  Vector<S> mask;  ///< of zeros and ones, flat like the parameters
  std::vector<PruneRound> rounds;
};

/// Prunes a network's weights, in one go or in rounds, and compensates for it.
/// `after_round(masked)` is called after each with the `MaskedParameters` there are, to train the
/// network on, say.
///
///     const auto pruned = kfac::prune_weights(model, loss, kfac::slices(train, 500), {.ratio =
///     0.8}); const kfac::MaskedParameters masked(model, pruned.mask);  // to train it on
///
/// Weights that are pruned stay so in the rounds that follow.
/// \throws OptionError; what `estimate_curvature`, `weight_saliencies` and `compensate` throw
template <class Model, Loss L, class AfterRound>
PruneResult<typename Model::Scalar> prune_weights(
    Model& model, const L& loss,
    const std::vector<Slice<typename L::Scalar, typename L::Targets>>& slices,
    const PruneOptions& options, const RoundOptions& rounds, AfterRound&& after_round) {
  using S = typename Model::Scalar;
  static constexpr const char* kWhere = "kfac::prune_weights";
  SelectionOptions{options.ratio, options.layer_limit}.validate(kWhere);
  detail::check_option(rounds.rounds >= 1, kWhere, "rounds", rounds.rounds, ">= 1");
  options.compensation.validate(kWhere);
  const bool curved =
      options.compensate || options.saliency == Saliency::Obd || options.saliency == Saliency::Obs;
  PruneResult<S> result;
  for (Index round = 1; round <= rounds.rounds; ++round) {
    CurvatureEstimate<S> curvature;
    if (curved) curvature = estimate_curvature(model, loss, slices, rounds.estimate);
    const Vector<S> saliencies = weight_saliencies(
        model, curvature,
        {.saliency = options.saliency, .damping = options.damping, .seed = options.seed});
    const double ratio = detail::ratio_after(options.ratio, round, rounds.rounds);
    result.mask = prune_mask(model, saliencies, {ratio, options.layer_limit}, result.mask);
    PruneRound done;
    if (options.compensate)
      done.blocks = compensate(model, result.mask, curvature, options.compensation);
    const MaskedParameters<Model> masked(model, result.mask);
    done.ratio = pruned_share(model, result.mask);
    result.rounds.push_back(std::move(done));
    after_round(masked);
  }
  return result;
}
template <class Model, Loss L>
PruneResult<typename Model::Scalar> prune_weights(
    Model& model, const L& loss,
    const std::vector<Slice<typename L::Scalar, typename L::Targets>>& slices,
    const PruneOptions& options = {}, const RoundOptions& rounds = {}) {
  return prune_weights(model, loss, slices, options, rounds, [](const MaskedParameters<Model>&) {});
}

}  // namespace kfac
