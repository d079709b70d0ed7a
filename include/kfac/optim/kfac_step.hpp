#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include <kfac/optim/batch_objective.hpp>
#include <kfac/optim/kfac_options.hpp>
#include <kfac/optim/layer_rates.hpp>

namespace kfac {

/// The parts of a K-FAC step, which `KfacOptimizer` takes one by one: `begin`, `differentiate`,
/// `update`, `precondition`, `change_parameters`, then perhaps `evaluate` and
/// `shorten_or_take_back`, `accept`, `finish`. All that concerns one batch is here; what is decided
/// from step to step, the damping above all, is an argument.
template <class Model, Loss LossType>
class KfacStep {
 public:
  using S = typename Model::Scalar;
  using Options = KfacOptions<S>;
  using Objective = BatchObjective<Model, LossType>;
  using Part = typename Objective::Part;

  /// Options and model must outlive it and stay where they are.
  KfacStep(Model& model, const LossType& loss, const Options& options,
           const BlockFactory<S>& blocks)
      : model_(model),
        loss_(loss),
        options_(options),
        values_(options.at(0)),
        preconditioner_(model, options.preconditioner(), blocks),
        two_level_(model.layers(), preconditioner_.layers(), options.two_level),
        objective_(model_, loss_),
        parameters_(model, ParameterStep<S>::Delta::InGradient),
        rates_(parameters_.layers(), options.groups),
        memory_(options.momentum_type, parameters_.delta().size(),
                {options.uses_velocity(), !options.decoupled_weight_decay}),
        rng_(options.seed),
        drawn_(rng_) {
    parameters_.set_decayed(options.decays);
    for (const LayerView<S>& layer : parameters_.layers()) {
      const auto& curvatures = preconditioner_.layers();
      const auto found = std::ranges::find_if(curvatures, [&](const auto& curvature) {
        return curvature->layer().gradient.data() == layer.gradient.data() &&
               layer.gradient.size() > 0;
      });
      curvature_of_layer_.push_back(static_cast<std::size_t>(found - curvatures.begin()));
    }
  }
  ~KfacStep() = default;
  KfacStep(const KfacStep&) = delete;
  KfacStep& operator=(const KfacStep&) = delete;

  const Model& model() const { return model_; }
  const Options& options() const { return options_; }
  /// What the options are at this step.
  const typename Options::Values& values() const { return values_; }
  Preconditioner<S>& preconditioner() { return preconditioner_; }
  const Preconditioner<S>& preconditioner() const { return preconditioner_; }
  const TwoLevel<S>& two_level() const { return two_level_; }
  const LayerRates<S>& rates() const { return rates_; }
  const MomentumRule<S>& memory() const { return memory_; }
  const std::vector<LayerView<S>>& layers() const { return parameters_.layers(); }
  StepReport<S>& report() { return parameters_.report(); }

  /// The weight decay that is part of the loss.
  S coupled_decay() const { return options_.decoupled_weight_decay ? S(0) : values_.weight_decay; }

  /// Starts the step after `index` others, on a batch that comes in parts.
  /// \throws OptionError for what a schedule gives; ShapeError if there are no parts
  void begin(std::span<const Part> parts, Index index) {
    static constexpr const char* kWhere = "kfac::KfacOptimizer";
    const auto values = options_.at(index);
    rates_.set_step(kWhere, index);
    preconditioner_.begin_step();
    values_ = values;
    index_ = index;
    seconds_ = {};
    clock_ = {};
    objective_.set(parts);
    preconditioner_.discard();
    drawn_ = rng_;
  }

  /// Loss and gradient, with weight decay; on the way takes in what the curvature is made of. False
  /// if the loss or the gradient is not finite, which ends the step.
  /// \throws ShapeError, ValueError if a part of the batch is empty, does not fit or is not finite
  bool differentiate() {
    const S loss = objective_.differentiate(
        preconditioner_, {options_.fisher, options_.samples, options_.passes_once()}, drawn_,
        seconds_);
    clock_ = {};
    if (!parameters_.begin(loss, index_)) return false;
    parameters_.add_parameters(coupled_decay(), parameters_.gradient());
    if (options_.uses_quadratic_model()) raw_gradient_ = parameters_.gradient();
    lap(seconds_.update);
    return true;
  }

  /// Brings running averages, inverses and the coarse space up to date, with that damping. The
  /// status of what it could not, which ends the step. \throws SingularError without damping
  StepStatus update(S damping) {
    const PreconditionerReport& update =
        preconditioner_.update(damping, objective_.curvature_scale());
    lap(seconds_.factors);
    seconds_.factors -= update.inverse_seconds;
    seconds_.inverses += update.inverse_seconds;
    if (!update.ok()) {
      report().layer = update.layer;
      return update.status;
    }
    rng_ = drawn_;
    rates_.stop_frozen(parameters_, memory_);
    update_coarse_space();
    lap(seconds_.factors);
    return StepStatus::Ok;
  }

