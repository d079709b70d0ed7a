#pragma once

#include <string>
#include <utility>
#include <vector>

#include <kfac/core/schedule.hpp>
#include <kfac/core/state.hpp>
#include <kfac/data/slices.hpp>
#include <kfac/optim/train_step.hpp>

namespace kfac {

/// A classical optimizer (`Sgd`, `Adam`, `AdamW`, `RmsProp`) that takes batches, as `KfacOptimizer`
/// does: either can stand where the other does.
///
///     auto optimizer = kfac::make_optimizer<kfac::Adam>(model, loss, {.learning_rate = 1e-3f});
///     for (const auto& [x, y] : kfac::batches(train, 64, rng)) optimizer.step(x, y);
///
/// The model must outlive it and stay where it is.
template <template <class> class Rule, class Model, Loss LossType>
class GradientOptimizer {
 public:
  using Scalar = typename Model::Scalar;
  using Options = typename Rule<Scalar>::Options;
  using Slices = std::vector<Slice<Scalar, typename LossType::Targets>>;

  /// \throws OptionError
  GradientOptimizer(Model& model, const LossType& loss, Options options = {})
      : model_(model), loss_(loss), rule_(model, std::move(options)) {}

  /// One step on a batch: inputs `features x batch`, and targets as the loss takes them.
  /// \throws ShapeError or ValueError if the batch is empty, does not fit or is not finite;
  ///         OptionError for what a schedule gives: parameters and state are then as they were
  const StepReport<Scalar>& step(const ConstMatrixRef<Scalar>& x,
                                 const typename LossType::TargetsRef& y) {
    return train_step(model_, loss_, rule_, x, y);
  }
  /// The same where an example has that shape.
  const StepReport<Scalar>& step(const ConstMatrixRef<Scalar>& x,
                                 const typename LossType::TargetsRef& y, const Shape& shape) {
    return train_step(model_, loss_, rule_, x, y, shape);
  }
  /// One step on a batch that comes in slices, which are passed through the network one by one: the
  /// step is that of all of it at once, to rounding (gradient accumulation).
  const StepReport<Scalar>& step(const Slices& slices) {
    if (slices.empty())
      raise<ShapeError>("kfac::GradientOptimizer::step: 'slices' is empty, expected at least one");
    StepSeconds seconds;
    detail::LapClock clock;
    const NoTracking<Model> untracked(model_);
    VectorMap<Scalar> gradient = model_.gradient();
    sum_.setZero(gradient.size());
    Scalar total = 0;   // of the criterion, over all slices
    Scalar factor = 0;  // of the loss of all slices
    for (const auto& slice : slices) {
      const ConstMatrixMap<Scalar> outputs = model_.forward(slice.inputs, slice.shape);
      const Scalar own_factor = loss_.scale(outputs.rows(), outputs.cols());
      MatrixMap<Scalar> grad_output =
          model_.workspace().grad_output.map(outputs.rows(), outputs.cols());
      total += value_and_gradient(loss_, outputs, slice.targets, grad_output) / own_factor;
      // The factors of means are one over how many they average; that of sums is one for all.
      const bool averages = loss_.scale(outputs.rows(), 2) < loss_.scale(outputs.rows(), 1);
      factor = averages && factor > 0 ? 1 / (1 / factor + 1 / own_factor) : own_factor;
      seconds.forward += clock.lap();
      model_.backward(grad_output);
      sum_ += gradient / own_factor;
      seconds.gradient += clock.lap();
    }
    gradient = factor * sum_;
    return rule_.step(factor * total, seconds);
  }

  const Options& options() const { return rule_.options(); }
  /// For schedules made by hand. \throws OptionError
  void set_learning_rate(Schedule<Scalar> learning_rate) {
    rule_.set_learning_rate(std::move(learning_rate));
  }

  /// What steps along gradients that are computed elsewhere.
  Rule<Scalar>& rule() { return rule_; }

  void visit_state(StateVisitor& visitor) { rule_.visit_state(visitor); }

  /// One line a layer that has parameters: its name, kind and how it is stepped.
  std::string summary() const {
    std::string text;
    for (const LayerView<Scalar>& layer : model_.layers())
      if (layer.parameters.size() > 0)
        text += layer.name + "  " + layer.kind + "  " + std::to_string(layer.parameters.size()) +
                " parameters  " + Rule<Scalar>::kName + '\n';
    return text;
  }

 private:
  Model& model_;
  LossType loss_;
  Rule<Scalar> rule_;
  Vector<Scalar> sum_;
};

/// A `GradientOptimizer` whose types are those of its arguments.
template <template <class> class Rule, class Model, Loss LossType>
GradientOptimizer<Rule, Model, LossType> make_optimizer(
    Model& model, const LossType& loss,
    typename Rule<typename Model::Scalar>::Options options = {}) {
  return {model, loss, std::move(options)};
}

}  // namespace kfac
