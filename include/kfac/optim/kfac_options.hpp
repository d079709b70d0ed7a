#pragma once

#include <cstdint>
#include <vector>

#include <kfac/curvature/fisher.hpp>
#include <kfac/curvature/preconditioner.hpp>
#include <kfac/curvature/two_level.hpp>
#include <kfac/optim/damping_adaptation.hpp>
#include <kfac/optim/momentum_rule.hpp>
#include <kfac/optim/parameter_step.hpp>

namespace kfac {

/// What is done about a step after which the batch's loss is higher than before, or NaN. A step
/// that is taken back in the end also ends the momentum there was.
template <RealScalar S>
struct StepRejection {
  bool enabled = false;  ///< costs an evaluation of the loss a step
  Index shrinks = 0;     ///< how often the step is shortened and tried again first; >= 0
  S shrink = S(0.5);     ///< the length of each to the one before, in (0, 1)
  S damping_factor =
      S(1);  ///< times the damping if the step is rejected, with an adapted damping; >= 1

  /// \throws OptionError
  void validate(const char* where) const {
    detail::check_option(shrinks >= 0, where, "rejection.shrinks", shrinks, ">= 0");
    detail::check_option(shrink > 0 && shrink < 1, where, "rejection.shrink", shrink, "in (0, 1)");
    detail::check_option(damping_factor >= 1 && std::isfinite(damping_factor), where,
                         "rejection.damping_factor", damping_factor, ">= 1 and finite");
  }
};

/// Of `KfacOptimizer`. A number that is a `Schedule` is a constant or a function of the step.
template <RealScalar S>
struct KfacOptions {
  // The step.

  Schedule<S> learning_rate = S(0.1);  ///< of the natural-gradient step; > 0, finite
  Schedule<S> momentum = S(0.9);       ///< weight of the past, in [0, 1)
  MomentumType momentum_type = MomentumType::HeavyBall;
  Schedule<S> second_moment_decay = S(0.999);  ///< of Adam and RMSProp, in [0, 1)
  Schedule<S> epsilon = S(1e-8);               ///< of Adam and RMSProp, added to the root; > 0
  /// Learning rate, momentum, or both, by the minimum of the quadratic model with the exact
  /// curvature of the batch, in place of those above (heavy ball only). A tangent pass each.
  /// \source Martens and Grosse 2015, sections 6.4 and 7
  bool adaptive_learning_rate = false;
  bool adaptive_momentum = false;

  // The damping.

  /// Added to the curvature of the loss before it is inverted, in its units; >= 0, and 0 only where
  /// no factor is singular. The commonest thing to tune, over powers of ten.
  Schedule<S> damping = S(1e-2);
  /// How damping is balanced over two factors, where it is split over them (K-FAC).
  FactorBalance pi = FactorBalance::Trace;
  /// Of the damping, which is then only where it starts. With `.every = 5` as in the paper.
  DampingAdaptation<S> damping_adaptation = {};
  /// For a damping of the preconditioner of its own. With `.every = 20` as in the paper.
  GammaSearch<S> gamma_search = {};

  // When to work.

  Schedule<Index> factor_every = 1;  ///< steps between updates of the running averages; >= 1
  Schedule<Index> inverse_every =
      10;                             ///< steps between inverses; >= 1. More is cheaper and staler.
  Schedule<Index> moments_every = 1;  ///< steps between updates of EKFAC's second moments; >= 1
  Schedule<S> factor_decay = S(0.95);  ///< weight of the past in the running averages, in [0, 1)
  /// Of each batch, the part that goes into the running averages, in (0, 1]: its first examples.
  Schedule<S> factor_fraction = S(1);
  /// Inverses from one full decomposition to the next of kinds that have an eigenbasis, >= 1; in
  /// between the basis is tracked by a step of orthogonal iteration.
  Index decompose_every = 1;
  /// How far from diagonal a factor may be in a tracked basis before it is decomposed after all, as
  /// the share of its norm that is not on the diagonal; >= 0.
  S track_tolerance = S(0.1);
  bool stagger_inverses = false;       ///< spread over the steps of a period, a few layers each
  bool asynchronous_inverses = false;  ///< made while steps go on, one period staler at most
  /// Where asynchronous: whether a run gives the same numbers each time, because new inverses wait
  /// for the end of their period. Else they are used as soon as they are ready.
  bool deterministic = true;
  /// Threads that a step uses in all, the calling one among them; 0: as many as the machine has.
  /// The numbers do not depend on it. With 1, work is split as the caller's `ParallelScope` says.
  Index threads = 1;
  Index burn_in = 0;  ///< first steps, which update the running averages and nothing else; >= 0

  // Step control.

  /// Bounds a step's learning_rate^2 v^T g (twice the change of the model's distribution, in nats)
  /// by shortening it, momentum apart; >= 0, 0: unbounded. Not used with an adaptive learning rate,
  /// which the curvature bounds, nor by Adam and RMSProp, whose steps are no natural gradients.
  /// \source Ba, Grosse and Martens 2017, section 5
  Schedule<S> kl_clip = S(1e-3);
  /// Bounds d^T F d of the whole change d, momentum included, by the curvature estimate F (the
  /// identity for layers without one); >= 0, 0: unbounded.
  Schedule<S> norm_constraint = S(0);
  Schedule<S> gradient_clip = S(0);  ///< bounds the gradient's Euclidean norm; >= 0, 0: unbounded
  StepRejection<S> rejection = {};

