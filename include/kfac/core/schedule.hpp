#pragma once

#include <cmath>
#include <concepts>
#include <functional>
#include <string>
#include <type_traits>
#include <utility>

#include <kfac/core/errors.hpp>

namespace kfac {

namespace detail {

/// Numbers that a schedule of T takes: a whole number, such as a period, is not to be cut out of a
/// real one silently.
template <class Number, class T>
concept ScheduleNumber = std::is_arithmetic_v<Number> &&
    (std::is_floating_point_v<T> || std::is_integral_v<Number>);

template <class Function, class T>
concept ScheduleFunction =
    std::invocable<Function&, Index> && ScheduleNumber<std::invoke_result_t<Function&, Index>, T>;

}  // namespace detail

/// A number that an option gives for every step: a constant, or a function of how many steps there
/// were before (from 0). Both convert to it, so that options read
///
///     {.learning_rate = 0.5f, .momentum = [](Index step) { return step < 100 ? 0.5f : 0.9f; }}
///
/// The usual functions are in `kfac::schedules`. A function must give the same value whenever it is
/// asked for the same step, for runs to be repeated and resumed; evaluation allocates nothing.
template <class T>
class Schedule {
  static_assert(std::is_arithmetic_v<T>, "a schedule is of numbers");

 public:
  using Value = T;

  template <detail::ScheduleNumber<T> Number>
  // NOLINTNEXTLINE(google-explicit-constructor)
  Schedule(Number constant) : constant_(static_cast<T>(constant)) {}

  /// \throws OptionError for a null pointer or an empty std::function
  template <detail::ScheduleFunction<T> Function>
  // NOLINTNEXTLINE(google-explicit-constructor)
  Schedule(Function function) : function_(std::move(function)) {
    if (!function_)
      raise<OptionError>("kfac::Schedule: 'function' is empty, expected a function of the step");
  }

  /// Of another type of numbers; a constant stays one.
  template <detail::ScheduleNumber<T> Other>
  // NOLINTNEXTLINE(google-explicit-constructor)
  Schedule(const Schedule<Other>& other) {
    if (other.is_constant())
      constant_ = static_cast<T>(other(0));
    else
      function_ = other;
  }

  T operator()(Index step) const { return function_ ? function_(step) : constant_; }
  bool is_constant() const { return !function_; }

 private:
  T constant_ = 0;
  std::function<T(Index)> function_;
};

namespace detail {

/// What a schedule gives at a step. Raises an OptionError unless `ok(value)`, in the words of
/// `check_option`; of what is no constant the message names the step.
template <class T, class Ok>
T scheduled(const Schedule<T>& schedule, Index step, const char* where, const char* field, Ok ok,
            const char* expected) {
  const T value = schedule(step);
  if (ok(value)) return value;
  raise<OptionError>(std::string(where) + ": '" + field + "' is " + text(value) +
                     (schedule.is_constant() ? "" : " at step " + std::to_string(step)) +
                     ", expected " + expected);
}

/// The same for the ranges that most options have.
template <class T>
T scheduled_positive(const Schedule<T>& schedule, Index step, const char* where,
                     const char* field) {
  return scheduled(
      schedule, step, where, field, [](T value) { return value > 0 && std::isfinite(value); },
      "> 0 and finite");
}

template <class T>
T scheduled_non_negative(const Schedule<T>& schedule, Index step, const char* where,
                         const char* field) {
  return scheduled(
      schedule, step, where, field, [](T value) { return value >= 0 && std::isfinite(value); },
      ">= 0 and finite");
}

/// In [0, 1): what is kept of the past.
template <class T>
T scheduled_decay(const Schedule<T>& schedule, Index step, const char* where, const char* field) {
  return scheduled(
      schedule, step, where, field, [](T value) { return value >= 0 && value < 1; }, "in [0, 1)");
}

}  // namespace detail
}  // namespace kfac