  /// Gives all inverses another damping; false if one cannot be made.
  bool redamp(S damping) {
    const bool done = preconditioner_.redamp(damping);
    lap(seconds_.inverses);
    return done;
  }

  /// The gradient as it was before `precondition`. \pre options().uses_quadratic_model()
  void restore_gradient() { parameters_.gradient() = raw_gradient_; }

  /// Preconditions the gradient as it is in the model, with the given damping of the curvature.
  void precondition(S damping) {
    VectorMap<S>& v = parameters_.gradient();
    const S clip = parameters_.clip(values_.gradient_clip);
    if (clip != 1) {
      v *= clip;
      parameters_.add_parameters((1 - clip) * coupled_decay(), v);  // of the loss's gradient alone
    }
    memory_.before(v, values_.momentum);
    if (options_.two_level.space == CoarseSpace::None)
      precondition_by_layers();
    else
      precondition_by_two_levels(damping);
    memory_.after(v, values_.momentum, values_.second_moment_decay, values_.epsilon);
    rates_.scale(parameters_, v);  // only now: a division by the root of squares would take it back
    report().preconditioner_damping = damping;
    lap(seconds_.precondition);
  }

  /// What the quadratic model with that damping expects of a step by the preconditioned gradient.
  double damped_change(S damping) {
    const QuadraticModel model = quadratic_model();
    return model.damped_change(coefficients(model, damping), static_cast<double>(damping));
  }

  /// Makes the change of the parameters of the preconditioned gradient, and changes them. Damping:
  /// the quadratic model's, where that decides. `predict`: report what it says of the change. False
  /// if the change is not finite.
  bool change_parameters(S damping, bool predict) {
    S rate = values_.learning_rate;
    S momentum = values_.momentum;
    report().kl_scale = kl_scale(rate);
    if (options_.adaptive_learning_rate || options_.adaptive_momentum) {
      const QuadraticModel model = quadratic_model();
      const Eigen::Vector2d w = coefficients(model, damping);
      if (options_.adaptive_learning_rate) rate = static_cast<S>(-w(0));
      if (options_.adaptive_momentum) momentum = static_cast<S>(w(1));
      report().predicted_change = static_cast<S>(model.change(w));
      predict = false;
    }
    report().learning_rate = rate;
    report().momentum = momentum;
    VectorMap<S>& delta = parameters_.delta();
    memory_.change(parameters_.gradient(), rate * report().kl_scale, momentum, delta);
    report().norm_scale = scale_of_change_ = norm_scale(delta);
    if (scale_of_change_ != 1) delta *= scale_of_change_;
    if (options_.decoupled_weight_decay) {
      direction_.setZero(delta.size());
      parameters_.add_parameters(-rate * values_.weight_decay, direction_);
      rates_.scale(parameters_, direction_);
      delta += direction_;
    }
    // What was found along two directions holds for the step that is made of them alone.
    const bool is_other = scale_of_change_ != 1 || options_.decoupled_weight_decay;
    predict = predict || (is_other && !std::isnan(report().predicted_change));
    old_loss_ = report().loss + half_decay();
    lap(seconds_.update);
    if (predict)
      report().predicted_change = static_cast<S>(model_along(delta, nullptr).change({1.0, 0.0}));
    if (options_.may_take_back()) parameters_.remember_parameters();
    const bool finite = parameters_.finish();
    lap(seconds_.update);
    return finite;
  }

  /// The loss after the step, into the report; returns rho, if there was a prediction.
  S evaluate() {
    report().new_loss = objective_.value();
    report().reduction_ratio =
        reduction_ratio(report().new_loss + half_decay() - old_loss_, report().predicted_change);
    lap(seconds_.evaluation);
    return report().reduction_ratio;
  }

  /// Puts the parameters back. \pre options().may_take_back()
  void take_back() { parameters_.take_back(); }

  /// Shortens the step while the loss is higher than before, and in the end takes it back, as
  /// `options().rejection` says.
  void shorten_or_take_back() {
    const auto improved = [&] { return report().new_loss + half_decay() <= old_loss_; };
    while (!improved()) {
      take_back();
      if (report().shrinks == options_.rejection.shrinks) {
        report().rejected = true;
        report().step_norm = 0;
        std::ranges::fill(report().layer_step_norms, S(0));
        return;
      }
      ++report().shrinks;
      parameters_.delta() *= options_.rejection.shrink;
      scale_of_change_ *= options_.rejection.shrink;
      parameters_.finish();
      report().new_loss = objective_.value();
      lap(seconds_.evaluation);
    }
  }

  /// Takes the change into the momentum, or ends it where the change was taken back.
  void accept() {
    if (report().rejected)
      memory_.stop(0, parameters_.delta().size());  // or it would go uphill again
    else
      memory_.accept(scale_of_change_, parameters_.delta());
  }

  const StepReport<S>& finish() {
    lap(seconds_.update);
    report().seconds = seconds_;
    return report();
  }

