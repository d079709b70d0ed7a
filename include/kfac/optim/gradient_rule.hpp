#pragma once

#include <optional>
#include <utility>

#include <kfac/core/schedule.hpp>
#include <kfac/core/state.hpp>
#include <kfac/optim/lap_clock.hpp>
#include <kfac/optim/parameter_step.hpp>

namespace kfac::detail {

/// What the classical optimizers share: all but their rule. `OptionsType::at(step)` gives the
/// options' values at a step, with at least `learning_rate`, `weight_decay`, `decoupled` and
/// `gradient_clip`, or throws OptionError. `Derived` has
///
/// - `propose(values, delta)`: makes a step of the gradient (clipped, with coupled weight decay);
/// - `accept()`: remembers what it proposed, since the step was taken;
/// - `visit_memory(visitor)`: what it remembers.
template <class Derived, RealScalar S, class OptionsType>
class GradientRule {
 public:
  using Scalar = S;
  using Options = OptionsType;

  /// Steps along the model's gradient, as the last backward pass (and whatever was done to the
  /// gradient since) left it. The loss, where it is given, is checked and reported; so are the
  /// seconds that came before. \throws OptionError for what a schedule gives: all is then as it was
  const StepReport<S>& step(std::optional<S> loss = {}, const StepSeconds& before = {}) {
    const auto values = options_.at(steps_);
    LapClock clock;
    take(values, loss);
    StepReport<S>& report = step_.report();
    report.seconds = before;
    report.seconds.update = clock.lap();
    return report;
  }

  const Options& options() const { return options_; }
  /// For schedules made by hand. \throws OptionError
  void set_learning_rate(Schedule<S> learning_rate) {
    scheduled_positive(learning_rate, steps_, Options::kWhere, "learning_rate");
    options_.learning_rate = std::move(learning_rate);
  }

  /// How many steps were taken: where the schedules are.
  Index steps() const { return steps_; }

  void visit_state(StateVisitor& visitor) {
    visitor.visit("steps", steps_);
    derived().visit_memory(visitor);
  }

 protected:
  template <class Model>
  GradientRule(Model& model, Options options) : options_(std::move(options)), step_(model) {
    options_.validate();
    step_.set_decayed(options_.decays);
  }

  Vector<S> zeros() { return Vector<S>::Zero(step_.delta().size()); }
  StepReport<S>& report() { return step_.report(); }

 private:
  Derived& derived() { return static_cast<Derived&>(*this); }

  template <class Values>
  void take(const Values& values, std::optional<S> loss) {
    if (!step_.begin(loss, steps_)) return;
    step_.report().learning_rate = values.learning_rate;
    VectorMap<S>& delta = step_.delta();
    delta = step_.clip(values.gradient_clip) * step_.gradient();
    if (!values.decoupled) step_.add_parameters(values.weight_decay, delta);
    derived().propose(values, delta);
    if (values.decoupled) step_.add_parameters(-values.learning_rate * values.weight_decay, delta);
    if (!step_.finish()) return;
    derived().accept();
    ++steps_;
  }

  Options options_;
  ParameterStep<S> step_;
  Index steps_ = 0;
};

}  // namespace kfac::detail
