#pragma once

#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <kfac/curvature/layer_curvature.hpp>
#include <kfac/curvature/step_status.hpp>

namespace kfac {

template <RealScalar S>
struct PreconditionerOptions {
  /// Added to the curvature of the loss before it is inverted, in its units; >= 0, and 0 only where
  /// no factor is singular. The commonest thing to tune, over powers of ten.
  S damping = S(1e-2);
  /// Balances the damping over the two factors by their traces, where it is split (K-FAC).
  /// \source Martens and Grosse 2015, section 6.3
  bool pi = true;
  Index factor_every = 1;    ///< steps between updates of the running averages; >= 1
  Index inverse_every = 10;  ///< steps between inverses; >= 1. More is cheaper and staler.
  S factor_decay = S(0.95);  ///< weight of the past in the running averages, in [0, 1)
  /// What layers do whose weights are shared over positions (tokens, pixels).
  WeightSharing sharing = WeightSharing::Expand;
  /// How the loss was reduced whose gradients come by.
  GradientScale<S> gradient_scale = {};

  void validate(const char* where) const {
    detail::check_option(damping >= 0 && std::isfinite(damping), where, "damping", damping,
                         ">= 0 and finite");
    detail::check_option(factor_every >= 1, where, "factor_every", factor_every, ">= 1");
    detail::check_option(inverse_every >= 1, where, "inverse_every", inverse_every, ">= 1");
    detail::check_option(factor_decay >= 0 && factor_decay < 1, where, "factor_decay", factor_decay,
                         "in [0, 1)");
    gradient_scale.validate(where);
  }
};

/// How `Preconditioner::step` ended, and for which layer it failed if it did.
struct PreconditionerReport {
  StepStatus status = StepStatus::Ok;
  std::string layer;

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
                          const BlockFactory<S>& blocks = block_factory<KroneckerBlock<S>>())
      : options_(options), gradient_(model.gradient()) {
    options_.validate("kfac::Preconditioner");
    BlockOptions<S> prototype;
    prototype.factor_decay = options_.factor_decay;
    prototype.pi = options_.pi;
    prototype.sharing = options_.sharing;
    prototype.gradient_scale = options_.gradient_scale;
    for (const LayerView<S>& layer : model.layers())
      if (auto curvature = Layer::make(layer, prototype, blocks))
        layers_.push_back(std::move(curvature));
    collect_loss_gradients();
  }

  /// Preconditions the gradient of the backward pass before it, in place; updates running averages
  /// and inverses when they are due. If the report is not ok, the gradient is as it was.
  /// \throws StateError without a backward pass since the last step; SingularError if the damping
  ///         is 0 and a factor is singular, with everything as it was
  const PreconditionerReport& step() {
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
    update(options_.damping, [](Layer& layer) { layer.commit(); });
    if (!report_.ok()) return report_;
    for (const auto& layer : layers_) layer->precondition();
    advance();
    collect_loss_gradients();
    return report_;
  }

  /// Takes effect at the next inverse.
  void set_damping(S damping) {
    PreconditionerOptions<S> changed = options_;
    changed.damping = damping;
    changed.validate("kfac::Preconditioner::set_damping");
    options_ = changed;
  }

  const PreconditionerOptions<S>& options() const { return options_; }
  /// Which positions of the coming batches are real, `positions x examples`, where the others are
  /// padding; null: all. It must stay alive, and fit every layer that shares weights over
  /// positions.
  void set_mask(const PositionMask* mask) {
    for (const auto& layer : layers_) layer->set_mask(mask);
  }
  /// The layers that have curvature.
  const std::vector<std::unique_ptr<Layer>>& layers() const { return layers_; }

  // What `KfacOptimizer` drives a step with, one by one.

  bool factor_due() const { return steps_ % options_.factor_every == 0; }
  void collect(const Collection<S>& collection) {
    for (const auto& layer : layers_) layer->collect(collection);
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
  void precondition() {
    for (const auto& layer : layers_) layer->precondition();
  }
  void discard() {
    for (const auto& layer : layers_) layer->discard();
  }
  void advance() { ++steps_; }

 private:
  void collect_loss_gradients() {
    using What = typename Collection<S>::What;
    collect({factor_due() ? What::LossGradients : What::Nothing, S(1)});
  }

  template <class Commit>
  void update(S damping, Commit commit) {
#if defined(__cpp_exceptions)
    if (damping == 0) {
      // Only without damping can an inverse fail by the caller's mistake.
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
    if (factor_due()) {
      for (const auto& layer : layers_)
        if (!layer->fresh_is_finite()) {
          report_ = {StepStatus::NonFiniteFactor, layer->layer().name};
          discard();
          return;
        }
      for (const auto& layer : layers_)
        if (layer->has_fresh_data()) commit(*layer);
    }
    if (steps_ % options_.inverse_every != 0) return;
    for (const auto& layer : layers_)
      if (!layer->refresh_inverse(damping)) {
        report_ = {StepStatus::FactorizationFailed, layer->layer().name};
        return;
      }
  }

  PreconditionerOptions<S> options_;
  VectorMap<S> gradient_;
  std::vector<std::unique_ptr<Layer>> layers_;
  std::vector<typename Layer::Blocks> before_;  // a step without damping, if it fails
  PreconditionerReport report_;
  Index steps_ = 0;
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
