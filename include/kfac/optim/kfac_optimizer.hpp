#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>

#include <kfac/curvature/fisher.hpp>
#include <kfac/curvature/preconditioner.hpp>
#include <kfac/nn/network.hpp>
#include <kfac/optim/parameter_step.hpp>

namespace kfac {

template <RealScalar S>
struct KfacOptions {
  S learning_rate = S(0.1);  ///< of the natural-gradient step; > 0, finite
  S momentum = S(0.9);       ///< heavy ball on the steps taken, in [0, 1)
  /// Added to the curvature of the loss before it is inverted, in its units; >= 0, and 0 only where
  /// no factor is singular. The commonest thing to tune, over powers of ten.
  S damping = S(1e-2);
  /// Balances the damping over the two factors by their traces, where it is split (K-FAC).
  bool pi = true;
  Index factor_every = 1;    ///< steps between updates of the running averages; >= 1
  Index inverse_every = 10;  ///< steps between inverses; >= 1. More is cheaper and staler.
  S factor_decay = S(0.95);  ///< weight of the past in the running averages, in [0, 1)
  /// Bounds a step's learning_rate^2 v^T g (twice the change of the model's distribution, in nats)
  /// by shortening it; 0: unbounded. \source Ba, Grosse and Martens 2017, section 5
  S kl_clip = S(1e-2);
  /// Of 1/2 weight_decay |parameters|^2, which is added to the loss: to its gradient, and to the
  /// curvature as damping. \source Martens and Grosse 2015, section 6.1
  S weight_decay = 0;
  FisherType fisher = FisherType::Type2;
  /// What layers do whose weights are shared over positions (tokens, pixels).
  WeightSharing sharing = WeightSharing::Expand;
  Index samples = 1;       ///< targets drawn for each example (Monte-Carlo Fisher); >= 1
  std::uint64_t seed = 0;  ///< of those targets

  void validate() const {
    static constexpr const char* kWhere = "kfac::KfacOptimizer";
    const auto non_negative = [](const char* field, S value) {
      detail::check_option(value >= 0 && std::isfinite(value), kWhere, field, value,
                           ">= 0 and finite");
    };
    detail::check_option(learning_rate > 0 && std::isfinite(learning_rate), kWhere, "learning_rate",
                         learning_rate, "> 0 and finite");
    detail::check_option(momentum >= 0 && momentum < 1, kWhere, "momentum", momentum, "in [0, 1)");
    non_negative("kl_clip", kl_clip);
    non_negative("weight_decay", weight_decay);
    detail::check_option(samples >= 1, kWhere, "samples", samples, ">= 1");
    preconditioner().validate(kWhere);
  }

  PreconditionerOptions<S> preconditioner() const {
    return {damping, pi, factor_every, inverse_every, factor_decay, sharing, {}};
  }
};

/// Trains a model with K-FAC: natural-gradient steps with the damped Kronecker-factored Fisher of
/// the loss.
///
///     kfac::KfacOptimizer optimizer(model, loss, {.learning_rate = 0.5f, .damping = 1e-2f});
///     for (const auto& [x, y] : kfac::batches(train, 64, rng)) optimizer.step(x, y);
///
/// One step: v = (F + (damping + weight_decay) I)^-1 (gradient + weight_decay parameters), scaled
/// by min(1, sqrt(kl_clip / (learning_rate^2 v^T g))); change <- momentum change - learning_rate v.
/// Layers without curvature have v = g, a plain gradient step; `summary()` lists them. The last
/// argument picks other kinds of blocks than `KroneckerBlock`, for each layer (`block_factory`).
/// The model must outlive the optimizer and stay where it is.
/// \source Martens and Grosse 2015, arXiv 1503.05671
template <class Model, Loss LossType>
class KfacOptimizer {
 public:
  using Scalar = typename Model::Scalar;
  using Options = KfacOptions<Scalar>;

  /// \throws OptionError
  KfacOptimizer(Model& model, const LossType& loss,
                KfacOptions<typename Model::Scalar> options = {},
                const BlockFactory<typename Model::Scalar>& blocks =
                    block_factory<KroneckerBlock<typename Model::Scalar>>())
      : model_(model),
        loss_(loss),
        options_((options.validate(), options)),
        preconditioner_(model, options_.preconditioner(), blocks),
        step_(model),
        rng_(options_.seed),
        raw_gradient_(Vector<Scalar>::Zero(step_.delta().size())),
        previous_(raw_gradient_) {}

