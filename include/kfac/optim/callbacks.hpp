#pragma once

#include <cmath>
#include <limits>
#include <optional>
#include <type_traits>
#include <utility>

#include <kfac/core/errors.hpp>
#include <kfac/core/state.hpp>
#include <kfac/optim/step_report.hpp>

/// What `fit` calls after each step: any function of the event that returns nothing, or whether
/// training is to go on. If it has a member `finish()` too, that is called once at the end.
namespace kfac {

/// What a callback is told, after a step.
template <RealScalar S>
struct TrainingEvent {
  Index step = 0;            ///< how many the stream's batches made, this one included: from 1
  Index epoch = 0;           ///< that the batch was of, from 0
  bool epoch_ended = false;  ///< it was the last of them
  Index steps = 0;           ///< how many there will be, if that is known; else 0
  double seconds = 0;        ///< of this run, spent on batches and steps: not in callbacks
  const StepReport<S>& report;
};

enum class TrainingControl { Continue, Stop };

namespace detail {

/// Calls `callback(event)` or `callback()`.
template <class Callback, RealScalar S>
decltype(auto) call_with_event(Callback& callback, const TrainingEvent<S>& event) {
  if constexpr (std::is_invocable_v<Callback&, const TrainingEvent<S>&>)
    return callback(event);
  else
    return callback();
}

/// The same; one that returns nothing wants to go on.
template <class Callback, RealScalar S>
TrainingControl run_callback(Callback& callback, const TrainingEvent<S>& event) {
  using Result = decltype(call_with_event(callback, event));
  static_assert(std::is_void_v<Result> || std::is_same_v<Result, TrainingControl>,
                "a callback returns nothing, or TrainingControl::Continue or Stop");
  if constexpr (std::is_void_v<Result>) {
    call_with_event(callback, event);
    return TrainingControl::Continue;
  } else {
    return call_with_event(callback, event);
  }
}

}  // namespace detail

/// Calls `callback(event)` or `callback()` after every `steps`-th step. \throws OptionError
template <class Callback>
auto every(Index steps, Callback callback) {
  detail::check_option(steps >= 1, "kfac::every", "steps", steps, ">= 1");
  return [steps, callback = std::move(callback)](const auto& event) mutable {
    return event.step % steps == 0 ? detail::run_callback(callback, event)
                                   : TrainingControl::Continue;
  };
}

/// Calls `callback(event)` or `callback()` after the last step of each epoch.
template <class Callback>
auto at_epoch_end(Callback callback) {
  return [callback = std::move(callback)](const auto& event) mutable {
    return event.epoch_ended ? detail::run_callback(callback, event) : TrainingControl::Continue;
  };
}

/// Calls `show(step, steps)` after each step, for a progress bar; `steps` is 0 where the end is not
/// known.
template <class Show>
auto progress(Show show) {
  return [show = std::move(show)](const auto& event) mutable { show(event.step, event.steps); };
}

/// A metric for `EarlyStopping`: `value(event)` or `value()`, after the last step of each epoch.
template <class Value>
auto each_epoch(Value value) {
  return [value = std::move(value)](const auto& event) mutable -> std::optional<double> {
    if (!event.epoch_ended) return std::nullopt;
    return static_cast<double>(detail::call_with_event(value, event));
  };
}

/// A metric for `EarlyStopping`: the mean of the losses of batches, before their steps, over each
/// `steps` of them or, with 0, each epoch.
class MeanBatchLoss {
 public:
  /// \throws OptionError
  explicit MeanBatchLoss(Index steps = 0) : steps_(steps) {
    detail::check_option(steps >= 0, "kfac::MeanBatchLoss", "steps", steps, ">= 0");
  }

  template <RealScalar S>
  std::optional<double> operator()(const TrainingEvent<S>& event) {
    sum_ += static_cast<double>(event.report.loss);
    ++count_;
    if (steps_ > 0 ? count_ < steps_ : !event.epoch_ended) return std::nullopt;
    const double mean = sum_ / static_cast<double>(count_);
    sum_ = 0;
    count_ = 0;
    return mean;
  }

  void visit_state(StateVisitor& visitor) {
    visitor.visit("sum", sum_);
    visitor.visit("count", count_);
  }

 private:
  Index steps_;
  Index count_ = 0;
  double sum_ = 0;
};

struct EarlyStoppingOptions {
  Index patience = 5;     ///< how many values in a row may be no better than the best; >= 0
  double min_delta = 0;   ///< by how much a better value is better, at least; >= 0, finite
  bool maximize = false;  ///< of an accuracy, say; else the smaller is the better

  void validate() const {
    static constexpr const char* kWhere = "kfac::EarlyStopping";
    detail::check_option(patience >= 0, kWhere, "patience", patience, ">= 0");
    detail::check_option(min_delta >= 0 && std::isfinite(min_delta), kWhere, "min_delta", min_delta,
                         ">= 0 and finite");
  }
};

/// Stops training when a metric no longer gets better. The metric is a function of the event, and
/// returns a number after some steps and `std::nullopt` after the others; NaN is never better.
///
///     kfac::EarlyStopping stopping({.patience = 3}, kfac::each_epoch([&] {
///       return kfac::dataset_loss(model, loss, validation);
///     }));
///     kfac::fit(optimizer, stream, {.epochs = 100}, stopping);
template <class Metric = MeanBatchLoss>
class EarlyStopping {
 public:
  /// \throws OptionError
  explicit EarlyStopping(EarlyStoppingOptions options = {}, Metric metric = Metric{})
      : options_((options.validate(), options)), metric_(std::move(metric)) {}

  template <RealScalar S>
  TrainingControl operator()(const TrainingEvent<S>& event) {
    improved_ = false;
    const std::optional<double> value = metric_(event);
    if (!value) return TrainingControl::Continue;
    const double gain = options_.maximize ? *value - best_ : best_ - *value;
    improved_ = best_step_ == 0 ? !std::isnan(*value) : gain > options_.min_delta;
    if (improved_) {
      best_ = *value;
      best_step_ = event.step;
      worse_ = 0;
      return TrainingControl::Continue;
    }
    ++worse_;
    return worse_ > options_.patience ? TrainingControl::Stop : TrainingControl::Continue;
  }

  /// NaN before the first value.
  double best() const { return best_; }
  /// The step after which it was; 0 before the first value.
  Index best_step() const { return best_step_; }
  /// Whether the last step gave a new best value: for a callback after this one that keeps the
  /// parameters.
  bool improved() const { return improved_; }

  void visit_state(StateVisitor& visitor) {
    visitor.visit("best", best_);
    visitor.visit("best_step", best_step_);
    visitor.visit("worse", worse_);
    if constexpr (requires { metric_.visit_state(visitor); }) visitor.in("metric", metric_);
  }

 private:
  EarlyStoppingOptions options_;
  Metric metric_;
  double best_ = std::numeric_limits<double>::quiet_NaN();
  Index best_step_ = 0;
  Index worse_ = 0;  // values in a row
  bool improved_ = false;
};

}  // namespace kfac
