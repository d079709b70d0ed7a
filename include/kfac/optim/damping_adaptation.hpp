#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include <kfac/core/errors.hpp>

namespace kfac {

/// The rule of Levenberg and Marquardt: every `every` steps the change of the objective on the
/// batch is compared with what the quadratic model predicted, rho = change / predicted; where the
/// model is good the damping falls by factor^every, where it is bad it rises by as much. \source
/// Martens and Grosse 2015, arXiv 1503.05671, section 6.5
template <RealScalar S>
struct DampingAdaptation {
  Index every = 0;          ///< steps from one adjustment to the next; 0: never. The paper: 5
  S factor = S(0.95);       ///< omega, in (0, 1)
  S lower_above = S(0.75);  ///< rho above which the damping falls
  S raise_below = S(0.25);  ///< rho below which it rises, as it does for NaN; < lower_above
  S min = S(1e-8);          ///< > 0
  S max = S(1e8);           ///< > min, finite

  /// \throws OptionError
  void validate(const char* where) const {
    detail::check_option(every >= 0, where, "damping_adaptation.every", every, ">= 0");
    detail::check_option(factor > 0 && factor < 1, where, "damping_adaptation.factor", factor,
                         "in (0, 1)");
    detail::check_option(raise_below < lower_above, where, "damping_adaptation.raise_below",
                         raise_below, "< lower_above");
    detail::check_option(min > 0, where, "damping_adaptation.min", min, "> 0");
    detail::check_option(max > min && std::isfinite(max), where, "damping_adaptation.max", max,
                         "> min and finite");
  }

  bool is_due(Index step) const { return every > 0 && (step + 1) % every == 0; }

  /// The damping after a step with that rho.
  S adapted(S damping, S rho) const {
    const S omega = std::pow(factor, static_cast<S>(std::max<Index>(every, 1)));
    if (rho > lower_above) damping *= omega;
    if (!(rho >= raise_below)) damping /= omega;
    return std::clamp(damping, min, max);
  }
};

/// The change that came over the change predicted. A prediction that is no decrease says nothing
/// but by whether the objective fell: then infinite, with the sign that makes the damping fall or
/// rise.
template <RealScalar S>
S reduction_ratio(S change, S predicted) {
  if (std::isnan(change) || std::isnan(predicted)) return std::numeric_limits<S>::quiet_NaN();
  if (predicted < 0) return change / predicted;
  if (predicted == 0 && change == 0) return 1;
  return change < 0 ? std::numeric_limits<S>::infinity() : -std::numeric_limits<S>::infinity();
}

/// The search for gamma, the root of the damping that the curvature's factors are inverted with,
/// apart from the damping of the quadratic model: every `every` steps it is tried as it is, smaller
/// and larger by factor^every, and that is kept whose step the quadratic model likes best.
/// \source Martens and Grosse 2015, arXiv 1503.05671, section 6.6
template <RealScalar S>
struct GammaSearch {
  Index every = 0;            ///< steps from one search to the next; 0: gamma^2 is the damping
  S factor = S(0.974679434);  ///< omega_2, in (0, 1); the paper's is sqrt(19/20)
  S min = S(1e-4);            ///< of gamma; > 0
  S max = S(1e4);             ///< of gamma; > min, finite

  /// \throws OptionError
  void validate(const char* where) const {
    detail::check_option(every >= 0, where, "gamma_search.every", every, ">= 0");
    detail::check_option(factor > 0 && factor < 1, where, "gamma_search.factor", factor,
                         "in (0, 1)");
    detail::check_option(min > 0, where, "gamma_search.min", min, "> 0");
    detail::check_option(max > min && std::isfinite(max), where, "gamma_search.max", max,
                         "> min and finite");
  }

  bool is_due(Index step) const { return every > 0 && step % every == 0; }

  std::array<S, 3> candidates(S gamma) const {
    const S omega = std::pow(factor, static_cast<S>(every));
    return {gamma, std::clamp(omega * gamma, min, max), std::clamp(gamma / omega, min, max)};
  }
};

}  // namespace kfac
