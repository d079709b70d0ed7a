#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <kfac/curvature/default_blocks.hpp>
#include <kfac/curvature/inverse_updates.hpp>
#include <kfac/curvature/preconditioner_options.hpp>
#include <kfac/curvature/step_status.hpp>

namespace kfac {

/// How `Preconditioner::step` ended, and for which layer it failed if it did.
struct PreconditionerReport {
  StepStatus status = StepStatus::Ok;
  std::string layer;
  double inverse_seconds = 0;  ///< spent on inverses by this thread

  bool ok() const { return status == StepStatus::Ok; }
};

/// Turns a network's gradients into natural gradients, for use with any optimizer. It listens to
/// the network's layers:
///
///     kfac::Preconditioner preconditioner(model, {.damping = 1e-2f, .inverse_every = 10});
///     kfac::Sgd sgd(model, {.learning_rate = 0.1f, .momentum = 0.9f});
///     const auto& out = model.forward(x);
///     model.backward(loss.gradient(out, y));
///     preconditioner.step();  // model.gradient() is now F^-1 times what it was
///     sgd.step();
///
/// It uses the gradients that come by (the empirical Fisher); `KfacOptimizer` estimates the others.
/// `blocks` picks the kind of each layer's block; layers without one keep their plain gradient. The
/// model must outlive the preconditioner and stay where it is.
template <RealScalar S>
class Preconditioner {
 public:
  using Layer = LayerCurvature<S>;

  /// \throws OptionError
  template <class Model>
  explicit Preconditioner(Model& model, PreconditionerOptions<typename Model::Scalar> options = {},
                          const BlockFactory<S>& blocks = default_blocks<Model>())
      : options_((options.validate(kWhere), std::move(options))),
        values_(options_.at(kWhere, 0)),
        pool_(make_pool(options_.threads)),
        gradient_(model.gradient()) {
    BlockOptions<S> prototype;
    prototype.factor_decay = values_.factor_decay;
    prototype.pi = options_.pi;
    prototype.decompose_every = options_.decompose_every;
    prototype.track_tolerance = options_.track_tolerance;
    prototype.sharing = options_.sharing;
    prototype.gradient_scale = options_.gradient_scale;
    for (const LayerView<S>& layer : model.layers()) {
      const LayerGroup<S>* group = group_of(layer, options_.groups);
      if (group && !group->precondition) continue;
      const bool has_own_kind = group && group->blocks;
      auto curvature = Layer::make(layer, prototype, has_own_kind ? group->blocks : blocks);
      if (!curvature) continue;
      layers_.push_back(std::move(curvature));
      groups_.push_back(group);
    }
    damping_scales_.assign(layers_.size(), S(1));
    estimate_work();
    begin_step();
    collect_loss_gradients();
  }

  /// Preconditions the gradient of the backward pass before it, in place; updates running averages
  /// and inverses when they are due. If the report is not ok, the gradient is as it was.
  /// \throws StateError without a backward pass since the last step; SingularError if the damping
  ///         is 0 and a factor is singular, with everything as it was; OptionError if a schedule
  ///         gives a value out of its range, which may be for the step after this one
  const PreconditionerReport& step() {
    const ParallelScope parallel(pool());
    for (const auto& layer : layers_)
      if (!layer->take_seen_gradient())
        raise<StateError>(
            "kfac::Preconditioner::step: no backward pass since the last step, expected one "
            "(layer '" +
            layer->layer().name + "')");
    report_ = {};
    if (!gradient_.allFinite()) {
      for (const auto& layer : layers_) layer->discard();
      report_.status = StepStatus::NonFiniteGradient;
      return report_;
    }
    begin_step();
    update(values_.damping, [](Layer& layer) { layer.commit(); });
    if (!report_.ok()) return report_;
    precondition();
    advance();
    begin_step();
    collect_loss_gradients();
    return report_;
  }

  /// Instead of the damping, or its schedule, in the options. It takes effect at the next step for
  /// kinds with an eigenbasis or a diagonal, and at the next inverse for others. \throws
  /// OptionError
  void set_damping(S damping) {
    detail::scheduled_non_negative(Schedule<S>(damping), 0, "kfac::Preconditioner::set_damping",
                                   "damping");
    options_.damping = damping;
  }