  /// One step on a batch: inputs `features x batch`, and targets as the loss takes them.
  /// \throws ShapeError or ValueError if the batch is empty, does not fit or is not finite;
  ///         SingularError without damping: parameters and state are then as they were
  const StepReport<Scalar>& step(const ConstMatrixRef<Scalar>& x,
                                 const typename LossType::TargetsRef& y) {
    const bool factor_due = preconditioner_.factor_due();
    const ConstMatrixMap<Scalar> outputs = model_.forward(x);
    const Scalar loss = loss_.value(outputs, y);
    if (!std::isfinite(loss)) {
      step_.begin(loss);
      return step_.report();
    }
    const Scalar factor = loss_.scale(outputs.rows(), outputs.cols());

    preconditioner_.discard();
    Rng rng = rng_;  // what is drawn counts once it has gone into the factors
    if (factor_due)
      propagate_fisher_vectors(options_.fisher, options_.samples, model_, loss_, outputs,
                               preconditioner_, rng, scratch_);
    collect_loss_gradients(factor_due, factor);
    MatrixMap<Scalar> grad_output = scratch_.vectors.map(outputs.rows(), outputs.cols());
    loss_.gradient(outputs, y, grad_output);
    model_.backward(grad_output);

    if (!step_.begin(loss)) return step_.report();
    step_.add_parameters(options_.weight_decay, step_.gradient());
    const Scalar scale = factor * static_cast<Scalar>(outputs.cols());
    const PreconditionerReport& update =
        preconditioner_.update(options_.damping + options_.weight_decay, scale);
    if (!update.ok()) {
      step_.report().status = update.status;
      step_.report().layer = update.layer;
      return step_.report();
    }
    rng_ = rng;
    raw_gradient_ = step_.gradient();
    preconditioner_.precondition();
    take_step();
    return step_.report();
  }

  const Options& options() const { return options_; }
  /// For schedules; a new damping takes effect at the next inverse. \throws OptionError
  void set_learning_rate(Scalar learning_rate) {
    change([=](Options& options) { options.learning_rate = learning_rate; });
  }
  void set_damping(Scalar damping) {
    change([=](Options& options) { options.damping = damping; });
  }

  /// The factors and blocks.
  Preconditioner<Scalar>& preconditioner() { return preconditioner_; }

  /// One line a layer that has parameters: its name, kind and how it is stepped.
  std::string summary() const {
    std::string text;
    for (const LayerView<Scalar>& layer : step_.layers()) {
      if (layer.parameters.size() == 0) continue;
      text += layer.name + "  " + layer.kind + "  " + std::to_string(layer.parameters.size()) +
              " parameters  ";
      const auto& curved = preconditioner_.layers();
      const auto found = std::find_if(curved.begin(), curved.end(), [&](const auto& candidate) {
        return candidate->layer().name == layer.name;
      });
      if (found == curved.end()) {
        text += "plain gradient (no curvature block)";
      } else {
        const auto& blocks = (*found)->blocks();
        const std::string inputs = std::to_string(blocks[0]->columns());
        const std::string outputs = std::to_string(blocks[0]->outputs());
        text += std::string(blocks[0]->kind()) + ": A " + inputs + 'x' + inputs + ", G " + outputs +
                'x' + outputs;
        if (blocks.size() > 1) text += ", " + std::to_string(blocks.size()) + " groups";
      }
      text += '\n';
    }
    return text;
  }

 private:
  /// The gradient pass feeds the factors only where it is what they are made of.
  void collect_loss_gradients(bool factor_due, Scalar factor) {
    using What = typename Collection<Scalar>::What;
    if (factor_due && options_.fisher == FisherType::Empirical)
      preconditioner_.collect({What::Vectors, Scalar(1) / (factor * factor)});
    else
      preconditioner_.collect({What::Nothing, Scalar(1)});
  }

  void take_step() {
    const Scalar rate = options_.learning_rate;
    const Scalar decrease = step_.gradient().dot(raw_gradient_);
    Scalar kl_scale = 1;
    if (options_.kl_clip > 0 && rate * rate * decrease > options_.kl_clip)
      kl_scale = std::sqrt(options_.kl_clip / decrease) / rate;
    step_.report().kl_scale = kl_scale;
    step_.delta() = options_.momentum * previous_ - (rate * kl_scale) * step_.gradient();
    if (!step_.finish()) return;
    previous_ = step_.delta();
    preconditioner_.advance();
  }

  template <class Change>
  void change(Change apply) {
    Options changed = options_;
    apply(changed);
    changed.validate();
    options_ = changed;
  }

  Model& model_;
  LossType loss_;
  Options options_;
  Preconditioner<Scalar> preconditioner_;
  ParameterStep<Scalar> step_;
  Rng rng_;
  Vector<Scalar> raw_gradient_;
  Vector<Scalar> previous_;  // the last change of the parameters
  FisherScratch<Scalar> scratch_;
};

}  // namespace kfac
