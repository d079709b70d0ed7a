#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <kfac/compression/compression_memory.hpp>
#include <kfac/compression/rotated_map.hpp>
#include <kfac/compression/rounds.hpp>
#include <kfac/compression/selection.hpp>

namespace kfac {

struct EigenDamageOptions {
  double ratio = 0.5;         ///< of all eigen-channels, of inputs and outputs, in [0, 1)
  double layer_limit = 0.95;  ///< the most that one side of a layer may lose, in [ratio, 1]
  std::vector<std::string> layers = {};  ///< which; empty: all
  /// Whether factors are multiplied out where that takes no more parameters, so that two layers or
  /// one are left of the three.
  bool fold = true;
  bool only_if_smaller = true;  ///< whether a layer stays as it is if its factors are not smaller
  /// Bytes that may be taken beside the network and the estimate (`compression_memory`), > 0.
  double memory_limit = std::numeric_limits<double>::infinity();
};

/// A network in which layers are products of factors.
template <RealScalar S>
struct FactoredNetwork {
  DynamicSequential<S> model;
  /// The layers between the eigenbases, or in place of which nothing was smaller: `layers` of the
  /// next pass.
  std::vector<std::string> cores;
};

namespace detail {

/// One pass over a network.
template <RealScalar S>
class EigenDamage {
 public:
  static constexpr const char* kWhere = "kfac::eigen_damage";

  EigenDamage(DynamicSequential<S>& model, const CurvatureEstimate<S>& estimate,
              const EigenDamageOptions& options)
      : model_(model), options_(options) {
    SelectionOptions{options.ratio, options.layer_limit}.validate(kWhere);
    const std::vector<ParameterBlock> blocks = parameter_blocks(model);
    check_compression(kWhere, 0, options.memory_limit, blocks, estimate.record.structure);
    check_estimate(kWhere, estimate, blocks);
    check_layers(kWhere, model, options.layers);
    for_each_chain(model, [&](const DynamicSequential<S>& chain, const std::string& prefix) {
      for (std::size_t i = 0; i < chain.size(); ++i) {
        const std::string name = prefix + std::to_string(i);
        const auto map = unit_map(chain.layer(i));
        if (!map || map->groups != 1 || !is_chosen(name)) continue;
        const auto block =
            std::find_if(blocks.begin(), blocks.end(),
                         [&](const ParameterBlock& candidate) { return candidate.name() == name; });
        const auto at = static_cast<std::size_t>(block - blocks.begin());
        targets_.emplace(name, Target{RotatedMap(kWhere, *map, estimate.blocks[at]), {}, {}});
      }
    });
    choose();
  }

  FactoredNetwork<S> run() {
    FactoredNetwork<S> result{
        rewritten(model_, [&](std::vector<AnyLayer<S>>& layers,
                              const std::string& prefix) { layers = replaced(layers, prefix); }),
        {}};
    // A chain within another may be called otherwise now; their order is the same.
    std::vector<std::string> before;
    for_each_chain(model_, [&](const DynamicSequential<S>&, const std::string& prefix) {
      before.push_back(prefix);
    });
    std::size_t next = 0;
    for_each_chain(result.model, [&](const DynamicSequential<S>&, const std::string& prefix) {
      for (const std::size_t i : cores_.at(before[next++]))
        result.cores.push_back(prefix + std::to_string(i));
    });
    return result;
  }

 private:
  struct Target {
    RotatedMap rotated;
    std::vector<Index> rows, columns;  ///< that stay
  };

  bool is_chosen(const std::string& name) const {
    return options_.layers.empty() ||
           std::find(options_.layers.begin(), options_.layers.end(), name) != options_.layers.end();
  }

  /// One threshold for the rows and the columns of all layers.
  void choose() {
    std::vector<Vector<double>> scores;
    for (const auto& [name, target] : targets_) {
      scores.push_back(target.rotated.saliency.rowwise().sum());
      scores.push_back(target.rotated.saliency.colwise().sum().transpose());
    }
    const std::vector<std::vector<Index>> gone =
        select_smallest(scores, {options_.ratio, options_.layer_limit}, 1);
    std::size_t i = 0;
    for (auto& [name, target] : targets_) {
      target.rows = all_but(gone[i], scores[i].size());
      target.columns = all_but(gone[i + 1], scores[i + 1].size());
      i += 2;
    }
  }

  std::vector<AnyLayer<S>> replaced(const std::vector<AnyLayer<S>>& layers,
                                    const std::string& prefix) {
    std::vector<AnyLayer<S>> next;
    std::vector<std::size_t>& cores = cores_[prefix];
    for (std::size_t i = 0; i < layers.size();) {
      // A target, with the linear maps around it that are none themselves.
      const std::size_t begin = i;
      std::vector<MapPiece<S>> pieces;
      const std::size_t target = begin + (is_free(layers, begin, prefix) ? 1 : 0);
      if (target == layers.size() || !is_target(target, prefix)) {
        next.push_back(layers[i++]);
        continue;
      }
      for (; i <= target; ++i) pieces.push_back(piece(layers[i]));
      if (i < layers.size() && is_free(layers, i, prefix) && !precedes_target(layers, i, prefix))
        pieces.push_back(piece(layers[i++]));
      pieces[target - begin].core = true;
      rotate(pieces, target - begin, prefix + std::to_string(target));
      for (MapPiece<S>& made : pieces) {
        if (made.core) cores.push_back(next.size());
        next.push_back(layer_of(made.map, made.like));
      }
    }
    return next;
  }

