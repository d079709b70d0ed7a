#pragma once

#include <algorithm>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <kfac/core/schedule.hpp>
#include <kfac/curvature/block_factory.hpp>

namespace kfac {

/// What is different for some of a network's layers. A layer belongs to the first group that
/// contains it:
///
///     kfac::KfacOptimizer optimizer(model, loss, {
///         .damping = 1e-2f,
///         .groups = {{.contains = kfac::layers_named({"0"}), .damping_scale = 10},
///                    {.contains = kfac::layers_of_kind("Conv2d"), .precondition = false}}});
template <RealScalar S>
struct LayerGroup {
  std::function<bool(const LayerView<S>&)> contains;  ///< any function of a layer
  bool precondition = true;                           ///< false: plain gradients, no curvature
  Schedule<S> damping_scale = 1;                      ///< times the damping; > 0, finite
  /// Times the learning rate (of `KfacOptimizer`: a preconditioner has none); >= 0, finite. 0
  /// leaves the layers as they are.
  Schedule<S> learning_rate_scale = 1;
  BlockFactory<S> blocks = {};  ///< instead of the factory for all layers; empty: that one

  /// \throws OptionError
  void validate(const char* where) const {
    if (!contains)
      raise<OptionError>(std::string(where) +
                         ": 'groups.contains' is empty, expected a function of a layer");
    scales_at(where, 0);
  }
  /// Those of a step. \throws OptionError
  std::pair<S, S> scales_at(const char* where, Index step) const {
    return {detail::scheduled_positive(damping_scale, step, where, "groups.damping_scale"),
            detail::scheduled_non_negative(learning_rate_scale, step, where,
                                           "groups.learning_rate_scale")};
  }
};

/// The group of a layer; null where it is in none.
template <RealScalar S>
const LayerGroup<S>* group_of(const LayerView<S>& layer, const std::vector<LayerGroup<S>>& groups) {
  const auto found = std::find_if(groups.begin(), groups.end(), [&](const LayerGroup<S>& group) {
    return group.contains(layer);
  });
  return found == groups.end() ? nullptr : &*found;
}

/// Contains the layers of these names (their paths in the network: "0", "3.1").
inline auto layers_named(std::vector<std::string> names) {
  return [names = std::move(names)](const auto& layer) {
    return std::find(names.begin(), names.end(), layer.name) != names.end();
  };
}

/// Contains the layers of a kind, such as "Linear".
inline auto layers_of_kind(std::string kind) {
  return [kind = std::move(kind)](const auto& layer) { return layer.kind == kind; };
}

}  // namespace kfac
