#pragma once

#include <cmath>

#include <kfac/curvature/estimate_curvature.hpp>

namespace kfac {

/// How compression goes on in rounds, each of which takes the same share of what is left.
struct RoundOptions {
  Index rounds = 1;               ///< >= 1
  EstimateOptions estimate = {};  ///< of the curvature, at the network that each round begins with
};

namespace detail {

/// The ratio after round `round` of `rounds`.
inline double ratio_after(double ratio, Index round, Index rounds) {
  if (round == rounds) return ratio;
  return 1 - std::pow(1 - ratio, static_cast<double>(round) / static_cast<double>(rounds));
}

}  // namespace detail
}  // namespace kfac