  bool is_target(std::size_t i, const std::string& prefix) const {
    return targets_.contains(prefix + std::to_string(i));
  }
  /// Whether it is a linear map that is no target.
  bool is_free(const std::vector<AnyLayer<S>>& layers, std::size_t i,
               const std::string& prefix) const {
    if (is_target(i, prefix)) return false;
    const auto map = unit_map(layers[i]);
    return map && map->groups == 1;
  }
  bool precedes_target(const std::vector<AnyLayer<S>>& layers, std::size_t i,
                       const std::string& prefix) const {
    return i + 1 < layers.size() && is_target(i + 1, prefix);
  }

  static MapPiece<S> piece(const AnyLayer<S>& layer) { return {*unit_map(layer), layer}; }

  /// Replaces the piece at `at` by its factors, unless that is to be smaller and is not.
  void rotate(std::vector<MapPiece<S>>& pieces, std::size_t at, const std::string& name) const {
    const Target& target = targets_.at(name);
    std::vector<MapPiece<S>> factors =
        factors_of(target.rotated, pieces[at].map, pieces[at].like, target.rows, target.columns);
    std::vector<MapPiece<S>> made(pieces.begin(), pieces.begin() + static_cast<std::ptrdiff_t>(at));
    made.insert(made.end(), factors.begin(), factors.end());
    made.insert(made.end(), pieces.begin() + static_cast<std::ptrdiff_t>(at) + 1, pieces.end());
    fold(made, options_.fold);
    if (!options_.only_if_smaller || parameters_of(made) < parameters_of(pieces))
      pieces = std::move(made);
  }

  DynamicSequential<S>& model_;
  const EigenDamageOptions& options_;
  std::map<std::string, Target> targets_;
  std::map<std::string, std::vector<std::size_t>> cores_;  // of each chain, by its prefix
};

}  // namespace detail

/// EigenDamage: prunes in the eigenbases of the curvature's factors, where weights are nearly
/// independent of each other. W' = Q_G^T W Q_A has the saliencies 1/2 W'^2 .* (l_G l_A^T), or
/// EKFAC's moments for the outer product; rows and columns of all layers are pruned by one
/// threshold on their sums; what is left of a layer is the product Q_G[:, r] W'[r, c] Q_A[:, c]^T:
/// three layers, fewer where they fold. A convolution is rotated over channels alone: its bases are
/// pointwise convolutions, the core has the kernel. Biases stay where they are and make up for the
/// mean of what is gone: the inputs' basis is that of their covariance, of inputs without a bias
/// that of their second moment.
///
///     auto smaller = kfac::eigen_damage(model, curvature, {.ratio = 0.5});
///
/// The method is meant for training afterwards, and for several passes, each with a curvature of
/// its own and `layers` the cores of the last: their rotations are multiplied into those there are.
/// \throws OptionError; MemoryError; ShapeError if the estimate is of another network; ValueError
/// if
///         it has no Kronecker factors, or for a layer that is no linear map
/// \source Wang et al. 2019, arXiv 1905.05934
template <RealScalar S>
FactoredNetwork<S> eigen_damage(DynamicSequential<S>& model, const CurvatureEstimate<S>& estimate,
                                const EigenDamageOptions& options = {}) {
  return detail::EigenDamage<S>(model, estimate, options).run();
}

/// The same in rounds, each of the same share of the eigen-channels that are left. In more than one
/// all layers are replaced, and folded in the last. `after_round(network)`, of a `FactoredNetwork`,
/// is called after each, to train on, say.
/// \throws OptionError; what `estimate_curvature` throws; likewise
template <RealScalar S, Loss L, class AfterRound>
FactoredNetwork<S> eigen_damage(DynamicSequential<S>& model, const L& loss,
                                const std::vector<Slice<S, typename L::Targets>>& slices,
                                const EigenDamageOptions& options, const RoundOptions& rounds,
                                AfterRound&& after_round) {
  static constexpr const char* kWhere = "kfac::eigen_damage";
  SelectionOptions{options.ratio, options.layer_limit}.validate(kWhere);
  detail::check_option(rounds.rounds >= 1, kWhere, "rounds", rounds.rounds, ">= 1");
  FactoredNetwork<S> network{model, options.layers};
  for (Index round = 1; round <= rounds.rounds; ++round) {
    EigenDamageOptions now = options;
    now.fold = options.fold && round == rounds.rounds;
    now.only_if_smaller = options.only_if_smaller && rounds.rounds == 1;
    now.ratio = detail::ratio_after(options.ratio, 1, rounds.rounds);
    now.layers = network.cores;
    const CurvatureEstimate<S> curvature =
        estimate_curvature(network.model, loss, slices, rounds.estimate);
    network = eigen_damage(network.model, curvature, now);
    after_round(network);
  }
  return network;
}
template <RealScalar S, Loss L>
FactoredNetwork<S> eigen_damage(DynamicSequential<S>& model, const L& loss,
                                const std::vector<Slice<S, typename L::Targets>>& slices,
                                const EigenDamageOptions& options = {},
                                const RoundOptions& rounds = {}) {
  return eigen_damage(model, loss, slices, options, rounds, [](const FactoredNetwork<S>&) {});
}

}  // namespace kfac
