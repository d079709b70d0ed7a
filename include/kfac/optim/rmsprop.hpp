#pragma once

#include <utility>

#include <kfac/optim/gradient_rule.hpp>

namespace kfac {

/// Each number is a constant or a schedule.
template <RealScalar S>
struct RmsPropOptions {
  Schedule<S> learning_rate = S(1e-2);  ///< > 0, finite
  Schedule<S> smoothing = S(0.99);      ///< weight of the past in the mean square, in [0, 1)
  Schedule<S> epsilon = S(1e-8);        ///< added to the root mean square; > 0, finite
  Schedule<S> momentum = S(0);          ///< in [0, 1)
  Schedule<S> weight_decay = S(0);      ///< >= 0; times the parameters is added to the gradient
  /// Weight decay times learning rate and parameters is taken off the parameters instead.
  bool decoupled = false;
  Schedule<S> gradient_clip = S(0);   ///< largest norm of the whole gradient; >= 0, 0: any
  ParameterPredicate<S> decays = {};  ///< which parameters weight decay is for; empty: all

  static constexpr const char* kWhere = "kfac::RmsProp";

  struct Values {
    S learning_rate, smoothing, epsilon, momentum, weight_decay;
    bool decoupled;
    S gradient_clip;
  };
  /// What the schedules give at a step. \throws OptionError
  Values at(Index step) const {
    return {detail::scheduled_positive(learning_rate, step, kWhere, "learning_rate"),
            detail::scheduled_decay(smoothing, step, kWhere, "smoothing"),
            detail::scheduled_positive(epsilon, step, kWhere, "epsilon"),
            detail::scheduled_decay(momentum, step, kWhere, "momentum"),
            detail::scheduled_non_negative(weight_decay, step, kWhere, "weight_decay"),
            decoupled,
            detail::scheduled_non_negative(gradient_clip, step, kWhere, "gradient_clip")};
  }
  void validate() const { at(0); }
};

/// RMSProp as torch.optim.RMSprop: s <- smoothing s + (1 - smoothing) g^2, then
/// v <- momentum v + g / (sqrt(s) + epsilon), then theta <- theta - lr v. The model must outlive it
/// and stay where it is.
/// \source Tieleman and Hinton 2012, Neural networks for machine learning, lecture 6.5
template <RealScalar S>
class RmsProp : public detail::GradientRule<RmsProp<S>, S, RmsPropOptions<S>> {
  using Base = detail::GradientRule<RmsProp<S>, S, RmsPropOptions<S>>;
  friend Base;

 public:
  static constexpr const char* kName = "RmsProp";

  /// \throws OptionError
  template <class Model>
  explicit RmsProp(Model& model, RmsPropOptions<typename Model::Scalar> options = {})
      : Base(model, std::move(options)),
        square_(this->zeros()),
        next_square_(square_),
        velocity_(square_),
        next_velocity_(square_) {}

 private:
  void propose(const typename RmsPropOptions<S>::Values& now, VectorMap<S>& delta) {
    this->report().momentum = now.momentum;
    next_square_ = now.smoothing * square_ + (S(1) - now.smoothing) * delta.cwiseAbs2();
    next_velocity_ = now.momentum * velocity_ +
                     (delta.array() / (next_square_.array().sqrt() + now.epsilon)).matrix();
    delta = -now.learning_rate * next_velocity_;
  }
  void accept() {
    square_.swap(next_square_);
    velocity_.swap(next_velocity_);
  }
  void visit_memory(StateVisitor& visitor) {
    visitor.visit("square", square_);
    visitor.visit("velocity", velocity_);
  }

  Vector<S> square_, next_square_, velocity_, next_velocity_;
};

template <class Model>
explicit RmsProp(Model&) -> RmsProp<typename Model::Scalar>;
template <class Model>
RmsProp(Model&, RmsPropOptions<typename Model::Scalar>) -> RmsProp<typename Model::Scalar>;

}  // namespace kfac
