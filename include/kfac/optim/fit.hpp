#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>

#include <kfac/core/errors.hpp>
#include <kfac/optim/callbacks.hpp>

namespace kfac {

/// When `fit` ends by itself: at the first of these limits, of which 0 is none. Steps and epochs
/// count from the beginning of the stream, so that a run which is resumed takes the same.
struct FitOptions {
  Index steps = 0;     ///< >= 0
  Index epochs = 0;    ///< >= 0
  double seconds = 0;  ///< spent on batches and steps: callbacks do not count; >= 0, finite
  /// How many steps in a row may fail, with a report that is not ok, without ending it; >= 0.
  Index tolerated_failures = 0;

  void validate() const {
    static constexpr const char* kWhere = "kfac::fit";
    detail::check_option(steps >= 0, kWhere, "steps", steps, ">= 0");
    detail::check_option(epochs >= 0, kWhere, "epochs", epochs, ">= 0");
    detail::check_option(seconds >= 0 && std::isfinite(seconds), kWhere, "seconds", seconds,
                         ">= 0 and finite");
    detail::check_option(tolerated_failures >= 0, kWhere, "tolerated_failures", tolerated_failures,
                         ">= 0");
  }
};

enum class FitEnd {
  Finished,    ///< a limit of the options was reached
  Callback,    ///< one wanted to stop
  StepFailed,  ///< too many in a row, the last with the result's status
};

struct FitResult {
  Index steps = 0;     ///< taken by this call, those that failed included
  double seconds = 0;  ///< spent on them
  FitEnd end = FitEnd::Finished;
  StepStatus status = StepStatus::Ok;  ///< of the last step
};

namespace detail {

/// Seconds of the wall clock, while it runs.
class Stopwatch {
  using Clock = std::chrono::steady_clock;

 public:
  void start() { started_ = Clock::now(); }
  double stop() {
    seconds_ += std::chrono::duration<double>(Clock::now() - started_).count();
    return seconds_;
  }
  double seconds() const { return seconds_; }

 private:
  Clock::time_point started_ = {};
  double seconds_ = 0;
};

/// The stream's step at which the options end training, or 0.
inline Index last_step(const FitOptions& options, Index batches_per_epoch) {
  const Index of_epochs = options.epochs * batches_per_epoch;
  if (options.steps == 0 || of_epochs == 0) return std::max(options.steps, of_epochs);
  return std::min(options.steps, of_epochs);
}

}  // namespace detail

/// Trains: takes batches from the stream (`BatchStream`) and steps on them with the optimizer, and
/// calls each callback after each step, in the order given, until a limit or a callback ends it.
///
///     kfac::fit(optimizer, stream, {.epochs = 5}, kfac::at_epoch_end([&](const auto& event) {
///       std::cout << event.epoch << ' ' << kfac::accuracy(model, test) << '\n';
///     }));
///
/// After a step that one callback ends training with, the others are called too; so they are after
/// one that failed.
/// \throws OptionError; what the optimizer and the callbacks throw
template <class Optimizer, class Stream, class... Callbacks>
FitResult fit(Optimizer& optimizer, Stream& stream, const FitOptions& options,
              Callbacks&&... callbacks) {
  using S = typename Stream::Scalar;
  options.validate();
  const Index last_step = detail::last_step(options, stream.batches_per_epoch());
  detail::check_option(last_step > 0 || options.seconds > 0 || sizeof...(callbacks) > 0,
                       "kfac::fit", "steps", options.steps, "a limit or a callback that ends it");

  FitResult result;
  detail::Stopwatch stopwatch;
  Index failures = 0;
  const auto is_over = [&] {
    if (last_step > 0 && stream.steps() >= last_step) return true;
    return options.seconds > 0 && stopwatch.seconds() >= options.seconds;
  };
  while (result.end == FitEnd::Finished && !is_over()) {
    stopwatch.start();
    const auto batch = stream.next();
    const StepReport<S>& report = optimizer.step(batch.inputs, batch.targets);
    result.seconds = stopwatch.stop();
    result.status = report.status;
    ++result.steps;
    failures = report.ok() ? 0 : failures + 1;

    [[maybe_unused]] const TrainingEvent<S> event{
        stream.steps(), stream.epoch(), stream.epoch_ended(), last_step, result.seconds, report};
    bool wants_stop = false;
    ((wants_stop |= detail::run_callback(callbacks, event) == TrainingControl::Stop), ...);
    if (failures > options.tolerated_failures)
      result.end = FitEnd::StepFailed;
    else if (wants_stop)
      result.end = FitEnd::Callback;
  }
  [[maybe_unused]] const auto finish = [](auto& callback) {
    if constexpr (requires { callback.finish(); }) callback.finish();
  };
  (finish(callbacks), ...);
  return result;
}

}  // namespace kfac
