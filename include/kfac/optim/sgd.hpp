#pragma once

#include <utility>

#include <kfac/optim/gradient_rule.hpp>

namespace kfac {

/// Each number is a constant or a schedule.
template <RealScalar S>
struct SgdOptions {
  Schedule<S> learning_rate = S(1e-3);  ///< > 0, finite
  Schedule<S> momentum = S(0);          ///< in [0, 1)
  bool nesterov = false;                ///< needs momentum > 0
  Schedule<S> weight_decay = S(0);      ///< >= 0; times the parameters is added to the gradient
  /// Weight decay times learning rate and parameters is taken off the parameters instead.
  /// \source Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 1
  bool decoupled = false;
  Schedule<S> gradient_clip = S(0);   ///< largest norm of the whole gradient; >= 0, 0: any
  ParameterPredicate<S> decays = {};  ///< which parameters weight decay is for; empty: all

  static constexpr const char* kWhere = "kfac::Sgd";

  struct Values {
    S learning_rate, momentum;
    bool nesterov;
    S weight_decay;
    bool decoupled;
    S gradient_clip;
  };
  /// What the schedules give at a step. \throws OptionError
  Values at(Index step) const {
    const Values values{
        detail::scheduled_positive(learning_rate, step, kWhere, "learning_rate"),
        detail::scheduled_decay(momentum, step, kWhere, "momentum"),
        nesterov,
        detail::scheduled_non_negative(weight_decay, step, kWhere, "weight_decay"),
        decoupled,
        detail::scheduled_non_negative(gradient_clip, step, kWhere, "gradient_clip")};
    if (nesterov)
      detail::scheduled(
          momentum, step, kWhere, "momentum", [](S value) { return value > 0; },
          "> 0 with nesterov");
    return values;
  }
  void validate() const { at(0); }
};

/// Stochastic gradient descent as torch.optim.SGD: v <- momentum v + g, then theta <- theta - lr v
/// (Nesterov: theta - lr (g + momentum v)). The model must outlive it and stay where it is.
template <RealScalar S>
class Sgd : public detail::GradientRule<Sgd<S>, S, SgdOptions<S>> {
  using Base = detail::GradientRule<Sgd<S>, S, SgdOptions<S>>;
  friend Base;

 public:
  static constexpr const char* kName = "Sgd";

  /// \throws OptionError
  template <class Model>
  explicit Sgd(Model& model, SgdOptions<typename Model::Scalar> options = {})
      : Base(model, std::move(options)), velocity_(this->zeros()), next_velocity_(velocity_) {}

 private:
  void propose(const typename SgdOptions<S>::Values& now, VectorMap<S>& delta) {
    this->report().momentum = now.momentum;
    next_velocity_ = now.momentum * velocity_ + delta;
    if (now.nesterov)
      delta = -now.learning_rate * (delta + now.momentum * next_velocity_);
    else
      delta = -now.learning_rate * next_velocity_;
  }
  void accept() { velocity_.swap(next_velocity_); }
  void visit_memory(StateVisitor& visitor) { visitor.visit("velocity", velocity_); }

  Vector<S> velocity_, next_velocity_;
};

template <class Model>
explicit Sgd(Model&) -> Sgd<typename Model::Scalar>;
template <class Model>
Sgd(Model&, SgdOptions<typename Model::Scalar>) -> Sgd<typename Model::Scalar>;

}  // namespace kfac
