#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <kfac/data/slices.hpp>
#include <kfac/optim/kfac_memory.hpp>
#include <kfac/optim/kfac_step.hpp>
#include <kfac/optim/summary.hpp>

namespace kfac {

/// Trains a model with K-FAC: natural-gradient steps with the damped Kronecker-factored Fisher of
/// the loss.
///
///     kfac::KfacOptimizer optimizer(model, loss, {.learning_rate = 0.5f, .damping = 1e-2f});
///     for (const auto& [x, y] : kfac::batches(train, 64, rng)) optimizer.step(x, y);
///
/// One step: v = (F + (damping + weight_decay) I)^-1 (gradient + weight_decay parameters), scaled
/// by min(1, sqrt(kl_clip / (learning_rate^2 v^T g))); change <- momentum change - learning_rate v.
/// `KfacOptions` says what can be otherwise; the optimizer of Martens and Grosse is
///
///     kfac::KfacOptimizer optimizer(model, loss, {.adaptive_learning_rate = true,
///                                                 .adaptive_momentum = true,
///                                                 .damping = 150.0f,
///                                                 .damping_adaptation = {.every = 5},
///                                                 .gamma_search = {.every = 20},
///                                                 .inverse_every = 20,
///                                                 .rejection = {.enabled = true, .shrinks = 5},
///                                                 .weight_decay = 1e-5f});
///
/// where the rejection is ours: it saves the rare step about which the quadratic model is wrong.
///
/// Layers without curvature have v = g, a plain gradient step; `summary()` lists them. The last
/// argument picks other kinds of blocks than `KroneckerBlock`, for each layer (`block_factory`).
/// The model must outlive the optimizer and stay where it is.
/// \source Martens and Grosse 2015, arXiv 1503.05671
template <class Model, Loss LossType>
class KfacOptimizer {
 public:
  using Scalar = typename Model::Scalar;
  using Options = KfacOptions<Scalar>;
  using Slices = std::vector<Slice<Scalar, typename LossType::Targets>>;

  /// \throws OptionError
  KfacOptimizer(Model& model, const LossType& loss,
                KfacOptions<typename Model::Scalar> options = {},
                const BlockFactory<typename Model::Scalar>& blocks = default_blocks<Model>())
      : options_((options.validate(), std::move(options))),
        step_(model, loss, options_, blocks),
        damping_(step_.values().damping),
        gamma_(std::sqrt(full_damping())) {}
  ~KfacOptimizer() = default;
  KfacOptimizer(const KfacOptimizer&) = delete;
  KfacOptimizer& operator=(const KfacOptimizer&) = delete;

  /// One step on a batch: inputs `features x batch`, and targets as the loss takes them. It works
  /// in the network's memory: afterwards `gradient()` of the network is the change that was made,
  /// and another `backward` or `tangent` wants a forward pass before it. \throws ShapeError or
  /// ValueError if the batch is empty, does not fit or is not finite;
  ///         OptionError if a schedule gives a value out of its range; SingularError without
  ///         damping: parameters and state are then as they were
  const StepReport<Scalar>& step(const ConstMatrixRef<Scalar>& x,
                                 const typename LossType::TargetsRef& y) {
    return step(x, y, Shape{x.rows()});
  }
  /// The same where an example has that shape.
  const StepReport<Scalar>& step(const ConstMatrixRef<Scalar>& x,
                                 const typename LossType::TargetsRef& y, const Shape& shape) {
    const Part part{x, shape, y};
    return step_on(std::span<const Part>(&part, 1));
  }
  /// One step on a batch that comes in slices, which are passed through the network one by one: the
  /// step is that of all of it at once, to rounding (gradient accumulation).
  const StepReport<Scalar>& step(const Slices& slices) {
    parts_.clear();
    for (const auto& slice : slices) parts_.push_back({slice.inputs, slice.shape, slice.targets});
    return step_on(parts_);
  }

  /// Looks for the damping to start with: as if steps were taken on one batch, which are taken back
  /// again, the damping is adapted until it would stay, turn back, or leave its bounds. Returns it.
  /// The batch counts in the running averages as that of a step. Where the loss, the gradient or a
  /// step is not finite the damping stays, or rises.
  /// \throws StateError without `damping_adaptation`; as `step`
  Scalar calibrate_damping(const ConstMatrixRef<Scalar>& x,
                           const typename LossType::TargetsRef& y) {
    if (options_.damping_adaptation.every == 0)
      raise<StateError>(
          "kfac::KfacOptimizer::calibrate_damping: 'damping_adaptation' is off, expected every > "
          "0");
    const ParallelScope parallel(preconditioner().pool());
    const Part part{x, Shape{x.rows()}, y};
    if (!measure(std::span<const Part>(&part, 1))) return damping_;
    Scalar last_change = 0;
    constexpr int kMostTrials = 200;
    for (int trial = 0; trial < kMostTrials; ++trial) {
      const Scalar before = damping_;
      step_.restore_gradient();
      if (!step_.redamp(full_damping())) break;
      step_.precondition(full_damping());
      const Scalar rho = step_.change_parameters(damping_, true)
                             ? step_.evaluate()
                             : std::numeric_limits<Scalar>::quiet_NaN();
      step_.take_back();
      damping_ = options_.damping_adaptation.adapted(damping_, rho);
      const Scalar change = damping_ - before;
      if (change == 0 || change * last_change < 0) break;
      last_change = change;
    }
    gamma_ = std::sqrt(full_damping());
    step_.redamp(gamma_ * gamma_);
    return damping_;
  }

