#pragma once

#include <cstddef>
#include <vector>

#include <kfac/curvature/layer_group.hpp>
#include <kfac/optim/momentum_rule.hpp>
#include <kfac/optim/parameter_step.hpp>

namespace kfac {

/// What the groups of layers make of the learning rate, layer by layer, at each step.
template <RealScalar S>
class LayerRates {
 public:
  /// \pre `groups` outlives it and stays where it is
  LayerRates(const std::vector<LayerView<S>>& layers, const std::vector<LayerGroup<S>>& groups)
      : scales_(layers.size(), S(1)) {
    for (const LayerView<S>& layer : layers) groups_.push_back(group_of(layer, groups));
  }

  /// The group of each layer, or null.
  const std::vector<const LayerGroup<S>*>& groups() const { return groups_; }

  /// Evaluates the schedules. \throws OptionError, naming `where`
  void set_step(const char* where, Index step) {
    for (std::size_t i = 0; i < groups_.size(); ++i)
      if (groups_[i]) scales_[i] = groups_[i]->scales_at(where, step).second;
  }

  /// Multiplies a vector of all parameters with the scales.
  template <class Flat>
  void scale(const ParameterStep<S>& step, Flat& flat) const {
    for_each_scale(step, [&](std::size_t, S scale, Index offset, Index size) {
      if (scale != 1) flat.segment(offset, size) *= scale;
    });
  }
  /// Layers that are to stay where they are do not coast either.
  void stop_frozen(const ParameterStep<S>& step, MomentumRule<S>& memory) const {
    for_each_scale(step, [&](std::size_t, S scale, Index offset, Index size) {
      if (scale == 0) memory.stop(offset, size);
    });
  }
  /// Calls body(layer index, scale, offset of its parameters in flat vectors, how many).
  template <class Body>
  void for_each_scale(const ParameterStep<S>& step, Body&& body) const {
    std::size_t index = 0;
    step.for_each_layer([&](const LayerView<S>& layer, Index offset) {
      body(index, scales_[index], offset, layer.parameters.size());
      ++index;
    });
  }

 private:
  std::vector<const LayerGroup<S>*> groups_;
  std::vector<S> scales_;
};

}  // namespace kfac
