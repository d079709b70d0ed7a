#pragma once

#include <cmath>
#include <limits>
#include <string>

#include <kfac/core/schedule.hpp>
#include <kfac/curvature/step_status.hpp>
#include <kfac/scientific/line_search.hpp>

namespace kfac {

/// How `PinnOptimizer` finds the length of a step.
enum class PinnStep {
  /// The best on a grid of lengths along the direction and what momentum keeps of those before. The
  /// loss never rises.
  LineSearch,
  /// The length and the momentum that are best in the quadratic model with the exact Gauss-Newton
  /// matrix (KFAC*), at the cost of two tangents: there is no momentum to tune. If that does not
  /// lower the loss, the first length on the grid below 1 that does.
  QuadraticModel,
};

/// Of `PinnOptimizer`. A number that is a `Schedule` is a constant or a function of the step.
template <RealScalar S>
struct PinnOptions {
  PinnStep step = PinnStep::QuadraticModel;
  /// Of the curvature: its root is added to each of the four factors of a layer; > 0, finite. In
  /// double as small as 1e-15.
  Schedule<S> damping = S(1e-8);
  /// How often a factorisation that fails is tried again in the same step, each time with ten times
  /// the damping; >= 0.
  Index damping_retries = 8;
  Schedule<S> factor_decay = S(0.9);      ///< weight of the past in the running averages, in [0, 1)
  Schedule<S> momentum = S(0.3);          ///< of a line search, in [0, 1)
  LineSearchOptions<S> line_search = {};  ///< the grid of lengths
  S interior_weight = 1;                  ///< of the interior's loss, > 0, finite
  S boundary_weight = 1;                  ///< of the boundary's, likewise
  /// Largest `pinn_memory` of a step in bytes, > 0.
  double memory_limit = std::numeric_limits<double>::infinity();

  /// \throws OptionError
  void validate() const {
    static constexpr const char* kWhere = "kfac::PinnOptimizer";
    at(0);
    detail::check_option(damping_retries >= 0, kWhere, "damping_retries", damping_retries, ">= 0");
    detail::check_option(interior_weight > 0 && std::isfinite(interior_weight), kWhere,
                         "interior_weight", interior_weight, "> 0 and finite");
    detail::check_option(boundary_weight > 0 && std::isfinite(boundary_weight), kWhere,
                         "boundary_weight", boundary_weight, "> 0 and finite");
    line_search.validate(kWhere);
  }

  struct Values {
    S damping, factor_decay, momentum;
  };
  /// What the options are at a step. \throws OptionError for a value out of its range
  Values at(Index index) const {
    static constexpr const char* kWhere = "kfac::PinnOptimizer";
    return {detail::scheduled_positive(damping, index, kWhere, "damping"),
            detail::scheduled_decay(factor_decay, index, kWhere, "factor_decay"),
            detail::scheduled_decay(momentum, index, kWhere, "momentum")};
  }
};

/// What a step did. If it is not ok, the parameters are as they were.
template <RealScalar S>
struct PinnReport {
  StepStatus status = StepStatus::Ok;
  std::string layer;    ///< where it failed, if at a layer
  S loss = 0;           ///< before the step
  S interior_loss = 0;  ///< its parts, with their weights
  S boundary_loss = 0;
  S learning_rate = 0;     ///< how much of the direction was taken; 0 if no length was better
  S momentum = 0;          ///< how much of the step before
  S damping = 0;           ///< that was used
  S predicted_change = 0;  ///< of the loss, in the quadratic model (where there is one)
  Index evaluations = 0;   ///< of the loss, by the line search

  bool ok() const { return status == StepStatus::Ok; }
};

}  // namespace kfac
