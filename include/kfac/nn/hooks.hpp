#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

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
      if (const auto observers = list.lock())
        observers->erase(std::remove(observers->begin(), observers->end(), this), observers->end());
  }

  /// After the layer's forward pass: what its weights were multiplied with.
  virtual void on_input(const std::string& layer, const SharedBatch<S>& input) {
    static_cast<void>(layer), static_cast<void>(input);
  }
  /// After the layer's backward pass: the gradient with respect to its weights' products.
  virtual void on_output_gradient(const std::string& layer, const SharedBatch<S>& gradient) {
    static_cast<void>(layer), static_cast<void>(gradient);
  }

 private:
  friend class HookPoint<S>;
  using List = std::vector<Observer*>;
  std::vector<std::weak_ptr<List>> attached_to_;
};

/// Where observers of one layer are attached. Moves with its model; a copy of a model starts with
/// none.
template <RealScalar S>
class HookPoint {
 public:
  HookPoint() = default;
  HookPoint(const HookPoint&) {}
  HookPoint& operator=(const HookPoint&) { return *this; }
  HookPoint(HookPoint&&) noexcept = default;
  HookPoint& operator=(HookPoint&&) noexcept = default;
  ~HookPoint() = default;

  /// Observers are called in the order they were attached; attaching one twice is once.
  void attach(Observer<S>& observer) {
    if (!observers_) observers_ = std::make_shared<typename Observer<S>::List>();
    if (std::find(observers_->begin(), observers_->end(), &observer) != observers_->end()) return;
    observers_->push_back(&observer);
    observer.attached_to_.push_back(observers_);
  }

  bool empty() const { return !observers_ || observers_->empty(); }

  void announce_input(const std::string& layer, const SharedBatch<S>& input) const {
    for (Observer<S>* observer : *observers_) observer->on_input(layer, input);
  }
  void announce_output_gradient(const std::string& layer, const SharedBatch<S>& gradient) const {
    for (Observer<S>* observer : *observers_) observer->on_output_gradient(layer, gradient);
  }

 private:
  std::shared_ptr<typename Observer<S>::List> observers_;
};

}  // namespace kfac
