#pragma once

#include <cmath>

#include <kfac/core/errors.hpp>
#include <kfac/optim/parameter_step.hpp>

namespace kfac {

template <RealScalar S>
struct SgdOptions {
  S learning_rate = S(1e-3);  ///< > 0, finite
  S momentum = 0;             ///< in [0, 1)
  bool nesterov = false;      ///< needs momentum > 0
  S weight_decay = 0;         ///< >= 0; times the parameters is added to the gradient

  void validate() const {
    static constexpr const char* kWhere = "kfac::Sgd";
    detail::check_option(learning_rate > 0 && std::isfinite(learning_rate), kWhere, "learning_rate",
                         learning_rate, "> 0 and finite");
    detail::check_option(momentum >= 0 && momentum < 1, kWhere, "momentum", momentum, "in [0, 1)");
    detail::check_option(!nesterov || momentum > 0, kWhere, "momentum", momentum,
                         "> 0 with nesterov");
    detail::check_option(weight_decay >= 0 && std::isfinite(weight_decay), kWhere, "weight_decay",
                         weight_decay, ">= 0 and finite");
  }
};

/// Stochastic gradient descent as torch.optim.SGD: v <- momentum v + g, then theta <- theta - lr v
/// (Nesterov: theta - lr (g + momentum v)). The model must outlive it and stay where it is.
template <RealScalar S>
class Sgd {
 public:
  /// \throws OptionError
  template <class Model>
  explicit Sgd(Model& model, SgdOptions<typename Model::Scalar> options = {})
      : options_((options.validate(), options)),
        step_(model),
        velocity_(Vector<S>::Zero(step_.delta().size())),
        next_velocity_(velocity_) {}

  /// Steps along the model's gradient, as the last backward pass (and whatever was done to the
  /// gradient since) left it. The loss, where it is given, is checked and reported.
  const StepReport<S>& step(std::optional<S> loss = {}) {
    if (!step_.begin(loss)) return step_.report();
    next_velocity_ = options_.momentum * velocity_ + step_.gradient();
    step_.add_parameters(options_.weight_decay, next_velocity_);
    Vector<S>& delta = step_.delta();
    if (options_.nesterov) {
      delta = -options_.learning_rate * (step_.gradient() + options_.momentum * next_velocity_);
      step_.add_parameters(-options_.learning_rate * options_.weight_decay, delta);
    } else {
      delta = -options_.learning_rate * next_velocity_;
    }
    if (step_.finish()) velocity_.swap(next_velocity_);
    return step_.report();
  }

  const SgdOptions<S>& options() const { return options_; }
  /// For schedules. \throws OptionError
  void set_learning_rate(S learning_rate) {
    SgdOptions<S> changed = options_;
    changed.learning_rate = learning_rate;
    changed.validate();
    options_ = changed;
  }

 private:
  SgdOptions<S> options_;
  ParameterStep<S> step_;
  Vector<S> velocity_, next_velocity_;
};

template <class Model>
explicit Sgd(Model&) -> Sgd<typename Model::Scalar>;
template <class Model>
Sgd(Model&, SgdOptions<typename Model::Scalar>) -> Sgd<typename Model::Scalar>;

}  // namespace kfac
