#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include <kfac/nn/layer.hpp>
#include <kfac/optim/step_report.hpp>

namespace kfac {

/// What every optimizer does around its own rule: reads a model's flat parameters and gradient,
/// checks them, and takes a step that was written to `delta()`, whole or not at all.
template <RealScalar S>
class ParameterStep {
 public:
  template <class Model>
  explicit ParameterStep(Model& model)
      : layers_(model.layers()),
        gradient_(model.gradient()),
        delta_(Vector<S>::Zero(gradient_.size())) {
    report_.layer_step_norms.assign(layers_.size(), S(0));
  }

  const std::vector<LayerView<S>>& layers() const { return layers_; }
  VectorMap<S>& gradient() { return gradient_; }
  Vector<S>& delta() { return delta_; }
  StepReport<S>& report() { return report_; }

  /// Calls body(layer, offset of its parameters in the flat vectors).
  template <class Body>
  void for_each_layer(Body&& body) const {
    Index offset = 0;
    for (const LayerView<S>& layer : layers_) {
      body(layer, offset);
      offset += layer.parameters.size();
    }
  }

  /// Starts the report; a loss, where there is one, or a gradient that is not finite ends the step.
  bool begin(std::optional<S> loss) {
    report_.status = StepStatus::Ok;
    report_.layer.clear();
    report_.loss = loss.value_or(std::numeric_limits<S>::quiet_NaN());
    report_.gradient_norm = std::numeric_limits<S>::quiet_NaN();
    report_.step_norm = 0;
    std::ranges::fill(report_.layer_step_norms, S(0));
    report_.kl_scale = 1;
    if (loss && !std::isfinite(*loss)) {
      report_.status = StepStatus::NonFiniteLoss;
      return false;
    }
    report_.gradient_norm = norm(gradient_);
    if (std::isfinite(report_.gradient_norm)) return true;
    return fail_at_first_non_finite(StepStatus::NonFiniteGradient, gradient_);
  }

  /// Adds `factor` times the parameters to a flat vector.
  template <class Flat>
  void add_parameters(S factor, Flat& flat) const {
    if (factor == 0) return;
    for_each_layer([&](const LayerView<S>& layer, Index offset) {
      flat.segment(offset, layer.parameters.size()) += factor * layer.parameters;
    });
  }

  /// Adds `delta()` to the parameters, unless it is not finite.
  bool finish() {
    const S step_norm = norm(delta_);
    if (!std::isfinite(step_norm))
      return fail_at_first_non_finite(StepStatus::NonFiniteStep, delta_);
    report_.step_norm = step_norm;
    std::size_t index = 0;
    for_each_layer([&](const LayerView<S>& layer, Index offset) {
      VectorMap<S> parameters = layer.parameters;
      const auto step = delta_.segment(offset, parameters.size());
      parameters += step;
      report_.layer_step_norms[index++] = norm(step);
    });
    return true;
  }

 private:
  /// Also where the squares overflow and the norm does not.
  template <class Flat>
  static S norm(const Flat& flat) {
    const S fast = flat.norm();
    return std::isfinite(fast) ? fast : flat.stableNorm();
  }

  template <class Flat>
  bool fail_at_first_non_finite(StepStatus status, const Flat& flat) {
    report_.status = status;
    for_each_layer([&](const LayerView<S>& layer, Index offset) {
      if (report_.layer.empty() && !flat.segment(offset, layer.parameters.size()).allFinite())
        report_.layer = layer.name;
    });
    return false;
  }

  std::vector<LayerView<S>> layers_;
  VectorMap<S> gradient_;
  Vector<S> delta_;
  StepReport<S> report_;
};

}  // namespace kfac
