#pragma once

#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include <kfac/compression/remove_units.hpp>
#include <kfac/compression/rounds.hpp>
#include <kfac/compression/saliency.hpp>

namespace kfac {

/// How much a unit matters: by its own row of weights, as `Saliency`, or by the next layer's
/// columns that read it.
enum class UnitSaliency {
  Random,
  Magnitude,
  Obd,
  Obs,
  /// What it costs to remove the next layer's columns of it, with the other columns, and the bias,
  /// at their best: 1/2 tr(W_S^T G W_S (A^-1_SS)^-1). Exactly what `remove_units` does of one unit.
  NextLayer,
};

struct UnitOptions {
  double ratio = 0.5;         ///< of all units that can be removed, in [0, 1)
  double layer_limit = 0.95;  ///< the most that one layer may lose, in [ratio, 1]; one stays
  UnitSaliency saliency = UnitSaliency::Obs;
  double damping = 1e-3;   ///< as `SaliencyOptions`, for Obs and NextLayer
  std::uint64_t seed = 0;  ///< of Random
  /// Bytes that may be taken beside the network and the estimate (`compression_memory`), > 0.
  double memory_limit = std::numeric_limits<double>::infinity();
};

namespace detail {

inline std::size_t block_named(const std::vector<ParameterBlock>& blocks, const std::string& name) {
  std::size_t i = 0;
  while (blocks[i].name() != name) ++i;
  return i;
}

/// `UnitSaliency::NextLayer` of all units of a link.
template <RealScalar S>
Vector<double> next_layer_saliency(const char* where, const UnitLink& link,
                                   const BlockEstimate<S>& next, const Matrix<double>& w,
                                   double damping) {
  check_factors(where, next);
  const Matrix<double> inverse_a =
      inverse(where, damped(next.factors.a, damping), next.block.name());
  const Matrix<double> g = damped(next.factors.g, damping);
  Vector<double> result(link.units);
  for (Index unit = 0; unit < link.units; ++unit) {
    const std::vector<Index> columns = link.columns(unit);
    const Matrix<double> part = w(Eigen::all, columns);
    const Matrix<double> among = inverse_a(columns, columns);
    const Matrix<double> half = g * part;
    const Matrix<double> form = part.transpose() * half;
    result(unit) = 0.5 * cholesky(where, among, next.block.name()).solve(form).trace();
  }
  return result;
}

}  // namespace detail

/// The saliencies of the units of each of `unit_links(model)`. \throws as `weight_saliencies`;
/// ValueError for NextLayer without Kronecker factors
template <RealScalar S>
std::vector<Vector<S>> unit_saliencies(DynamicSequential<S>& model,
                                       const CurvatureEstimate<S>& estimate,
                                       const UnitOptions& options = {}) {
  static constexpr const char* kWhere = "kfac::unit_saliencies";
  const std::vector<ParameterBlock> blocks = parameter_blocks(model);
  const std::vector<UnitLink> links = unit_links(model);
  std::vector<Vector<S>> result;
  if (options.saliency == UnitSaliency::NextLayer) {
    detail::check_compression(kWhere, options.damping, options.memory_limit, blocks,
                              estimate.record.structure);
    detail::check_estimate(kWhere, estimate, blocks);
    const Vector<S> flat = flat_parameters(model);
    for (const UnitLink& link : links) {
      const BlockEstimate<S>& next = estimate.blocks[detail::block_named(blocks, link.next)];
      const Matrix<double> w = next.block.of(flat).template cast<double>();
      result.push_back(
          detail::next_layer_saliency(kWhere, link, next, w, options.damping).template cast<S>());
    }
    return result;
  }
  const std::vector<Vector<S>> rows =
      row_saliencies(model, estimate,
                     {.saliency = static_cast<Saliency>(options.saliency),
                      .damping = options.damping,
                      .seed = options.seed,
                      .memory_limit = options.memory_limit});
  for (const UnitLink& link : links)
    result.push_back(rows[detail::block_named(blocks, link.layer)]);
  return result;
}
static_assert(static_cast<int>(UnitSaliency::Obs) == static_cast<int>(Saliency::Obs));

/// The units that matter least, by one threshold for all layers, for `remove_units`.
/// \throws OptionError; as `unit_saliencies`
template <RealScalar S>
std::vector<UnitRemoval> choose_units(DynamicSequential<S>& model,
                                      const CurvatureEstimate<S>& estimate,
                                      const UnitOptions& options = {}) {
  const SelectionOptions selection{options.ratio, options.layer_limit};
  selection.validate("kfac::choose_units");
  const std::vector<UnitLink> links = unit_links(model);
  const std::vector<std::vector<Index>> units =
      detail::select_smallest(unit_saliencies(model, estimate, options), selection, 1);
  std::vector<UnitRemoval> removals;
  for (std::size_t i = 0; i < links.size(); ++i)
    if (!units[i].empty()) removals.push_back({links[i].layer, units[i]});
  return removals;
}

/// Removes units in rounds, each of the same share of what is left and at a curvature of its own,
/// with compensation: `choose_units` and `remove_units`. `after_round(smaller)` is called after
/// each, to train the network on, say.
///
///     auto smaller = kfac::prune_units(model, loss, kfac::slices(train, 500), {.ratio = 0.5},
///                                    {.rounds = 3});
///
/// \throws OptionError; what the functions it calls throw
template <RealScalar S, Loss L, class AfterRound>
DynamicSequential<S> prune_units(DynamicSequential<S>& model, const L& loss,
                                 const std::vector<Slice<S, typename L::Targets>>& slices,
                                 const UnitOptions& options, const RoundOptions& rounds,
                                 AfterRound&& after_round) {
  static constexpr const char* kWhere = "kfac::prune_units";
  SelectionOptions{options.ratio, options.layer_limit}.validate(kWhere);
  detail::check_option(rounds.rounds >= 1, kWhere, "rounds", rounds.rounds, ">= 1");
  Index all = 0;
  for (const UnitLink& link : unit_links(model)) all += link.units;
  DynamicSequential<S> smaller = model;
  Index removed = 0;
  for (Index round = 1; round <= rounds.rounds; ++round) {
    const CurvatureEstimate<S> curvature =
        estimate_curvature(smaller, loss, slices, rounds.estimate);
    const double target = detail::ratio_after(options.ratio, round, rounds.rounds);
    const auto wanted = detail::whole_part(target * static_cast<double>(all)) - removed;
    UnitOptions now = options;
    now.ratio = all == 0 ? 0 : static_cast<double>(wanted) / static_cast<double>(all - removed);
    now.layer_limit = std::max(now.layer_limit, now.ratio);
    const std::vector<UnitRemoval> removals = choose_units(smaller, curvature, now);
    for (const UnitRemoval& removal : removals) removed += static_cast<Index>(removal.units.size());
    smaller = remove_units(smaller, removals, curvature, {.damping = options.damping});
    after_round(smaller);
  }
  return smaller;
}
template <RealScalar S, Loss L>
DynamicSequential<S> prune_units(DynamicSequential<S>& model, const L& loss,
                                 const std::vector<Slice<S, typename L::Targets>>& slices,
                                 const UnitOptions& options = {}, const RoundOptions& rounds = {}) {
  return prune_units(model, loss, slices, options, rounds, [](const DynamicSequential<S>&) {});
}

}  // namespace kfac
