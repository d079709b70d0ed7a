#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <kfac/core/background_call.hpp>
#include <kfac/curvature/layer_curvature.hpp>
#include <kfac/curvature/layer_work.hpp>

namespace kfac {

/// When the inverses of a network's layers are made.
struct InverseUpdateOptions {
  bool stagger = false;       ///< spread over the steps of a period, a few layers each
  bool asynchronous = false;  ///< made while steps go on, from copies of the factors
  /// Where asynchronous: an inverse is used when the next of its layer is due, whenever it was
  /// ready.
  bool deterministic = true;
};

/// Keeps the inverses of layers up to date, each once a period. A layer's inverse is made when it
/// is due: of all that are, at the same time where the threads of the `ParallelScope` allow it.
/// Where asynchronous its factors are copied then, a thread of the pool inverts the copies, and the
/// inverse is in use from the next due step on at the latest: one period staler. The first inverse
/// of a layer is always made at once. Numbers do not depend on threads, but on whether inverses are
/// asynchronous.
template <RealScalar S>
class InverseUpdates {
 public:
  using Layers = std::vector<std::unique_ptr<LayerCurvature<S>>>;

  /// `costs`: of each layer's inverse, as `LayerWork`. `pool`: for what is asynchronous, which is
  /// otherwise made by the thread that steps. It must outlive this.
  InverseUpdates(std::vector<double> costs, const InverseUpdateOptions& options,
                 ThreadPool* pool = nullptr)
      : options_(options), pool_(pool), layers_(costs.size()), work_(std::move(costs)) {}
  ~InverseUpdates() = default;
  InverseUpdates(const InverseUpdates&) = delete;
  InverseUpdates& operator=(const InverseUpdates&) = delete;

  /// Brings the inverses up to date at a step, with `damping(layer index)`. Returns the first layer
  /// whose inverse could not be made, which keeps the one it had; null where there is none. All
  /// that were due are tried again at the next step.
  template <class Damping>
  const LayerCurvature<S>* update(const Layers& layers, Index step, Index period,
                                  Damping&& damping) {
    hurry(step);
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
      state.is_wanted = false;
      if (step < state.due) continue;
      const bool first = state.due == 0;
      state.next_due = step + (first && options_.stagger ? 1 + offset(i, period) : period);
      state.is_wanted = first || !options_.asynchronous || !(damping(i) > 0);
      if (state.is_wanted) continue;
      layers[i]->prepare_inverse(damping(i));
      state.outstanding = true;
      state.work.start(pool_, {layers[i].get()});
    }
    if (const LayerCurvature<S>* layer = make_wanted(layers, damping)) return layer;
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
      State& state = layers_[i];
      state.is_wanted = !(damping(i) > 0 && layers[i]->set_damping(damping(i)));
      if (!state.is_wanted) continue;
      state.work.drop();
      state.outstanding = false;
    }
    return make_wanted(layers, damping);
  }

  /// Until no thread is at work.
  void wait() {
    hurry(std::numeric_limits<Index>::max());
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
  struct Compute {
    LayerCurvature<S>* layer = nullptr;
    bool operator()() const { return layer->compute_inverse(); }
  };
  struct State {
    Index due = 0;  // at this step
    Index next_due = 0;
    bool outstanding = false;  // made or being made, not in use yet
    bool made = false;         // how that went, once `work` was finished
    bool is_wanted = false;    // now
    detail::BackgroundCall<Compute> work;
  };

  /// Makes the inverses that are wanted and returns the first layer of which it could not be made.
  template <class Damping>
  const LayerCurvature<S>* make_wanted(const Layers& layers, Damping&& damping) {
    const auto make = [&](std::size_t i) {
      layers_[i].made = layers[i]->refresh_inverse(damping(i));
    };
    // Without damping in their order: the first that is singular is named.
    for (std::size_t i = 0; i < layers.size(); ++i)
      if (layers_[i].is_wanted && !(damping(i) > 0)) make(i);
    work_.for_each([&](std::size_t i) { return layers_[i].is_wanted && damping(i) > 0; }, make);
    for (std::size_t i = 0; i < layers.size(); ++i)
      if (layers_[i].is_wanted && !layers_[i].made) return layers[i].get();
    return nullptr;
  }

  /// Such that a period's inverses are spread evenly over its steps.
  Index offset(std::size_t layer, Index period) const {
    return static_cast<Index>(layer) * period / static_cast<Index>(layers_.size());
  }

  /// Makes what is due at a step and no thread has begun, from the end at which they do not.
  void hurry(Index step) {
    for (auto state = layers_.rbegin(); state != layers_.rend(); ++state)
      if (step >= state->due) state->work.hurry();
  }
  static bool is_ready(const State& state) {
    return !state.work.is_started() || state.work.is_done();
  }
  static void finish(State& state) {
    if (!state.work.is_started()) return;
    state.made = false;  // also if it throws
    state.made = state.work.finish();
  }
  static bool adopt(State& state, LayerCurvature<S>& layer) {
    state.outstanding = false;
    finish(state);
    if (state.made) layer.adopt_inverse();
    return state.made;
  }

  InverseUpdateOptions options_;
  ThreadPool* pool_;
  std::vector<State> layers_;
  detail::LayerWork work_;
};

}  // namespace kfac
