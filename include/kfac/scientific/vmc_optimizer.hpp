#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include <kfac/core/schedules.hpp>
#include <kfac/curvature/preconditioner.hpp>
#include <kfac/scientific/local_energy.hpp>
#include <kfac/scientific/metropolis.hpp>
#include <kfac/scientific/wave_function.hpp>

namespace kfac {

/// Of `VmcOptimizer`. A number that is a `Schedule` is a constant or a function of the step.
template <RealScalar S>
struct VmcOptions {
  /// > 0, finite. 0.05 / (1 + step / 10000) where it is not given.
  Schedule<S> learning_rate = schedules::inverse_time(0.05, 1e-4);
  Schedule<S> damping = S(1e-3);       ///< of the Fisher, > 0, finite
  Schedule<S> factor_decay = S(0.95);  ///< weight of the past in the running averages, in [0, 1)
  Schedule<Index> inverse_every = 1;   ///< steps between inverses, >= 1
  /// Largest squared length of a step in the metric of the curvature, >= 0; 0: any.
  S norm_constraint = S(1e-3);
  /// Where local energies are clipped, in mean absolute deviations; >= 0, 0: nowhere.
  S clip = S(5);

  static constexpr const char* kWhere = "kfac::VmcOptimizer";
  struct Values {
    S learning_rate, damping;
  };
  /// \throws OptionError
  Values at(Index step) const {
    return {detail::scheduled_positive(learning_rate, step, kWhere, "learning_rate"),
            detail::scheduled_positive(damping, step, kWhere, "damping")};
  }
  void validate() const {
    at(0);
    detail::scheduled_decay(factor_decay, 0, kWhere, "factor_decay");
    detail::scheduled(
        inverse_every, 0, kWhere, "inverse_every", [](Index value) { return value >= 1; }, ">= 1");
    detail::check_option(norm_constraint >= 0 && std::isfinite(norm_constraint), kWhere,
                         "norm_constraint", norm_constraint, ">= 0 and finite");
    detail::check_option(clip >= 0 && std::isfinite(clip), kWhere, "clip", clip, ">= 0 and finite");
  }
};

/// What a step did. If it is not ok, the parameters are as they were.
template <RealScalar S>
struct VmcReport {
  StepStatus status = StepStatus::Ok;
  std::string layer;                ///< where it failed, if at a layer
  EnergyStatistics<S> energy = {};  ///< before the step, of energies that are not clipped
  S learning_rate = 0;
  S norm_scale = 1;  ///< what the norm constraint made the step shorter by

  bool ok() const { return status == StepStatus::Ok; }
};

/// Writes the estimate of half the gradient of the energy, sum_n weights_n grad log |psi|(x_n), to
/// the gradient of the wave function's network, for any optimizer to step along. Nothing is
/// announced. \throws ShapeError, ValueError
template <class Wave>
void energy_gradient(Wave& wave, const ConstMatrixRef<typename Wave::Scalar>& x,
                     const Vector<typename Wave::Scalar>& weights) {
  const NoTracking untracked(wave.model());
  wave.model().forward(wave.inputs(x));
  wave.model().backward(weights.transpose());
}

/// K-FAC for variational Monte Carlo: natural gradient descent on the energy of a `WaveFunction`.
/// The Fisher is E[grad log |psi| grad log |psi|^T] over the walkers, that of outputs with a normal
/// distribution of unit variance.
///
///     kfac::VmcOptimizer optimizer(psi);
///     for (int step = 0; step < 300; ++step) {
///       const Eigen::MatrixXd& x = sampler.sample([&](const auto& x) { return psi.log_abs(x); });
///       const auto& report = optimizer.step(x, psi.local_energies(x, potential));
///     }
///
/// The step -rate v, v = F^-1 g, is made shorter by min(1, sqrt(norm_constraint / (rate^2 v^T g))):
/// v^T g is its squared length in the metric of the damped Fisher. The wave function must outlive
/// the optimizer and stay where it is.
/// \source Pfau et al. 2020, arXiv 1909.02487, section II.D, and the defaults of its code
template <class Wave>
class VmcOptimizer {
 public:
  using Scalar = typename Wave::Scalar;
  using S = Scalar;