  void visit_state(StateVisitor& visitor) {
    visitor.visit("coarse_due", coarse_due_);
    visitor.visit("rng", rng_);
    visitor.in("momentum", memory_);
    visitor.in("preconditioner", preconditioner_);
    visitor.in("two_level", two_level_);
  }

 private:
  void update_coarse_space() {
    if (options_.two_level.space == CoarseSpace::None || index_ < coarse_due_) return;
    two_level_.refresh_space();
    for (std::size_t part = 0; part < objective_.parts(); ++part) {
      objective_.load(part);
      two_level_.add(model_, loss_, objective_.scale());
    }
    two_level_.commit();
    coarse_due_ = index_ + preconditioner_.values().inverse_every;
  }

  void precondition_by_layers() {
    if (!clips_kl()) return preconditioner_.precondition();
    preconditioner_.precondition_with_dots(dots_);
    decrease_ = 0;
    rates_.for_each_scale(parameters_, [&](std::size_t layer, S scale, Index offset, Index size) {
      const std::size_t curvature = curvature_of_layer_[layer];
      const S dot = curvature < dots_.size()
                        ? dots_[curvature]
                        : parameters_.gradient().segment(offset, size).squaredNorm();
      decrease_ += scale * scale * dot;
    });
  }
  void precondition_by_two_levels(S damping) {
    VectorMap<S>& v = parameters_.gradient();
    seen_gradient_ = v;
    two_level_.precondition(damping, v, [this](const auto&) { preconditioner_.precondition(); });
    decrease_ = 0;
    rates_.for_each_scale(parameters_, [&](std::size_t, S scale, Index offset, Index size) {
      decrease_ +=
          scale * scale * v.segment(offset, size).dot(seen_gradient_.segment(offset, size));
    });
  }

  /// Of the objective along the preconditioned gradient and, with momentum, the last change.
  QuadraticModel quadratic_model() {
    const bool has_last = memory_.has_velocity() && !memory_.velocity().isZero(0) &&
                          (options_.adaptive_momentum || values_.momentum > 0);
    return model_along(parameters_.gradient(), has_last ? &memory_.velocity() : nullptr);
  }
  QuadraticModel model_along(const ConstVectorRef<S>& first, const Vector<S>* second) {
    QuadraticModel model =
        objective_.model(first, second, raw_gradient_, parameters_, coupled_decay());
    lap(seconds_.quadratic_model);
    return model;
  }
  /// Of the two directions: minus the learning rate, and the momentum.
  Eigen::Vector2d coefficients(const QuadraticModel& model, S damping) const {
    std::optional<double> rate, momentum;
    if (!options_.adaptive_learning_rate)
      rate = -static_cast<double>(values_.learning_rate * kl_scale(values_.learning_rate));
    if (!options_.adaptive_momentum) momentum = static_cast<double>(values_.momentum);
    return model.minimum(static_cast<double>(damping), rate, momentum);
  }

  bool clips_kl() const {
    const bool is_natural = options_.momentum_type != MomentumType::Adam &&
                            options_.momentum_type != MomentumType::RmsProp;
    return !options_.adaptive_learning_rate && is_natural && values_.kl_clip > 0;
  }
  S kl_scale(S rate) const {
    if (!clips_kl()) return 1;
    if (!(rate * rate * decrease_ > values_.kl_clip)) return 1;
    return std::sqrt(values_.kl_clip / decrease_) / rate;
  }

  /// By how much the norm constraint shortens a change.
  S norm_scale(const VectorMap<S>& delta) {
    if (!(values_.norm_constraint > 0)) return 1;
    direction_ = delta;
    preconditioner_.multiply(direction_);
    const S square = direction_.dot(delta);
    return square > values_.norm_constraint ? std::sqrt(values_.norm_constraint / square) : S(1);
  }

  S half_decay() const {
    const S decay = coupled_decay();
    return decay > 0 ? decay / 2 * parameters_.parameters_squared_norm() : S(0);
  }

  void lap(double& seconds) { seconds += clock_.lap(); }

  Model& model_;
  LossType loss_;
  const Options& options_;
  typename Options::Values values_;
  Preconditioner<S> preconditioner_;
  TwoLevel<S> two_level_;
  Objective objective_;
  ParameterStep<S> parameters_;
  LayerRates<S> rates_;
  MomentumRule<S> memory_;
  Rng rng_, drawn_;          // what is drawn counts once it has gone into the factors
  Vector<S> raw_gradient_;   // with weight decay, before anything is done to it
  Vector<S> seen_gradient_;  // what was preconditioned, by two levels
  std::vector<std::size_t> curvature_of_layer_;  // its index in the preconditioner, or past its end
  std::vector<S> dots_;  // of each of those: what was preconditioned with what it became
  Vector<S> direction_;
  S decrease_ = 0;  // v^T of what was preconditioned
  S scale_of_change_ = 1;
  S old_loss_ = 0;  // with weight decay
  Index index_ = 0;
  Index coarse_due_ = 0;
  StepSeconds seconds_;
  detail::LapClock clock_;
};

}  // namespace kfac