  const Options& options() const { return options_; }
  /// As it is now, adapted or not.
  Scalar damping() const { return damping_; }
  /// For schedules made by hand: instead of what the options say. \throws OptionError
  void set_learning_rate(Scalar learning_rate) {
    change([=](Options& options) { options.learning_rate = learning_rate; });
  }
  void set_damping(Scalar damping) {
    change([=](Options& options) { options.damping = damping; });
    preconditioner().set_damping(damping);
    damping_ = damping;
    gamma_ = std::sqrt(full_damping());
  }
  /// How many steps were taken, rejected ones and those of the burn-in among them.
  Index steps() const { return steps_; }

  /// The factors and blocks.
  Preconditioner<Scalar>& preconditioner() { return step_.preconditioner(); }
  const TwoLevel<Scalar>& two_level() const { return step_.two_level(); }

  /// A table of the layers that have parameters: how each is stepped, and what that costs.
  std::string summary() const { return table() + text_of(memory()); }
  /// The same with all memory of training on batches of so many examples.
  /// \throws as `memory`
  std::string summary(Index batch) const { return table() + text_of(memory(batch)); }
  std::string summary(Index batch, const Shape& shape) const {
    return table() + text_of(memory(batch, shape));
  }

  /// What training on batches of so many examples takes, as far as it grows with the network or the
  /// batch: the batch itself comes on top. Where the first layer does not say it, the shape of an
  /// example must be given.
  /// \throws OptionError unless batch >= 1; ShapeError if the network cannot take the shape, or if
  ///         it is needed
  TrainingMemory memory(Index batch) const { return memory(batch, shape_of_example(step_)); }
  TrainingMemory memory(Index batch, const Shape& shape) const {
    return training_memory(step_, batch, shape);
  }
  /// What of it does not depend on the batch, once some steps were taken.
  TrainingMemory memory() const { return training_memory(step_); }

  /// Everything that steps change but the model: for a run to be resumed as if it had not stopped.
  void visit_state(StateVisitor& visitor) {
    visitor.visit("steps", steps_);
    visitor.visit("damping", damping_);
    visitor.visit("gamma", gamma_);
    step_.visit_state(visitor);
  }

 private:
  using Part = typename KfacStep<Model, LossType>::Part;

  const StepReport<Scalar>& step_on(std::span<const Part> parts) {
    const ParallelScope parallel(preconditioner().pool());
    StepReport<Scalar>& report = step_.report();
    if (!measure(parts)) return report;
    if (steps_ < options_.burn_in) {
      report.burn_in = true;
      return end_step();
    }
    const bool adapts = options_.damping_adaptation.is_due(steps_);
    precondition_or_search();
    if (!step_.change_parameters(damping_, adapts)) return fail(StepStatus::NonFiniteStep);
    const Scalar rho = adapts || options_.rejection.enabled ? step_.evaluate() : Scalar(0);
    if (options_.rejection.enabled) step_.shorten_or_take_back();
    step_.accept();
    if (adapts) damping_ = options_.damping_adaptation.adapted(damping_, rho);
    if (report.rejected && options_.damping_adaptation.every > 0)
      damping_ =
          std::min(damping_ * options_.rejection.damping_factor, options_.damping_adaptation.max);
    return end_step();
  }

  /// Loss, gradient and curvature of a batch, with the damping there is or is scheduled. False if
  /// the step ends there.
  bool measure(std::span<const Part> parts) {
    step_.begin(parts, steps_);
    const bool is_finite = step_.differentiate();
    if (options_.damping_adaptation.every == 0) damping_ = step_.values().damping;
    if (!is_finite) return step_.finish().ok();
    step_.report().damping = damping_;
    if (options_.gamma_search.every == 0) gamma_ = std::sqrt(full_damping());
    const StepStatus status = step_.update(gamma_ * gamma_);
    return status == StepStatus::Ok || fail(status).ok();
  }

  /// With the gamma there is, or the best of three if it is time to look.
  void precondition_or_search() {
    if (options_.gamma_search.is_due(steps_)) {
      Scalar best = gamma_;
      double least = std::numeric_limits<double>::infinity();
      for (const Scalar candidate : options_.gamma_search.candidates(gamma_)) {
        step_.restore_gradient();
        if (!step_.redamp(candidate * candidate)) continue;
        step_.precondition(candidate * candidate);
        const double change = step_.damped_change(damping_);
        if (!(change < least)) continue;
        least = change;
        best = candidate;
      }
      gamma_ = best;
      step_.restore_gradient();
      step_.redamp(gamma_ * gamma_);
    }
    step_.precondition(gamma_ * gamma_);
  }

  /// The damping of the curvature of the loss, of which weight decay is a part.
  Scalar full_damping() const { return damping_ + step_.coupled_decay(); }

  /// A damping that is adapted rises where it was too small for this precision, and gamma with it.
  const StepReport<Scalar>& fail(StepStatus status) {
    const bool from_damping =
        status == StepStatus::NonFiniteStep || status == StepStatus::FactorizationFailed;
    if (from_damping && options_.damping_adaptation.every > 0)
      damping_ = options_.damping_adaptation.adapted(damping_, StepReport<Scalar>::kNone);
    gamma_ = std::max(gamma_, std::sqrt(full_damping()));
    step_.report().status = status;
    return step_.finish();
  }
  const StepReport<Scalar>& end_step() {
    preconditioner().advance();
    ++steps_;
    return step_.finish();
  }

  std::string table() const {
    return kfac::summary(step_.layers(), step_.preconditioner().layers(), step_.rates().groups());
  }

  template <class Change>
  void change(Change apply) {
    Options changed = options_;
    apply(changed);
    changed.validate();
    apply(options_);  // not replaced: its groups are referred to
  }

  Options options_;
  KfacStep<Model, LossType> step_;
  std::vector<Part> parts_;  // of a batch in slices
  Scalar damping_;
  Scalar gamma_;
  Index steps_ = 0;
};

}  // namespace kfac