  /// \throws OptionError
  explicit VmcOptimizer(Wave& wave, VmcOptions<typename Wave::Scalar> options = {})
      : options_((options.validate(), std::move(options))),
        wave_(wave),
        preconditioner_(wave.model(), preconditioner_options()) {}

  /// One step, from walkers (`coordinates x walkers`) and their local energies.
  /// \throws ShapeError or ValueError for what does not fit; OptionError for what a schedule gives
  const VmcReport<S>& step(const ConstMatrixRef<S>& x, const Vector<S>& energies) {
    const typename VmcOptions<S>::Values now = options_.at(steps_);
    detail::check_size(VmcOptions<S>::kWhere, "x", x.rows(), wave_.coordinates(), "rows");
    detail::check_size(VmcOptions<S>::kWhere, "energies", energies.size(), x.cols(), "entries");
    report_ = {};
    report_.energy = energy_statistics<S>(energies);
    report_.learning_rate = now.learning_rate;
    if (!energies.allFinite()) {
      report_.status = StepStatus::NonFiniteLoss;
      return report_;
    }
    const Matrix<S> inputs = wave_.inputs(x);
    const Vector<S> weights = energy_weights<S>(energies, options_.clip);
    wave_.model().forward(inputs);
    // Of the Fisher: the gradients of a mean over the walkers.
    wave_.model().backward_hooks_only(
        Matrix<S>::Constant(1, x.cols(), S(1) / static_cast<S>(x.cols())));
    {
      const NoTracking untracked(wave_.model());
      wave_.model().backward(weights.transpose());
    }
    VectorMap<S> gradient = wave_.model().gradient();
    const Vector<S> plain = gradient;
    const PreconditionerReport& preconditioned = preconditioner_.step();
    if (!preconditioned.ok()) {
      report_.status = preconditioned.status;
      report_.layer = preconditioned.layer;
      return report_;
    }
    const S square = now.learning_rate * now.learning_rate * plain.dot(gradient);
    if (options_.norm_constraint > 0 && square > options_.norm_constraint)
      report_.norm_scale = std::sqrt(options_.norm_constraint / square);
    take(-now.learning_rate * report_.norm_scale * gradient);
    return report_;
  }

  const VmcOptions<S>& options() const { return options_; }
  const VmcReport<S>& report() const { return report_; }
  Index steps() const { return steps_; }
  /// Whose blocks are the Fisher.
  Preconditioner<S>& preconditioner() { return preconditioner_; }

  /// Everything that steps change beside the parameters, for a run to be resumed.
  void visit_state(StateVisitor& visitor) {
    visitor.visit("steps", steps_);
    visitor.in("preconditioner", preconditioner_);
  }

 private:
  PreconditionerOptions<S> preconditioner_options() const {
    PreconditionerOptions<S> result;
    result.damping = options_.damping;
    result.factor_decay = options_.factor_decay;
    result.inverse_every = options_.inverse_every;
    return result;
  }

  void take(const Vector<S>& change) {
    if (!change.allFinite()) {
      report_.status = StepStatus::NonFiniteStep;
      return;
    }
    Index offset = 0;
    for (LayerView<S>& layer : wave_.model().layers()) {
      layer.parameters += change.segment(offset, layer.parameters.size());
      offset += layer.parameters.size();
    }
    ++steps_;
  }

  VmcOptions<S> options_;
  Wave& wave_;
  Preconditioner<S> preconditioner_;
  VmcReport<S> report_;
  Index steps_ = 0;
};

template <class Wave>
explicit VmcOptimizer(Wave&) -> VmcOptimizer<Wave>;
template <class Wave>
VmcOptimizer(Wave&, VmcOptions<typename Wave::Scalar>) -> VmcOptimizer<Wave>;

}  // namespace kfac
