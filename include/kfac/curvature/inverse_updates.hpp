#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <kfac/core/thread_pool.hpp>
#include <kfac/curvature/layer_curvature.hpp>

namespace kfac {

/// When and where the inverses of a network's layers are made.
struct InverseUpdateOptions {
  bool stagger = false;  ///< spread over the steps of a period, a few layers each
  Index threads = 0;     ///< that make them; 0: the thread that steps
  /// With threads: an inverse is used when the next of its layer is due, whenever it was ready.
  bool deterministic = true;

  /// \throws OptionError
  void validate(const char* where) const {
    detail::check_option(threads >= 0, where, "inverse_threads", threads, ">= 0");
  }
};

/// Keeps the inverses of layers up to date, each once a period. Without threads a layer's inverse
/// is made when it is due. With threads its factors are copied then, a worker inverts the copies,
/// and the inverse is in use from the next due step on at the latest: one period staler. The first
/// inverse of a layer is always made at once.
template <RealScalar S>
class InverseUpdates {
 public:
  using Layers = std::vector<std::unique_ptr<LayerCurvature<S>>>;

  InverseUpdates(std::size_t layers, const InverseUpdateOptions& options)
      : options_(options), layers_(layers) {
    if (options.threads > 0) pool_ = std::make_unique<ThreadPool>(options.threads);
  }
  ~InverseUpdates() = default;
  InverseUpdates(const InverseUpdates&) = delete;
  InverseUpdates& operator=(const InverseUpdates&) = delete;

  /// Brings the inverses up to date at a step, with `damping(layer index)`. Returns the first layer
  /// whose inverse could not be made, which keeps the one it had; null where there is none. It is
  /// tried again at the next step.
  template <class Damping>
  const LayerCurvature<S>* update(const Layers& layers, Index step, Index period,
                                  Damping&& damping) {
    const LayerCurvature<S>* failed = nullptr;
    for (std::size_t i = 0; i < layers.size(); ++i) {
      State& state = layers_[i];
      const bool wanted = step >= state.due || (!options_.deterministic && is_ready(state));
      if (!state.outstanding || !wanted || adopt(state, *layers[i])) continue;
      state.due = std::min(state.due, step);
      if (!failed) failed = layers[i].get();
    }
    if (failed) return failed;
    for (std::size_t i = 0; i < layers.size(); ++i) {
      State& state = layers_[i];
      LayerCurvature<S>& layer = *layers[i];
      if (step < state.due) continue;
      const bool first = state.due == 0;
      if (pool_ && !first && damping(i) > 0) {
        layer.prepare_inverse(damping(i));
        state.outstanding = true;
        state.result = pool_->submit([&layer] { return layer.compute_inverse(); });
      } else if (!layer.refresh_inverse(damping(i))) {
        return &layer;
      }
      state.next_due = step + (first && options_.stagger ? 1 + offset(i, period) : period);
    }
    // Only now: after a failure all that was due is due again.
    for (State& state : layers_)
      if (step >= state.due) state.due = state.next_due;
    return nullptr;
  }

  /// Changes the damping of every inverse, now: of kinds that follow it at next to no cost, and of
  /// the others by a new inverse, for which one under way is lost. As `update`.
  template <class Damping>
  const LayerCurvature<S>* redamp(const Layers& layers, Damping&& damping) {
    for (std::size_t i = 0; i < layers.size(); ++i) {
      if (damping(i) > 0 && layers[i]->set_damping(damping(i))) continue;
      finish(layers_[i]);
      layers_[i].outstanding = false;
      if (!layers[i]->refresh_inverse(damping(i))) return layers[i].get();
    }
    return nullptr;
  }

  /// Until no thread is at work.
  void wait() {
    for (State& state : layers_) finish(state);
  }

  void visit_state(StateVisitor& visitor) {
    wait();
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      const std::string name = std::to_string(i);
      visitor.visit(name + ".due", layers_[i].due);
      visitor.visit(name + ".outstanding", layers_[i].outstanding);
      visitor.visit(name + ".made", layers_[i].made);
    }
  }

 private:
  struct State {
    Index due = 0;  // at this step
    Index next_due = 0;
    bool outstanding = false;  // made or being made, not in use yet
    bool made = false;         // how that went, once `result` was taken
    std::future<bool> result;
  };

  /// Such that a period's inverses are spread evenly over its steps.
  Index offset(std::size_t layer, Index period) const {
    return static_cast<Index>(layer) * period / static_cast<Index>(layers_.size());
  }

  static bool is_ready(const State& state) {
    return !state.result.valid() ||
           state.result.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
  }
  static void finish(State& state) {
    if (!state.result.valid()) return;
    state.made = false;  // also if it throws
    state.made = state.result.get();
  }
  static bool adopt(State& state, LayerCurvature<S>& layer) {
    state.outstanding = false;
    finish(state);
    if (state.made) layer.adopt_inverse();
    return state.made;
  }

  InverseUpdateOptions options_;
  std::vector<State> layers_;
  std::unique_ptr<ThreadPool> pool_;  // last: its threads end before the rest is gone
};

}  // namespace kfac
