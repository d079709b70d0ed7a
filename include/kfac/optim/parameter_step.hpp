#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include <kfac/nn/layer.hpp>
#include <kfac/optim/step_report.hpp>

namespace kfac {

/// Picks parameters of a model: each of `layer.parameter_info`. The usual one leaves biases out:
///
///     [](const auto& layer, const auto& parameter) { return !parameter.name.starts_with("bias"); }
template <RealScalar S>
using ParameterPredicate = std::function<bool(const LayerView<S>&, const ParameterInfo&)>;

/// What every optimizer does around its own rule: reads a model's flat parameters and gradient,
/// checks them, and takes a step that was written to `delta()`, whole or not at all.
template <RealScalar S>
class ParameterStep {
 public:
  /// Where the change of the parameters is made.
  enum class Delta {
    Apart,       ///< in memory of its own
    InGradient,  ///< in that of the gradient, which is lost
  };

  template <class Model>
  explicit ParameterStep(Model& model, Delta delta = Delta::Apart)
      : layers_(model.layers()),
        gradient_(model.gradient()),
        own_delta_(Vector<S>::Zero(delta == Delta::Apart ? gradient_.size() : 0)),
        delta_(delta == Delta::Apart ? own_delta_.data() : gradient_.data(), gradient_.size()) {
    report_.layer_gradient_norms.assign(layers_.size(), S(0));
    report_.layer_step_norms.assign(layers_.size(), S(0));
    set_decayed({});
  }
  ~ParameterStep() = default;
  ParameterStep(const ParameterStep&) = delete;
  ParameterStep& operator=(const ParameterStep&) = delete;

  const std::vector<LayerView<S>>& layers() const { return layers_; }
  VectorMap<S>& gradient() { return gradient_; }
  VectorMap<S>& delta() { return delta_; }
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

  /// Which parameters weight decay is for; all where there is no predicate.
  void set_decayed(const ParameterPredicate<S>& decays) {
    decayed_.clear();
    for_each_layer([&](const LayerView<S>& layer, Index offset) {
      VectorMap<S> parameters = layer.parameters;
      Index begin = 0, end = 0;  // of what decays, side by side
      const auto add = [&] {
        if (begin < end)
          decayed_.push_back({offset + begin, {parameters.data() + begin, end - begin}});
      };
      if (!decays) end = parameters.size();
      for (const ParameterInfo& parameter : layer.parameter_info) {
        if (!decays || !decays(layer, parameter)) continue;
        if (parameter.offset != end) {
          add();
          begin = parameter.offset;
        }
        end = parameter.offset + parameter.rows * parameter.columns;
      }
      add();
    });
  }

  /// Starts the report afresh; a loss, where there is one, or a gradient that is not finite ends
  /// the step. `step` is how many there were before it.
  bool begin(std::optional<S> loss, Index step = 0) {
    clear_report();
    report_.step = step;
    if (loss) report_.loss = *loss;
    if (loss && !std::isfinite(*loss)) {
      report_.status = StepStatus::NonFiniteLoss;
      return false;
    }
    report_.gradient_norm = norms(gradient_, report_.layer_gradient_norms);
    if (std::isfinite(report_.gradient_norm)) return true;
    return fail_at_first_non_finite(StepStatus::NonFiniteGradient, gradient_);
  }

  /// What the gradient is to be multiplied with for its norm to be at most `largest` (0: any),
  /// which the report then tells. \source Pascanu, Mikolov and Bengio 2013, arXiv 1211.5063,
  /// algorithm 1
  S clip(S largest) {
    if (largest > 0 && report_.gradient_norm > largest)
      report_.gradient_scale = largest / report_.gradient_norm;
    return report_.gradient_scale;
  }

  /// Adds `factor` times the parameters that decay to a flat vector.
  template <class Flat>
  void add_parameters(S factor, Flat& flat) const {
    if (factor == 0) return;
    for (const Decayed& part : decayed_)
      flat.segment(part.offset, part.parameters.size()) += factor * part.parameters;
  }

  /// The inner product of two flat vectors over the parameters that decay, summed in double.
  template <class A, class B>
  S decayed_dot(const A& a, const B& b) const {
    double sum = 0;
    for (const Decayed& part : decayed_)
      sum += a.segment(part.offset, part.parameters.size())
                 .template cast<double>()
                 .dot(b.segment(part.offset, part.parameters.size()).template cast<double>());
    return static_cast<S>(sum);
  }
  template <class Flat>
  S decayed_squared_norm(const Flat& flat) const {
    return decayed_dot(flat, flat);
  }
  /// Of the parameters that decay themselves.
  S parameters_squared_norm() const {
    double sum = 0;
    for (const Decayed& part : decayed_)
      sum += part.parameters.template cast<double>().squaredNorm();
    return static_cast<S>(sum);
  }

  /// Adds `delta()` to the parameters, unless it is not finite.
  bool finish() {
    const S step_norm = norms(delta_, report_.layer_step_norms);
    if (!std::isfinite(step_norm)) {
      std::ranges::fill(report_.layer_step_norms, S(0));
      return fail_at_first_non_finite(StepStatus::NonFiniteStep, delta_);
    }
    report_.step_norm = step_norm;
    for_each_layer([&](const LayerView<S>& layer, Index offset) {
      VectorMap<S> parameters = layer.parameters;
      parameters += delta_.segment(offset, parameters.size());
    });
    return true;
  }

  // For a step that may be taken back, bit by bit:

  void remember_parameters() {
    before_.resize(delta_.size());
    for_each_layer([&](const LayerView<S>& layer, Index offset) {
      before_.segment(offset, layer.parameters.size()) = layer.parameters;
    });
  }
  /// Puts back what was remembered last.
  void take_back() {
    for_each_layer([&](const LayerView<S>& layer, Index offset) {
      VectorMap<S> parameters = layer.parameters;
      parameters = before_.segment(offset, parameters.size());
    });
  }

 private:
  /// Parameters that decay and lie side by side, and where they do in the flat vectors.
  struct Decayed {
    Index offset;
    VectorMap<S> parameters;
  };

  /// All but the memory for the norms.
  void clear_report() {
    StepReport<S> fresh;
    fresh.layer_gradient_norms = std::move(report_.layer_gradient_norms);
    fresh.layer_step_norms = std::move(report_.layer_step_norms);
    std::ranges::fill(fresh.layer_gradient_norms, StepReport<S>::kNone);
    std::ranges::fill(fresh.layer_step_norms, S(0));
    fresh.gradient_norm = StepReport<S>::kNone;
    report_ = std::move(fresh);
  }

  /// Writes the norm of each layer's segment, and returns that of all.
  template <class Flat>
  S norms(const Flat& flat, std::vector<S>& of_layers) const {
    std::size_t index = 0;
    S largest = 0;
    bool finite = true;
    for_each_layer([&](const LayerView<S>& layer, Index offset) {
      const S value = norm(flat.segment(offset, layer.parameters.size()));
      finite = finite && std::isfinite(value);
      largest = std::max(largest, value);
      of_layers[index++] = value;
    });
    if (!finite) return StepReport<S>::kNone;
    if (largest == 0) return 0;
    S squares = 0;
    for (const S value : of_layers) squares += (value / largest) * (value / largest);
    return largest * std::sqrt(squares);
  }

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
  std::vector<Decayed> decayed_;
  VectorMap<S> gradient_;
  Vector<S> own_delta_;
  VectorMap<S> delta_;
  Vector<S> before_;  // the parameters before a step; empty until it is asked for
  StepReport<S> report_;
};

}  // namespace kfac
