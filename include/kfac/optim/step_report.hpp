#pragma once

#include <limits>
#include <string>
#include <vector>

#include <kfac/core/types.hpp>
#include <kfac/curvature/step_status.hpp>

namespace kfac {

/// What a step did. An optimizer owns one and returns a reference to it: it is overwritten by the
/// next step.
template <RealScalar S>
struct StepReport {
  StepStatus status = StepStatus::Ok;
  std::string layer;  ///< the layer a failure is about, if it is about one
  /// Of the batch, before the step; NaN from optimizers that are given gradients only.
  S loss = std::numeric_limits<S>::quiet_NaN();
  S gradient_norm = 0;              ///< Euclidean, of all parameters
  S step_norm = 0;                  ///< of the change of all parameters
  std::vector<S> layer_step_norms;  ///< of each of `model.layers()`, in that order
  S kl_scale = 1;                   ///< what the KL clip multiplied the step with; 1 if not clipped

  bool ok() const { return status == StepStatus::Ok; }
};

}  // namespace kfac
