#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include <kfac/core/buffer.hpp>
#include <kfac/nn/shared_batch.hpp>

namespace kfac {

template <RealScalar S>
class HookPoint;

/// Hears what layers announce. Derive, override what is of interest, and `HookPoint::attach` it to
/// as many layers as wanted (`model.layers()` lists them):
///
///     struct Logger : kfac::Observer<float> {
///       void on_output_gradient(const std::string& layer, const kfac::SharedBatch<float>& g)
///       override {
///         std::cout << layer << ": " << g.columns() << '\n';
///       }
///     };
///     Logger logger;
///     for (auto& layer : model.layers())
///       if (layer.hooks) layer.hooks->attach(logger);
///
/// An observer that goes out of scope detaches itself, and so does a model; neither has to outlive
/// the other. Do not attach or detach from within a callback.
template <RealScalar S>
class Observer {
 public:
  Observer() = default;
  Observer(const Observer&) = delete;
  Observer& operator=(const Observer&) = delete;
  virtual ~Observer() {
    for (const auto& list : attached_to_)
      if (const auto point = list.lock()) std::erase(point->observers, this);
  }

  /// After the layer's forward pass: what its weights were multiplied with.
  virtual void on_input(const std::string& layer, const SharedBatch<S>& input) {
    static_cast<void>(layer), static_cast<void>(input);
  }
  /// After the layer's backward pass: the gradient with respect to its weights' products.
  virtual void on_output_gradient(const std::string& layer, const SharedBatch<S>& gradient) {
    static_cast<void>(layer), static_cast<void>(gradient);
  }

  /// The same for a layer that has parameters but announces no inputs and output gradients: only
  /// the sizes of `pass` may be read.
  virtual void on_forward(const std::string& layer, const SharedBatch<S>& pass) {
    static_cast<void>(layer), static_cast<void>(pass);
  }
  /// Whether it wants `on_example_gradients`, which may cost a pass through the layer an example.
  virtual bool wants_example_gradients() const { return false; }
  /// After the backward pass of such a layer: the gradient of its flat parameters for each example,
  /// `parameters x batch`.
  virtual void on_example_gradients(const std::string& layer, const SharedBatch<S>& gradients) {
    static_cast<void>(layer), static_cast<void>(gradients);
  }

 private:
  friend class HookPoint<S>;
  /// What a layer has while it is observed.
  struct Observed {
    std::vector<Observer*> observers;
    Buffer<S> memory;
  };
  std::vector<std::weak_ptr<Observed>> attached_to_;
};

/// Where observers of one layer are attached. Moves with its model; a copy of a model starts with
/// none.
template <RealScalar S>
class HookPoint {
 public:
  HookPoint() = default;
  HookPoint(const HookPoint&) {}
  // NOLINTNEXTLINE(bugprone-unhandled-self-assignment): nothing is assigned
  HookPoint& operator=(const HookPoint&) { return *this; }
  HookPoint(HookPoint&&) noexcept = default;
  HookPoint& operator=(HookPoint&&) noexcept = default;
  ~HookPoint() = default;

  /// Observers are called in the order they were attached; attaching one twice is once.
  void attach(Observer<S>& observer) {
    if (!observed_) observed_ = std::make_shared<typename Observer<S>::Observed>();
    std::vector<Observer<S>*>& observers = observed_->observers;
    if (std::find(observers.begin(), observers.end(), &observer) != observers.end()) return;
    observers.push_back(&observer);
    observer.attached_to_.push_back(observed_);
  }

  bool empty() const { return !observed_ || observed_->observers.empty(); }
  /// Memory for what is announced: one thread at a time has observers. \pre !empty()
  Buffer<S>& memory() const { return observed_->memory; }

  /// While it is not null, no other observer hears anything. \pre it is attached here
  void set_sole_observer(Observer<S>* observer) { sole_ = observer; }

  void announce_input(const std::string& layer, const SharedBatch<S>& input) const {
    for_each([&](Observer<S>& observer) { observer.on_input(layer, input); });
  }
  void announce_output_gradient(const std::string& layer, const SharedBatch<S>& gradient) const {
    for_each([&](Observer<S>& observer) { observer.on_output_gradient(layer, gradient); });
  }
  void announce_forward(const std::string& layer, const SharedBatch<S>& pass) const {
    for_each([&](Observer<S>& observer) { observer.on_forward(layer, pass); });
  }
  bool wants_example_gradients() const {
    bool wanted = false;
    if (!empty())
      for_each([&](Observer<S>& observer) { wanted |= observer.wants_example_gradients(); });
    return wanted;
  }
  void announce_example_gradients(const std::string& layer, const SharedBatch<S>& gradients) const {
    for_each([&](Observer<S>& observer) {
      if (observer.wants_example_gradients()) observer.on_example_gradients(layer, gradients);
    });
  }

 private:
  template <class Body>
  void for_each(Body&& body) const {
    if (sole_) return body(*sole_);
    for (Observer<S>* observer : observed_->observers) body(*observer);
  }

  Observer<S>* sole_ = nullptr;
  std::shared_ptr<typename Observer<S>::Observed> observed_;
};

}  // namespace kfac