  const PreconditionerOptions<S>& options() const { return options_; }
  /// Of the threads it uses beside the caller's, for a `ParallelScope` around the other parts of a
  /// step; null if there are none.
  ThreadPool* pool() const { return pool_.get(); }
  /// Which positions of the coming batches are real, `positions x examples`, where the others are
  /// padding; null: all. It must stay alive, and fit every layer that shares weights over
  /// positions.
  void set_mask(const PositionMask* mask) {
    for (const auto& layer : layers_) layer->set_mask(mask);
  }
  /// The layers that have curvature.
  const std::vector<std::unique_ptr<Layer>>& layers() const { return layers_; }

  /// Everything that steps change, for a run to be resumed.
  void visit_state(StateVisitor& visitor) {
    visitor.visit("steps", steps_);
    visitor.visit("factors_due", factors_due_);
    visitor.visit("moments_due", moments_due_);
    visitor.in("inverses", *inverses_);
    for (const auto& layer : layers_) visitor.in("layer " + layer->layer().name, *layer);
    if (visitor.overwrites()) {
      begin_step();
      collect_loss_gradients();
    }
  }

  // What `KfacOptimizer` drives a step with, one by one.

  /// Evaluates the schedules. \throws OptionError
  void begin_step() {
    values_ = options_.at(kWhere, steps_);
    for (std::size_t i = 0; i < layers_.size(); ++i)
      if (groups_[i]) damping_scales_[i] = groups_[i]->scales_at(kWhere, steps_).first;
  }
  const typename PreconditionerOptions<S>::Values& values() const { return values_; }
  bool factor_due() const { return steps_ >= factors_due_; }
  /// Whether it is time for second moments, of kinds that keep them apart.
  bool moments_due() const { return steps_ >= moments_due_; }
  /// Of what is due. Returns whether any layer has a use for it.
  bool collect(Collection<S> collection) {
    collection.factors = factor_due();
    collection.moments = moments_due();
    if (!collection.factors && !collection.moments) collection.what = Collection<S>::What::Nothing;
    bool wanted = false;
    for (const auto& layer : layers_) wanted = layer->collect(collection) || wanted;
    return wanted;
  }
  void add_forward_only() {
    for (const auto& layer : layers_) layer->add_forward_only();
  }
  /// Updates what is due, with the given scale of the loss (its reduction factor times the batch).
  const PreconditionerReport& update(S damping, S scale) {
    report_ = {};
    update(damping, [scale](Layer& layer) { layer.commit(scale); });
    return report_;
  }
  /// Changes the damping of all inverses, which for some kinds are made anew, from the running
  /// averages as they are; false, and the report says why, if one cannot be made.
  bool redamp(S damping) {
    const ParallelScope parallel(pool());
    report_ = {};
    fail_at(inverses_->redamp(layers_, [&](std::size_t i) { return damping_of(i, damping); }));
    return report_.ok();
  }
  const PreconditionerReport& report() const { return report_; }
  /// Multiplies a vector of all parameters with the undamped curvature, in place; layers without
  /// curvature have the identity.
  void multiply(Vector<S>& flat) {
    const ParallelScope parallel(pool());
    products_->for_each([&](std::size_t i) {
      const VectorMap<S>& own = layers_[i]->layer().gradient;
      layers_[i]->multiply({flat.data() + (own.data() - gradient_.data()), own.size()});
    });
  }
  void precondition() {
    const ParallelScope parallel(pool());
    products_->for_each([&](std::size_t i) { layers_[i]->precondition(); });
  }
  /// As well; writes the inner products of each layer's gradient and what became of it.
  void precondition_with_dots(std::vector<S>& dots) {
    const ParallelScope parallel(pool());
    dots.resize(layers_.size());
    products_->for_each([&](std::size_t i) { dots[i] = layers_[i]->precondition_with_dot(); });
  }
  void discard() {
    for (const auto& layer : layers_) layer->discard();
  }
  void advance() {
    if (factor_due()) factors_due_ = steps_ + values_.factor_every;
    if (moments_due()) moments_due_ = steps_ + values_.moments_every;
    ++steps_;
  }

 private:
  static constexpr const char* kWhere = "kfac::Preconditioner";

  static std::unique_ptr<ThreadPool> make_pool(Index threads) {
    if (threads == 0) threads = static_cast<Index>(std::thread::hardware_concurrency());
    return threads > 1 ? std::make_unique<ThreadPool>(threads - 1) : nullptr;
  }

