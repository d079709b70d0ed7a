#pragma once

#include <cstddef>
#include <functional>
#include <string>

#include "support/tuning_run.hpp"

namespace examples {

/// What a table says of a run.
struct TuningColumn {
  std::string name;
  std::function<std::string(const TuningOutcome&)> text;
};

/// A number in the report of a step.
using Statistic = std::function<double(const kfac::StepReport<float>&)>;

double kl_scale(const kfac::StepReport<float>& report);
double rho(const kfac::StepReport<float>& report);
double damping(const kfac::StepReport<float>& report);
double learning_rate(const kfac::StepReport<float>& report);
double step_norm(const kfac::StepReport<float>& report);
/// Norm of the step of `model.layers()[index]`.
Statistic step_norm_of_layer(std::size_t index);
/// Of the step, without momentum, to that of gradient descent with learning rate / damping: 1 where
/// the curvature is nothing beside the damping.
double share_of_gradient_descent(const kfac::StepReport<float>& report);

// Over all steps that moved, and had such a number; empty if there are none.

/// What so large a share of them is not above.
TuningColumn quantile(const std::string& name, double share, const Statistic& statistic);
TuningColumn median(const std::string& name, const Statistic& statistic);
TuningColumn smallest(const std::string& name, const Statistic& statistic);
TuningColumn largest(const std::string& name, const Statistic& statistic);
TuningColumn first(const std::string& name, const Statistic& statistic);
TuningColumn last(const std::string& name, const Statistic& statistic);

// In milliseconds; means over the steps.

TuningColumn milliseconds(const std::string& name);
/// The same as a multiple of what loss and gradient took.
TuningColumn times_gradient();
TuningColumn milliseconds_of_gradient();
TuningColumn milliseconds_of_factors();
TuningColumn milliseconds_of_inverses();
/// Of the steps that make inverses, where no more than 1 step in 50 is longer.
TuningColumn long_inverses();

TuningColumn step_count();
TuningColumn failed_steps();
/// Shortened because the loss would have risen, and taken then.
TuningColumn shortened_steps();
TuningColumn rejected_steps();
/// How the last step ended.
TuningColumn status();
TuningColumn training_loss();
TuningColumn held_out_loss();
TuningColumn held_out_accuracy();

}  // namespace examples
