#pragma once

namespace kfac {

/// How a step ended. Anything but `Ok` means that the parameters are as they were before it.
enum class StepStatus {
  Ok,
  NonFiniteLoss,        ///< the loss is NaN or infinite: usually the step before it was too long
  NonFiniteGradient,    ///< a gradient is
  NonFiniteFactor,      ///< what a layer announced is; its running averages are kept
  FactorizationFailed,  ///< a damped factor is not positive definite in this precision
  NonFiniteStep,        ///< the step itself is: the damping is too small for this precision
};

/// Such as "ok" or "the gradient is not finite".
inline const char* describe(StepStatus status) {
  switch (status) {
    case StepStatus::Ok:
      return "ok";
    case StepStatus::NonFiniteLoss:
      return "the loss is not finite";
    case StepStatus::NonFiniteGradient:
      return "the gradient is not finite";
    case StepStatus::NonFiniteFactor:
      return "a Kronecker factor is not finite";
    case StepStatus::FactorizationFailed:
      return "a damped Kronecker factor is not positive definite";
    case StepStatus::NonFiniteStep:
      return "the step is not finite";
  }
  return "unknown";
}

}  // namespace kfac