  /// How the layers are shared between threads, by what their blocks cost.
  void estimate_work() {
    // A nanosecond's: multiply-adds of one thread, and bytes that come from main memory.
    static constexpr double kProducts = 32;
    static constexpr double kBytes = 10;
    std::vector<double> factors(layers_.size()), inverses(layers_.size()), products(layers_.size());
    for (std::size_t i = 0; i < layers_.size(); ++i)
      for (const auto& block : layers_[i]->blocks()) {
        const BlockCost cost = block->cost();
        factors[i] += cost.bytes / kBytes;
        inverses[i] += cost.inverse / kProducts;
        products[i] += cost.precondition / kProducts;
      }
    factors_ = std::make_unique<detail::LayerWork>(std::move(factors));
    products_ = std::make_unique<detail::LayerWork>(std::move(products));
    inverses_ = std::make_unique<InverseUpdates<S>>(
        std::move(inverses),
        InverseUpdateOptions{options_.stagger_inverses, options_.asynchronous_inverses,
                             options_.deterministic},
        pool());
  }

  void collect_loss_gradients() {
    collect({Collection<S>::What::LossGradients, S(1), values_.factor_fraction});
  }

  S damping_of(std::size_t layer, S damping) const { return damping_scales_[layer] * damping; }

  template <class Commit>
  void update(S damping, Commit commit) {
#if defined(__cpp_exceptions)
    if (damping == 0) {
      // Only without damping can an inverse fail by the caller's mistake.
      inverses_->wait();  // for the blocks to be copied
      before_.resize(layers_.size());
      for (std::size_t i = 0; i < layers_.size(); ++i) remember(*layers_[i], before_[i]);
      try {
        commit_and_invert(damping, commit);
      } catch (...) {
        for (std::size_t i = 0; i < layers_.size(); ++i)
          for (std::size_t group = 0; group < before_[i].size(); ++group)
            layers_[i]->blocks()[group]->assign(*before_[i][group]);
        throw;
      }
      return;
    }
#endif
    commit_and_invert(damping, commit);
  }

  /// Copies a layer's blocks, without allocation once there are copies.
  static void remember(const Layer& layer, typename Layer::Blocks& copies) {
    for (std::size_t group = 0; group < layer.blocks().size(); ++group)
      if (group < copies.size())
        copies[group]->assign(*layer.blocks()[group]);
      else
        copies.push_back(layer.blocks()[group]->clone());
  }

  template <class Commit>
  void commit_and_invert(S damping, Commit commit) {
    for (const auto& layer : layers_)
      if (!layer->fresh_is_finite()) {
        report_ = {StepStatus::NonFiniteFactor, layer->layer().name};
        discard();
        return;
      }
    for (const auto& layer : layers_) layer->set_factor_decay(values_.factor_decay);
    factors_->for_each([&](std::size_t i) { return layers_[i]->has_fresh_data(); },
                       [&](std::size_t i) { commit(*layers_[i]); });
    const auto started = std::chrono::steady_clock::now();
    fail_at(inverses_->update(layers_, steps_, values_.inverse_every,
                              [&](std::size_t i) { return damping_of(i, damping); }));
    if (damping > 0)
      for (std::size_t i = 0; i < layers_.size(); ++i)
        layers_[i]->set_damping(damping_of(i, damping));
    report_.inverse_seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  }

  void fail_at(const Layer* layer) {
    if (layer) report_ = {StepStatus::FactorizationFailed, layer->layer().name};
  }

  PreconditionerOptions<S> options_;
  typename PreconditionerOptions<S>::Values values_;  // of this step
  std::unique_ptr<ThreadPool> pool_;                  // null: no threads but the caller's
  VectorMap<S> gradient_;
  std::vector<std::unique_ptr<Layer>> layers_;
  std::vector<const LayerGroup<S>*> groups_;  // of each of these, or null
  std::vector<S> damping_scales_;
  std::unique_ptr<detail::LayerWork> factors_, products_;
  std::unique_ptr<InverseUpdates<S>> inverses_;  // ends before the layers and the pool
  std::vector<typename Layer::Blocks> before_;   // a step without damping, if it fails
  PreconditionerReport report_;
  Index steps_ = 0;
  Index factors_due_ = 0;
  Index moments_due_ = 0;
};

template <class Model>
explicit Preconditioner(Model&) -> Preconditioner<typename Model::Scalar>;
template <class Model>
Preconditioner(Model&, PreconditionerOptions<typename Model::Scalar>)
    -> Preconditioner<typename Model::Scalar>;
template <class Model>
Preconditioner(Model&, PreconditionerOptions<typename Model::Scalar>,
               BlockFactory<typename Model::Scalar>) -> Preconditioner<typename Model::Scalar>;

}  // namespace kfac
