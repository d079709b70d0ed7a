#pragma once

#include <cmath>

#include <kfac/core/errors.hpp>

namespace kfac {

/// Of local energies at walkers that are distributed as |psi|^2.
template <RealScalar S>
struct EnergyStatistics {
  S mean = 0;            ///< the energy
  S variance = 0;        ///< of the local energy; 0 for an eigenstate
  S standard_error = 0;  ///< of the mean, if the walkers are independent
};

/// \throws ShapeError without any
template <RealScalar S>
EnergyStatistics<S> energy_statistics(const Vector<S>& energies) {
  if (energies.size() == 0)
    raise<ShapeError>("kfac::energy_statistics: 'energies' is empty, expected at least one");
  const auto count = static_cast<S>(energies.size());
  EnergyStatistics<S> result;
  result.mean = energies.mean();
  result.variance = (energies.array() - result.mean).square().mean();
  result.standard_error = std::sqrt(result.variance / count);
  return result;
}

/// What each walker's gradient of log |psi| is multiplied with for the sum to be the estimate of
/// E[(E_L - E) grad log |psi|], half the gradient of the energy: local energies are clipped at
/// `clip` times their mean absolute deviation from their mean (0: not at all), and the mean of what
/// that gives is taken off. \throws ShapeError without any
/// \source Pfau et al. 2020, arXiv 1909.02487
template <RealScalar S>
Vector<S> energy_weights(const Vector<S>& energies, S clip = S(5)) {
  if (energies.size() == 0)
    raise<ShapeError>("kfac::energy_weights: 'energies' is empty, expected at least one");
  detail::check_option(clip >= 0 && std::isfinite(clip), "kfac::energy_weights", "clip", clip,
                       ">= 0 and finite");
  Vector<S> weights = energies;
  if (clip > 0) {
    const S mean = energies.mean();
    const S deviation = clip * (energies.array() - mean).abs().mean();
    weights = energies.array().max(mean - deviation).min(mean + deviation).matrix();
  }
  weights.array() -= weights.mean();
  return weights / static_cast<S>(energies.size());
}

}  // namespace kfac
