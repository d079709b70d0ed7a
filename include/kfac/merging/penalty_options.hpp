#pragma once

#include <cmath>
#include <limits>
#include <optional>

#include <kfac/core/errors.hpp>

namespace kfac {

/// What becomes of the Kronecker products of several tasks.
enum class PenaltyCompression {
  KeepAll,    ///< nothing: exact; memory and time grow with every task
  FactorSum,  ///< the mean of the A_t by examples (x) the sum of the G_t
  Nearest     ///< the nearest Kronecker product, task by task (`linalg::nearest_kronecker`)
};

/// Where the quadratics have their minimum.
enum class PenaltyCentre {
  /// All at the parameters after the latest task (online Laplace): one Gaussian, whose mean moves.
  Latest,
  /// Each at the parameters after its own task (as EWC was first given). Every task is kept then,
  /// whatever the compression, and memory grows with it.
  EachTask
};

/// Options of `LaplacePenalty`.
struct PenaltyOptions {
  double strength = 1;         ///< lambda, of the curvature of earlier tasks; >= 0. 1: Bayes' rule
  double prior_precision = 0;  ///< of all parameters, on the scale of a sum of criteria; >= 0
  PenaltyCompression compression = PenaltyCompression::Nearest;
  PenaltyCentre centre = PenaltyCentre::Latest;
  double decay = 1;  ///< of the curvature there is, whenever a task is added; in [0, 1]
  /// R of the loss L = R sum_n c_n over the data of the task that is trained, > 0: 1 for a sum of
  /// cross-entropies, 1 / N for their mean. Without it that of the latest task's estimate.
  std::optional<double> loss_scale = {};
  /// Bytes that the penalty may take, > 0: a task that would need more is refused.
  double memory_limit = std::numeric_limits<double>::infinity();

  void validate(const char* where) const {
    const auto check_non_negative = [&](const char* field, double value) {
      detail::check_option(value >= 0 && std::isfinite(value), where, field, value,
                           ">= 0 and finite");
    };
    check_non_negative("strength", strength);
    check_non_negative("prior_precision", prior_precision);
    detail::check_option(decay >= 0 && decay <= 1, where, "decay", decay, "in [0, 1]");
    if (loss_scale)
      detail::check_option(*loss_scale > 0 && std::isfinite(*loss_scale), where, "loss_scale",
                           *loss_scale, "> 0 and finite");
    detail::check_option(memory_limit > 0, where, "memory_limit", memory_limit, "> 0");
  }
};

}  // namespace kfac
