#pragma once

#include <vector>

#include <kfac/core/schedule.hpp>
#include <kfac/curvature/layer_group.hpp>

namespace kfac {

/// Of `Preconditioner`. A number that is a `Schedule` is a constant or a function of the step.
template <RealScalar S>
struct PreconditionerOptions {
  /// Added to the curvature of the loss before it is inverted, in its units; >= 0, and 0 only where
  /// no factor is singular. The commonest thing to tune, over powers of ten.
  Schedule<S> damping = S(1e-2);
  /// How damping is balanced over two factors, where it is split over them (K-FAC).
  FactorBalance pi = FactorBalance::Trace;
  Schedule<Index> factor_every = 1;  ///< steps between updates of the running averages; >= 1
  Schedule<Index> inverse_every =
      10;                             ///< steps between inverses; >= 1. More is cheaper and staler.
  Schedule<Index> moments_every = 1;  ///< steps between updates of EKFAC's second moments; >= 1
  Schedule<S> factor_decay = S(0.95);  ///< weight of the past in the running averages, in [0, 1)
  /// Of each batch, the part that goes into the running averages, in (0, 1].
  Schedule<S> factor_fraction = S(1);
  /// Inverses from one full decomposition to the next of kinds that have an eigenbasis, >= 1; in
  /// between the basis is tracked by a step of orthogonal iteration.
  Index decompose_every = 1;
  /// How far from diagonal a factor may be in a tracked basis before it is decomposed after all, as
  /// the share of its norm that is not on the diagonal; >= 0.
  S track_tolerance = S(0.1);
  bool stagger_inverses = false;  ///< spread over the steps of a period, a few layers each
  /// Inverses are made while steps go on with those there are, which makes them one period staler
  /// at most. It takes `threads` > 1 to gain by it.
  bool asynchronous_inverses = false;
  /// Where asynchronous: whether a run gives the same numbers each time, because new inverses wait
  /// for the end of their period. Else they are used as soon as they are ready.
  bool deterministic = true;
  /// Threads that a step uses in all, the calling one among them; 0: as many as the machine has.
  /// The numbers do not depend on it. With 1, work is split as the caller's `ParallelScope` says.
  /// With more, blocks of different layers may be at work at the same time.
  Index threads = 1;
  /// What layers do whose weights are shared over positions (tokens, pixels).
  WeightSharing sharing = WeightSharing::Expand;
  /// How the loss was reduced whose gradients come by.
  GradientScale<S> gradient_scale = {};
  std::vector<LayerGroup<S>> groups = {};  ///< layers for which something is different

  /// Constants and what schedules give at step 0. \throws OptionError
  void validate(const char* where) const {
    at(where, 0);
    detail::check_option(decompose_every >= 1, where, "decompose_every", decompose_every, ">= 1");
    detail::check_option(track_tolerance >= 0, where, "track_tolerance", track_tolerance, ">= 0");
    detail::check_option(threads >= 0, where, "threads", threads, ">= 0");
    gradient_scale.validate(where);
    for (const LayerGroup<S>& group : groups) group.validate(where);
  }

  struct Values {
    S damping;
    Index factor_every, inverse_every, moments_every;
    S factor_decay, factor_fraction;
  };
  /// What the options are at a step. \throws OptionError for a value out of its range
  Values at(const char* where, Index step) const {
    const auto period = [&](const Schedule<Index>& schedule, const char* field) {
      return detail::scheduled(
          schedule, step, where, field, [](Index value) { return value >= 1; }, ">= 1");
    };
    return {detail::scheduled_non_negative(damping, step, where, "damping"),
            period(factor_every, "factor_every"),
            period(inverse_every, "inverse_every"),
            period(moments_every, "moments_every"),
            detail::scheduled_decay(factor_decay, step, where, "factor_decay"),
            detail::scheduled(
                factor_fraction, step, where, "factor_fraction",
                [](S value) { return value > 0 && value <= 1; }, "in (0, 1]")};
  }
};

}  // namespace kfac
