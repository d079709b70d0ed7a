#pragma once

#include <limits>
#include <string>
#include <vector>

#include <kfac/core/types.hpp>
#include <kfac/curvature/step_status.hpp>

namespace kfac {

/// Where the time of a step went, in seconds of the wall clock.
struct StepSeconds {
  double forward = 0;          ///< outputs and loss, mostly with the loss's gradient by the outputs
  double gradient = 0;         ///< of the loss, by the parameters
  double factors = 0;          ///< passes that only feed the curvature, and running averages
  double inverses = 0;         ///< made by this thread, or waited for
  double precondition = 0;     ///< the gradient
  double quadratic_model = 0;  ///< products with the exact curvature
  double evaluation = 0;       ///< of the loss after the step
  double update = 0;           ///< everything else: momentum, the parameters
  double total() const {
    return forward + gradient + factors + inverses + precondition + quadratic_model + evaluation +
           update;
  }
};

/// What a step did. An optimizer owns one and returns a reference to it: it is overwritten by the
/// next step. NaN is what the step had no use for.
template <RealScalar S>
struct StepReport {
  static constexpr S kNone = std::numeric_limits<S>::quiet_NaN();

  StepStatus status = StepStatus::Ok;
  std::string layer;   ///< the layer a failure is about, if it is about one
  Index step = 0;      ///< how many there were before it
  S loss = kNone;      ///< of the batch, before the step; optimizers that see gradients only: NaN
  S new_loss = kNone;  ///< of the same batch after it, where it was evaluated
  S learning_rate = kNone;
  S momentum = kNone;
  S damping = kNone;
  /// Of the preconditioner, gamma^2 where gamma is searched for. K-FAC's Cholesky inverses have it
  /// from the step at which they were made.
  S preconditioner_damping = kNone;
  /// Of the loss (with weight decay) by the quadratic model; negative is a decrease. Where a step
  /// was shortened because the loss would have risen, this and rho are of the step first tried.
  S predicted_change = kNone;
  S reduction_ratio = kNone;            ///< rho: the change that came over the change predicted
  S gradient_norm = 0;                  ///< Euclidean, of all parameters
  S step_norm = 0;                      ///< of the change of all parameters
  std::vector<S> layer_gradient_norms;  ///< of each of `model.layers()`, in that order
  std::vector<S> layer_step_norms;
  S gradient_scale = 1;   ///< what gradient clipping multiplied the gradient with
  S kl_scale = 1;         ///< what the KL clip multiplied the step with; 1 if not clipped
  S norm_scale = 1;       ///< what the norm constraint did, likewise
  bool burn_in = false;   ///< only the curvature was updated, the parameters not
  bool rejected = false;  ///< the loss would have risen: the parameters are as they were
  Index shrinks = 0;      ///< how often the step was shortened because the loss would have risen
  StepSeconds seconds;

  bool ok() const { return status == StepStatus::Ok; }
};

}  // namespace kfac
