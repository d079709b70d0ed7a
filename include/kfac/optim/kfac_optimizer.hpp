#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <kfac/data/slices.hpp>
#include <kfac/optim/batch_objective.hpp>
#include <kfac/optim/kfac_options.hpp>
#include <kfac/optim/layer_rates.hpp>
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
                const BlockFactory<typename Model::Scalar>& blocks =
                    block_factory<KroneckerBlock<typename Model::Scalar>>())
      : model_(model),
        loss_(loss),
        options_((options.validate(), std::move(options))),
        values_(options_.at(0)),
        preconditioner_(model, options_.preconditioner(), blocks),
        two_level_(model.layers(), preconditioner_.layers(), options_.two_level),
        objective_(model_, loss_),
        step_(model, ParameterStep<Scalar>::Delta::InGradient),
        rates_(step_.layers(), options_.groups),
        memory_(options_.momentum_type, step_.delta().size(),
                {options_.uses_velocity(), !options_.decoupled_weight_decay}),
        rng_(options_.seed),
        damping_(values_.damping),
        gamma_(std::sqrt(damping_ + coupled_decay())) {
    step_.set_decayed(options_.decays);
    for (const LayerView<Scalar>& layer : step_.layers()) {
      const auto& curvatures = preconditioner_.layers();
      const auto found = std::ranges::find_if(curvatures, [&](const auto& curvature) {
        return curvature->layer().gradient.data() == layer.gradient.data() &&
               layer.gradient.size() > 0;
      });
      curvature_of_layer_.push_back(static_cast<std::size_t>(found - curvatures.begin()));
    }
  }
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
    const ParallelScope parallel(preconditioner_.pool());
    const Part part{x, Shape{x.rows()}, y};
    if (!measure(std::span<const Part>(&part, 1))) return damping_;
    Scalar last_change = 0;
    constexpr int kMostTrials = 200;
    for (int trial = 0; trial < kMostTrials; ++trial) {
      const Scalar before = damping_;
      step_.gradient() = raw_gradient_;
      if (!preconditioner_.redamp(damping_ + coupled_decay())) break;
      precondition(damping_ + coupled_decay());
      const Scalar rho = try_step(true) ? evaluate() : std::numeric_limits<Scalar>::quiet_NaN();
      step_.take_back();
      damping_ = options_.damping_adaptation.adapted(damping_, rho);
      const Scalar change = damping_ - before;
      if (change == 0 || change * last_change < 0) break;
      last_change = change;
    }
    gamma_ = std::sqrt(damping_ + coupled_decay());
    preconditioner_.redamp(gamma_ * gamma_);
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
    preconditioner_.set_damping(damping);
    damping_ = damping;
    gamma_ = std::sqrt(damping_ + coupled_decay());
  }
  /// How many steps were taken, rejected ones and those of the burn-in among them.
  Index steps() const { return steps_; }

  /// The factors and blocks.
  Preconditioner<Scalar>& preconditioner() { return preconditioner_; }
  const TwoLevel<Scalar>& two_level() const { return two_level_; }

  /// A table of the layers that have parameters: how each is stepped, and what that costs.
  std::string summary() const {
    return kfac::summary(step_.layers(), preconditioner_.layers(), rates_.groups()) +
           text_of(memory());
  }
  /// The same with all memory of training on batches of so many examples.
  /// \throws as `memory`
  std::string summary(Index batch) const { return summary(batch, shape_of_example()); }
  std::string summary(Index batch, const Shape& shape) const {
    return kfac::summary(step_.layers(), preconditioner_.layers(), rates_.groups()) +
           text_of(memory(batch, shape));
  }

  /// What training on batches of so many examples takes, as far as it grows with the network or the
  /// batch: the batch itself comes on top. Where the first layer does not say it, the shape of an
  /// example must be given.
  /// \throws OptionError unless batch >= 1; ShapeError if the network cannot take the shape, or if
  ///         it is needed
  TrainingMemory memory(Index batch) const { return memory(batch, shape_of_example()); }
  TrainingMemory memory(Index batch, const Shape& shape) const {
    detail::check_option(batch >= 1, "kfac::KfacOptimizer::memory", "batch", batch, ">= 1");
    const WorkspaceSize size =
        model_.workspace_size(shape, batch, {.training = true, .once = passes_once()});
    const Index outputs = model_.output_shape(shape).size() * batch;
    const Index coarse = two_level_.memory_size(outputs) - two_level_.memory_size(0);
    const Index quadratic = options_.uses_quadratic_model() ? 4 * outputs : 0;
    TrainingMemory memory = this->memory();
    memory.activations = bytes(size.activations);
    memory.flow = bytes(size.gradients + outputs + quadratic + coarse);  // the loss's gradient too
    memory.scratch = bytes(size.scratch + scratch_size(batch));
    return memory;
  }

  /// What of it does not depend on the batch, once some steps were taken.
  TrainingMemory memory() const {
    const Index parameters = model_.parameter_count();
    const bool may_take_back = options_.rejection.enabled || options_.damping_adaptation.every > 0;
    const bool has_direction = options_.decoupled_weight_decay || options_.bounds_norm();
    const Index vectors = Index{options_.uses_quadratic_model()} + Index{may_take_back} +
                          Index{has_direction} +
                          Index{options_.two_level.space != CoarseSpace::None};
    TrainingMemory memory;
    memory.parameters = memory.gradient = bytes(parameters);
    memory.optimizer = bytes(memory_.size() + vectors * parameters + two_level_.memory_size(0));
    for (const auto& layer : preconditioner_.layers())
      for (const auto& block : layer->blocks()) {
        const BlockCost cost = block->cost();
        memory.factors += cost.bytes - cost.inverse_bytes;
        memory.inverses += cost.inverse_bytes;
        if (options_.asynchronous_inverses && layer->layer().kronecker)
          memory.inverses +=
              bytes(block->columns() * block->columns() + block->outputs() * block->outputs());
      }
    return memory;
  }

  /// Everything that steps change but the model: for a run to be resumed as if it had not stopped.
  void visit_state(StateVisitor& visitor) {
    visitor.visit("steps", steps_);
    visitor.visit("damping", damping_);
    visitor.visit("gamma", gamma_);
    visitor.visit("coarse_due", coarse_due_);
    visitor.visit("rng", rng_);
    visitor.in("momentum", memory_);
    visitor.in("preconditioner", preconditioner_);
    visitor.in("two_level", two_level_);
  }

 private:
  static constexpr const char* kWhere = "kfac::KfacOptimizer";
  using Part = typename BatchObjective<Model, LossType>::Part;

  const StepReport<Scalar>& step_on(std::span<const Part> parts) {
    const ParallelScope parallel(preconditioner_.pool());
    if (!measure(parts)) return step_.report();
    StepReport<Scalar>& report = step_.report();
    if (steps_ < options_.burn_in) {
      report.burn_in = true;
      return end_step();
    }
    const bool adapts = options_.damping_adaptation.is_due(steps_);
    precondition_or_search();
    if (!try_step(adapts)) return fail(StepStatus::NonFiniteStep);
    const Scalar rho = adapts || options_.rejection.enabled ? evaluate() : Scalar(0);
    if (options_.rejection.enabled) reject_or_shrink();
    if (report.rejected)
      memory_.stop(0, step_.delta().size());  // or it would go uphill again
    else
      memory_.accept(scale_of_change_, step_.delta());
    if (adapts) damping_ = options_.damping_adaptation.adapted(damping_, rho);
    if (report.rejected && options_.damping_adaptation.every > 0)
      damping_ =
          std::min(damping_ * options_.rejection.damping_factor, options_.damping_adaptation.max);
    return end_step();
  }

  /// Loss, gradient and curvature of a batch, into the report, `raw_gradient_` and the running
  /// averages. False if the step ends there.
  bool measure(std::span<const Part> parts) {
    const auto values = options_.at(steps_);
    rates_.set_step(kWhere, steps_);
    preconditioner_.begin_step();
    values_ = values;
    seconds_ = {};
    clock_ = {};

    objective_.set(parts);
    preconditioner_.discard();
    Rng rng = rng_;  // what is drawn counts once it has gone into the factors
    const Scalar loss = objective_.differentiate(
        preconditioner_, {options_.fisher, options_.samples, passes_once()}, rng, seconds_);
    clock_ = {};
    if (options_.damping_adaptation.every == 0) damping_ = values_.damping;
    if (!step_.begin(loss, steps_)) return finish_report().ok();
    StepReport<Scalar>& report = step_.report();
    report.damping = damping_;
    step_.add_parameters(coupled_decay(), step_.gradient());
    if (options_.uses_quadratic_model()) raw_gradient_ = step_.gradient();
    lap(seconds_.update);

    if (options_.gamma_search.every == 0) gamma_ = std::sqrt(damping_ + coupled_decay());
    const PreconditionerReport& update =
        preconditioner_.update(gamma_ * gamma_, objective_.curvature_scale());
    lap(seconds_.factors);
    seconds_.factors -= update.inverse_seconds;
    seconds_.inverses += update.inverse_seconds;
    if (!update.ok()) {
      report.layer = update.layer;
      return fail(update.status).ok();
    }
    rng_ = rng;
    rates_.stop_frozen(step_, memory_);
    update_coarse_space();
    lap(seconds_.factors);
    return true;
  }

  void update_coarse_space() {
    if (options_.two_level.space == CoarseSpace::None || steps_ < coarse_due_) return;
    two_level_.refresh_space();
    for (std::size_t part = 0; part < objective_.parts(); ++part) {
      objective_.load(part);
      two_level_.add(model_, loss_, objective_.scale());
    }
    two_level_.commit();
    coarse_due_ = steps_ + preconditioner_.values().inverse_every;
  }

  Scalar coupled_decay() const {
    return options_.decoupled_weight_decay ? Scalar(0) : values_.weight_decay;
  }

  /// Preconditions the gradient as it is in the model, with the given damping of the curvature.
  void precondition(Scalar damping) {
    VectorMap<Scalar>& v = step_.gradient();
    const Scalar clip = step_.clip(values_.gradient_clip);
    if (clip != 1) {
      v *= clip;
      step_.add_parameters((1 - clip) * coupled_decay(), v);  // of the loss's gradient alone
    }
    memory_.before(v, values_.momentum);
    if (options_.two_level.space == CoarseSpace::None)
      precondition_by_layers();
    else
      precondition_by_two_levels(damping);
    memory_.after(v, values_.momentum, values_.second_moment_decay, values_.epsilon);
    rates_.scale(step_, v);  // only now: a division by the root of squares would take it back
    step_.report().preconditioner_damping = damping;
    lap(seconds_.precondition);
  }

  void precondition_by_layers() {
    if (!clips_kl()) return preconditioner_.precondition();
    preconditioner_.precondition_with_dots(dots_);
    decrease_ = 0;
    rates_.for_each_scale(step_, [&](std::size_t layer, Scalar scale, Index offset, Index size) {
      const std::size_t curvature = curvature_of_layer_[layer];
      const Scalar dot = curvature < dots_.size()
                             ? dots_[curvature]
                             : step_.gradient().segment(offset, size).squaredNorm();
      decrease_ += scale * scale * dot;
    });
  }
  void precondition_by_two_levels(Scalar damping) {
    VectorMap<Scalar>& v = step_.gradient();
    seen_gradient_ = v;
    two_level_.precondition(damping, v, [this](const auto&) { preconditioner_.precondition(); });
    decrease_ = 0;
    rates_.for_each_scale(step_, [&](std::size_t, Scalar scale, Index offset, Index size) {
      decrease_ +=
          scale * scale * v.segment(offset, size).dot(seen_gradient_.segment(offset, size));
    });
  }

  /// Whether the backward pass of the loss's gradient is all that follows its forward pass.
  bool passes_once() const {
    return (options_.fisher == FisherType::Empirical ||
            options_.fisher == FisherType::ForwardOnly) &&
           !options_.uses_quadratic_model() && options_.two_level.space == CoarseSpace::None;
  }

  static double bytes(Index numbers) {
    return static_cast<double>(numbers) * double{sizeof(Scalar)};
  }

  /// \throws ShapeError if the first layer does not say it
  Shape shape_of_example() const {
    const LayerView<Scalar>& first = step_.layers().front();
    if (first.kind != "Linear")
      raise<ShapeError>("kfac::KfacOptimizer::memory: 'shape' is not given, and layer '" +
                        first.name + "' (" + first.kind +
                        ") does not say it, expected the shape of an example");
    return Shape{first.kronecker->inputs};
  }

  /// Of what threads keep for products of matrices with each other and with inverses.
  Index scratch_size(Index batch) const {
    Index products = 0;
    Index inverses = 0;
    for (const auto& layer : preconditioner_.layers())
      for (const auto& block : layer->blocks()) {
        using Triangle = linalg::InverseTriangle<Scalar>;
        const Index columns = block->columns();
        const Index outputs = block->outputs();
        products = std::max(products, linalg::product_scratch_size<Scalar>(
                                          outputs, columns, std::max(batch, columns)));
        inverses = std::max({inverses, Triangle::scratch_size(columns, outputs),
                             Triangle::scratch_size(outputs, columns)});
      }
    const ThreadPool* pool = preconditioner_.pool();
    return products * (pool ? pool->threads() + 1 : 1) + inverses;
  }

  /// With the gamma there is, or the best of three if it is time to look.
  void precondition_or_search() {
    if (options_.gamma_search.is_due(steps_)) {
      Scalar best = gamma_;
      double least = std::numeric_limits<double>::infinity();
      for (const Scalar candidate : options_.gamma_search.candidates(gamma_)) {
        step_.gradient() = raw_gradient_;
        if (!redamp(candidate)) continue;
        precondition(candidate * candidate);
        const QuadraticModel model = quadratic_model();
        const double change =
            model.damped_change(coefficients(model), static_cast<double>(damping_));
        if (!(change < least)) continue;
        least = change;
        best = candidate;
      }
      gamma_ = best;
      step_.gradient() = raw_gradient_;
      redamp(gamma_);
    }
    precondition(gamma_ * gamma_);
  }
  bool redamp(Scalar gamma) {
    const bool done = preconditioner_.redamp(gamma * gamma);
    lap(seconds_.inverses);
    return done;
  }

  /// Of the objective along the preconditioned gradient and, with momentum, the last change.
  QuadraticModel quadratic_model() {
    const bool has_last = memory_.has_velocity() && !memory_.velocity().isZero(0) &&
                          (options_.adaptive_momentum || values_.momentum > 0);
    return model_along(step_.gradient(), has_last ? &memory_.velocity() : nullptr);
  }
  QuadraticModel model_along(const ConstVectorRef<Scalar>& first, const Vector<Scalar>* second) {
    const QuadraticModel model =
        objective_.model(first, second, raw_gradient_, step_, coupled_decay());
    lap(seconds_.quadratic_model);
    return model;
  }
  /// Of the two directions: minus the learning rate, and the momentum.
  Eigen::Vector2d coefficients(const QuadraticModel& model) const {
    std::optional<double> rate, momentum;
    if (!options_.adaptive_learning_rate)
      rate = -static_cast<double>(values_.learning_rate * kl_scale(values_.learning_rate));
    if (!options_.adaptive_momentum) momentum = static_cast<double>(values_.momentum);
    return model.minimum(static_cast<double>(damping_), rate, momentum);
  }

  bool clips_kl() const {
    const bool is_natural = options_.momentum_type != MomentumType::Adam &&
                            options_.momentum_type != MomentumType::RmsProp;
    return !options_.adaptive_learning_rate && is_natural && values_.kl_clip > 0;
  }
  Scalar kl_scale(Scalar rate) const {
    if (!clips_kl()) return 1;
    if (!(rate * rate * decrease_ > values_.kl_clip)) return 1;
    return std::sqrt(values_.kl_clip / decrease_) / rate;
  }

  /// Makes the change of the parameters of the preconditioned gradient, and changes them.
  /// `predict`: report what the quadratic model says of it. False if it is not finite.
  bool try_step(bool predict) {
    StepReport<Scalar>& report = step_.report();
    Scalar rate = values_.learning_rate;
    Scalar momentum = values_.momentum;
    report.kl_scale = kl_scale(rate);
    if (options_.adaptive_learning_rate || options_.adaptive_momentum) {
      const QuadraticModel model = quadratic_model();
      const Eigen::Vector2d w = coefficients(model);
      if (options_.adaptive_learning_rate) rate = static_cast<Scalar>(-w(0));
      if (options_.adaptive_momentum) momentum = static_cast<Scalar>(w(1));
      report.predicted_change = static_cast<Scalar>(model.change(w));
      predict = false;
    }
    report.learning_rate = rate;
    report.momentum = momentum;
    VectorMap<Scalar>& delta = step_.delta();
    memory_.change(step_.gradient(), rate * report.kl_scale, momentum, delta);
    report.norm_scale = scale_of_change_ = norm_scale(delta);
    if (scale_of_change_ != 1) delta *= scale_of_change_;
    if (options_.decoupled_weight_decay) {
      direction_.setZero(delta.size());
      step_.add_parameters(-rate * values_.weight_decay, direction_);
      rates_.scale(step_, direction_);
      delta += direction_;
    }
    // What was found along two directions holds for the step that is made of them alone.
    const bool is_other = scale_of_change_ != 1 || options_.decoupled_weight_decay;
    predict = predict || (is_other && !std::isnan(report.predicted_change));
    old_loss_ = report.loss + half_decay();
    lap(seconds_.update);
    if (predict)
      report.predicted_change = static_cast<Scalar>(model_along(delta, nullptr).change({1.0, 0.0}));
    if (options_.rejection.enabled || options_.damping_adaptation.every > 0)
      step_.remember_parameters();
    const bool finite = step_.finish();
    lap(seconds_.update);
    return finite;
  }

  Scalar half_decay() const {
    const Scalar decay = coupled_decay();
    return decay > 0 ? decay / 2 * step_.parameters_squared_norm() : Scalar(0);
  }

  /// By how much the norm constraint shortens a change.
  Scalar norm_scale(const VectorMap<Scalar>& delta) {
    if (!(values_.norm_constraint > 0)) return 1;
    direction_ = delta;
    preconditioner_.multiply(direction_);
    const Scalar square = direction_.dot(delta);
    return square > values_.norm_constraint ? std::sqrt(values_.norm_constraint / square)
                                            : Scalar(1);
  }

  /// The loss after the step, into the report; returns rho, if there was a prediction.
  Scalar evaluate() {
    StepReport<Scalar>& report = step_.report();
    report.new_loss = objective_.value();
    report.reduction_ratio =
        reduction_ratio(report.new_loss + half_decay() - old_loss_, report.predicted_change);
    lap(seconds_.evaluation);
    return report.reduction_ratio;
  }

  /// Shortens the step while the loss is higher than before, and in the end takes it back.
  void reject_or_shrink() {
    StepReport<Scalar>& report = step_.report();
    const auto improved = [&] { return report.new_loss + half_decay() <= old_loss_; };
    while (!improved()) {
      step_.take_back();
      if (report.shrinks == options_.rejection.shrinks) {
        report.rejected = true;
        report.step_norm = 0;
        std::ranges::fill(report.layer_step_norms, Scalar(0));
        return;
      }
      ++report.shrinks;
      step_.delta() *= options_.rejection.shrink;
      scale_of_change_ *= options_.rejection.shrink;
      step_.finish();
      report.new_loss = objective_.value();
      lap(seconds_.evaluation);
    }
  }

  /// A damping that is adapted rises where it was too small for this precision, and gamma with it.
  const StepReport<Scalar>& fail(StepStatus status) {
    const bool from_damping =
        status == StepStatus::NonFiniteStep || status == StepStatus::FactorizationFailed;
    if (from_damping && options_.damping_adaptation.every > 0)
      damping_ = options_.damping_adaptation.adapted(damping_, StepReport<Scalar>::kNone);
    gamma_ = std::max(gamma_, std::sqrt(damping_ + coupled_decay()));
    step_.report().status = status;
    return finish_report();
  }
  const StepReport<Scalar>& end_step() {
    preconditioner_.advance();
    ++steps_;
    return finish_report();
  }
  const StepReport<Scalar>& finish_report() {
    lap(seconds_.update);
    step_.report().seconds = seconds_;
    return step_.report();
  }
  void lap(double& seconds) { seconds += clock_.lap(); }

  template <class Change>
  void change(Change apply) {
    Options changed = options_;
    apply(changed);
    changed.validate();
    apply(options_);  // not replaced: its groups are referred to
  }

  Model& model_;
  LossType loss_;
  Options options_;
  typename Options::Values values_;  // of this step
  Preconditioner<Scalar> preconditioner_;
  TwoLevel<Scalar> two_level_;
  BatchObjective<Model, LossType> objective_;
  std::vector<Part> parts_;  // of a batch in slices
  ParameterStep<Scalar> step_;
  LayerRates<Scalar> rates_;
  MomentumRule<Scalar> memory_;
  Rng rng_;
  Vector<Scalar> raw_gradient_;                  // with weight decay, before anything is done to it
  Vector<Scalar> seen_gradient_;                 // what was preconditioned, by two levels
  std::vector<std::size_t> curvature_of_layer_;  // its index in the preconditioner, or past its end
  std::vector<Scalar> dots_;  // of each of those: what was preconditioned with what it became
  Vector<Scalar> direction_;
  Scalar damping_;
  Scalar gamma_;
  Scalar decrease_ = 0;  // v^T of what was preconditioned
  Scalar scale_of_change_ = 1;
  Scalar old_loss_ = 0;  // with weight decay
  Index steps_ = 0;
  Index coarse_due_ = 0;
  StepSeconds seconds_;
  detail::LapClock clock_;
};

}  // namespace kfac
