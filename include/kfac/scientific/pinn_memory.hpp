#pragma once

#include <algorithm>

#include <kfac/curvature/memory_estimate.hpp>
#include <kfac/nn/network.hpp>

namespace kfac {

/// What a `PinnOptimizer` of two networks takes for steps on so many points, with what the
/// networks' passes take. \throws ShapeError if a network does not take points with so many
/// coordinates
template <class Interior, class Boundary>
MemoryEstimate pinn_memory(Interior& interior, Index interior_points, Boundary& boundary,
                           Index boundary_points, Index coordinates) {
  using S = typename Interior::Scalar;
  double factors = 0, inverse = 0;
  for (const LayerView<S>& layer : interior.layers()) {
    if (!layer.kronecker) continue;
    const auto a = static_cast<double>(layer.kronecker->columns());
    const auto g = static_cast<double>(layer.kronecker->outputs);
    factors += 2 * (a * (a + 1) + g * (g + 1)) * sizeof(S);
    // Four factors, as they are and normalised, and what is made of them.
    inverse = std::max(inverse, (a * a + g * g) * (2 * sizeof(S) + 6 * sizeof(double)));
  }
  const auto passes = [&](const auto& network, Index points) {
    return static_cast<double>(network.workspace_size({coordinates}, points).total()) * sizeof(S);
  };
  return {{{"factors", factors},
           {"inverse", inverse},
           {"interior passes", passes(interior, interior_points)},
           {"boundary passes", passes(boundary, boundary_points)},
           {"parameters", 6 * static_cast<double>(interior.parameter_count()) * sizeof(S)}}};
}

}  // namespace kfac