  /// Of 1/2 weight_decay |parameters|^2, which is added to the loss: to its gradient, and to the
  /// curvature as damping. \source Martens and Grosse 2015, section 6.1
  Schedule<S> weight_decay = S(0);
  /// Weight decay apart from the loss: learning_rate weight_decay times the parameters is taken off
  /// them. \source Loshchilov and Hutter 2019, arXiv 1711.05101
  bool decoupled_weight_decay = false;
  ParameterPredicate<S> decays = {};  ///< which parameters decay; empty: all

  // The curvature.

  FisherType fisher = FisherType::Type2;
  /// What layers do whose weights are shared over positions (tokens, pixels).
  WeightSharing sharing = WeightSharing::Expand;
  Index samples = 1;                  ///< targets drawn for each example (Monte-Carlo Fisher); >= 1
  std::uint64_t seed = 0;             ///< of those targets
  TwoLevelOptions<S> two_level = {};  ///< a correction between layers, in a coarse space
  std::vector<LayerGroup<S>> groups = {};  ///< layers for which something is different

  PreconditionerOptions<S> preconditioner() const {
    return {.damping = damping,
            .pi = pi,
            .factor_every = factor_every,
            .inverse_every = inverse_every,
            .moments_every = moments_every,
            .factor_decay = factor_decay,
            .factor_fraction = factor_fraction,
            .decompose_every = decompose_every,
            .track_tolerance = track_tolerance,
            .stagger_inverses = stagger_inverses,
            .asynchronous_inverses = asynchronous_inverses,
            .deterministic = deterministic,
            .threads = threads,
            .sharing = sharing,
            .groups = groups};
  }

  /// Whether steps have a momentum, which wants memory of the size of the parameters.
  bool uses_velocity() const {
    return adaptive_momentum || !momentum.is_constant() || momentum(0) != 0;
  }
  bool bounds_norm() const { return !norm_constraint.is_constant() || norm_constraint(0) > 0; }
  /// Whether changes may be judged by the quadratic model, which wants a copy of the gradient.
  bool uses_quadratic_model() const {
    return adaptive_learning_rate || adaptive_momentum || damping_adaptation.every > 0 ||
           gamma_search.every > 0;
  }

  /// Whether parameters may be put back after a step, which wants a copy of them.
  bool may_take_back() const { return rejection.enabled || damping_adaptation.every > 0; }
  /// Whether the backward pass of the loss's gradient is all that follows its forward pass.
  bool passes_once() const {
    return (fisher == FisherType::Empirical || fisher == FisherType::ForwardOnly) &&
           !uses_quadratic_model() && two_level.space == CoarseSpace::None;
  }

  /// Constants, and what schedules give at step 0. \throws OptionError
  void validate() const {
    at(0);
    check_momentum_type();
    damping_adaptation.validate(kWhere);
    gamma_search.validate(kWhere);
    rejection.validate(kWhere);
    two_level.validate(kWhere);
    detail::check_option(burn_in >= 0, kWhere, "burn_in", burn_in, ">= 0");
    detail::check_option(samples >= 1, kWhere, "samples", samples, ">= 1");
    if (damping_adaptation.every > 0)
      detail::check_option(damping(0) > 0, kWhere, "damping", damping(0),
                           "> 0 where it is adapted");
    preconditioner().validate(kWhere);
  }

  struct Values {
    S learning_rate, momentum, second_moment_decay, epsilon;
    S damping, kl_clip, norm_constraint, gradient_clip, weight_decay;
  };
  /// What the options are at a step. \throws OptionError for a value out of its range
  Values at(Index step) const {
    const auto bound = [&](const Schedule<S>& schedule, const char* field) {
      return detail::scheduled_non_negative(schedule, step, kWhere, field);
    };
    return {detail::scheduled_positive(learning_rate, step, kWhere, "learning_rate"),
            detail::scheduled_decay(momentum, step, kWhere, "momentum"),
            detail::scheduled_decay(second_moment_decay, step, kWhere, "second_moment_decay"),
            detail::scheduled_positive(epsilon, step, kWhere, "epsilon"),
            bound(damping, "damping"),
            bound(kl_clip, "kl_clip"),
            bound(norm_constraint, "norm_constraint"),
            bound(gradient_clip, "gradient_clip"),
            bound(weight_decay, "weight_decay")};
  }

 private:
  static constexpr const char* kWhere = "kfac::KfacOptimizer";

  void check_momentum_type() const {
    if (momentum_type == MomentumType::HeavyBall) return;
    const char* adaptive = adaptive_learning_rate   ? "adaptive_learning_rate"
                           : adaptive_momentum      ? "adaptive_momentum"
                           : gamma_search.every > 0 ? "gamma_search"
                                                    : nullptr;
    if (adaptive)
      raise<OptionError>(std::string(kWhere) + ": '" + adaptive +
                         "' is on, expected off but with MomentumType::HeavyBall");
  }
};

}  // namespace kfac
