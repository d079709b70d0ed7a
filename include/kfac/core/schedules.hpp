#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <numbers>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <kfac/core/schedule.hpp>

namespace kfac {
namespace detail {

template <class T>
concept Arithmetic = std::is_arithmetic_v<T>;

/// The numbers that a constant, a schedule or a function of the step gives; whole ones are Index.
template <class Source>
struct ScheduledNumber {
  using Number = std::invoke_result_t<Source&, Index>;
  using Type = std::conditional_t<std::is_floating_point_v<Number>, Number, Index>;
};
template <Arithmetic Number>
struct ScheduledNumber<Number> {
  using Type = std::conditional_t<std::is_floating_point_v<Number>, Number, Index>;
};

/// The schedule type that holds several of them.
template <class... Sources>
using ScheduleOf = Schedule<std::common_type_t<typename ScheduledNumber<Sources>::Type...>>;

/// The same for what has fractions even of whole numbers: those become double.
template <class... Sources>
using RealScheduleOf =
    Schedule<std::conditional_t<std::is_floating_point_v<typename ScheduleOf<Sources...>::Value>,
                                typename ScheduleOf<Sources...>::Value, double>>;

/// `combine` of what two schedules give; of two constants a constant.
template <class A, class B, class Combine>
ScheduleOf<A, B> combined(A first, B second, Combine combine) {
  using T = typename ScheduleOf<A, B>::Value;
  const Schedule<T> a(std::move(first)), b(std::move(second));
  if (a.is_constant() && b.is_constant()) return combine(a(0), b(0));
  return [=](Index step) { return combine(a(step), b(step)); };
}

/// The share of `steps` that has gone by, at most 1.
inline double elapsed(Index step, Index steps) {
  return step < steps ? static_cast<double>(step) / static_cast<double>(steps) : 1.0;
}

template <class Number>
void check_schedule_finite(const char* where, const char* argument, Number value) {
  check_option(std::isfinite(value), where, argument, value, "finite");
}

template <class Number>
void check_schedule_factor(const char* where, const char* argument, Number value) {
  check_option(value > 0 && std::isfinite(value), where, argument, value, "> 0 and finite");
}

inline void check_schedule_steps(const char* where, const char* argument, Index steps,
                                 Index at_least = 1) {
  check_option(steps >= at_least, where, argument, steps, at_least == 0 ? ">= 0" : ">= 1");
}

}  // namespace detail

/// The product, step by step, in the wider of the two types of numbers; of constants a constant.
template <class A, class B>
detail::ScheduleOf<A, B> operator*(const Schedule<A>& a, const Schedule<B>& b) {
  return detail::combined(a, b, std::multiplies<>{});
}
template <class A, detail::Arithmetic B>
detail::ScheduleOf<A, B> operator*(const Schedule<A>& a, B b) {
  return detail::combined(a, b, std::multiplies<>{});
}
template <detail::Arithmetic A, class B>
detail::ScheduleOf<A, B> operator*(A a, const Schedule<B>& b) {
  return detail::combined(a, b, std::multiplies<>{});
}

/// The sum, likewise.
template <class A, class B>
detail::ScheduleOf<A, B> operator+(const Schedule<A>& a, const Schedule<B>& b) {
  return detail::combined(a, b, std::plus<>{});
}
template <class A, detail::Arithmetic B>
detail::ScheduleOf<A, B> operator+(const Schedule<A>& a, B b) {
  return detail::combined(a, b, std::plus<>{});
}
template <detail::Arithmetic A, class B>
detail::ScheduleOf<A, B> operator+(A a, const Schedule<B>& b) {
  return detail::combined(a, b, std::plus<>{});
}

/// The usual functions of the step, counted from 0, for options that take a `Schedule`:
///
///     {.learning_rate = schedules::linear_warmup(500, schedules::cosine(0.3f, 0, 10000))}
///
/// They give the type of the numbers they are made of, and convert to other types.
namespace schedules {

/// `value` from step `from` on.
template <class T>
struct Piece {
  Index from = 0;
  T value = 0;
};

/// `initial`, then the value of the last piece that has begun: {0.1f, {{1000, 0.01f}}}. Whole
/// numbers give whole numbers, for periods.
/// \throws OptionError unless pieces begin one after another, the first after step 0
template <detail::Arithmetic Number>
detail::ScheduleOf<Number> piecewise(
    Number initial,
    std::vector<Piece<std::type_identity_t<typename detail::ScheduleOf<Number>::Value>>> pieces) {
  using T = typename detail::ScheduleOf<Number>::Value;
  Index before = 0;
  for (const Piece<T>& piece : pieces) {
    if (piece.from <= before)
      raise<OptionError>("kfac::schedules::piecewise: 'from' is " + std::to_string(piece.from) +
                         ", expected > " + std::to_string(before));
    before = piece.from;
  }
  return [initial = static_cast<T>(initial), pieces = std::move(pieces)](Index step) {
    T value = initial;
    for (const Piece<T>& piece : pieces) {
      if (piece.from > step) break;
      value = piece.value;
    }
    return value;
  };
}

/// initial factor^floor(step / every).
/// \throws OptionError unless initial is finite, factor > 0 and finite, every >= 1
template <class A, class B>
detail::RealScheduleOf<A, B> step_decay(A initial, B factor, Index every) {
  static constexpr const char* kWhere = "kfac::schedules::step_decay";
  using T = typename detail::RealScheduleOf<A, B>::Value;
  detail::check_schedule_finite(kWhere, "initial", initial);
  detail::check_schedule_factor(kWhere, "factor", factor);
  detail::check_schedule_steps(kWhere, "every", every);
  const auto start = static_cast<double>(initial), base = static_cast<double>(factor);
  return [=](Index step) {
    const Index stair = step / every;
    return static_cast<T>(start * std::pow(base, static_cast<double>(stair)));
  };
}

/// initial factor^(step / steps): `factor` is what `steps` steps multiply with.
/// \throws OptionError unless initial is finite, factor > 0 and finite, steps >= 1
template <class A, class B>
detail::RealScheduleOf<A, B> exponential(A initial, B factor, Index steps = 1) {
  static constexpr const char* kWhere = "kfac::schedules::exponential";
  using T = typename detail::RealScheduleOf<A, B>::Value;
  detail::check_schedule_finite(kWhere, "initial", initial);
  detail::check_schedule_factor(kWhere, "factor", factor);
  detail::check_schedule_steps(kWhere, "steps", steps);
  const auto start = static_cast<double>(initial), base = static_cast<double>(factor);
  return [=](Index step) {
    const double periods = static_cast<double>(step) / static_cast<double>(steps);
    return static_cast<T>(start * std::pow(base, periods));
  };
}

/// final + (initial - final) (1 + cos(pi min(step / steps, 1))) / 2.
/// \throws OptionError unless both values are finite and steps >= 1
/// \source Loshchilov and Hutter 2017, arXiv 1608.03983, equation 5, without restarts
template <class A, class B>
detail::RealScheduleOf<A, B> cosine(A initial, B final, Index steps) {
  static constexpr const char* kWhere = "kfac::schedules::cosine";
  using T = typename detail::RealScheduleOf<A, B>::Value;
  detail::check_schedule_finite(kWhere, "initial", initial);
  detail::check_schedule_finite(kWhere, "final", final);
  detail::check_schedule_steps(kWhere, "steps", steps);
  const auto from = static_cast<double>(initial), to = static_cast<double>(final);
  return [=](Index step) {
    const double angle = std::numbers::pi * detail::elapsed(step, steps);
    return static_cast<T>(to + (from - to) * (1 + std::cos(angle)) / 2);
  };
}

/// final + (initial - final) (1 - min(step / steps, 1))^power: a straight line for power 1.
/// \throws OptionError unless both values are finite, steps >= 1, and power > 0 and finite
template <class A, class B>
detail::RealScheduleOf<A, B> polynomial(A initial, B final, Index steps, double power = 1) {
  static constexpr const char* kWhere = "kfac::schedules::polynomial";
  using T = typename detail::RealScheduleOf<A, B>::Value;
  detail::check_schedule_finite(kWhere, "initial", initial);
  detail::check_schedule_finite(kWhere, "final", final);
  detail::check_schedule_steps(kWhere, "steps", steps);
  detail::check_schedule_factor(kWhere, "power", power);
  const auto from = static_cast<double>(initial), to = static_cast<double>(final);
  return [=](Index step) {
    const double left = 1 - detail::elapsed(step, steps);
    return static_cast<T>(to + (from - to) * std::pow(left, power));
  };
}

/// initial / (1 + rate step).
/// \throws OptionError unless initial is finite, and rate >= 0 and finite
/// \source Robbins and Monro, A stochastic approximation method, 1951
template <class A>
detail::RealScheduleOf<A> inverse_time(A initial, double rate) {
  static constexpr const char* kWhere = "kfac::schedules::inverse_time";
  using T = typename detail::RealScheduleOf<A>::Value;
  detail::check_schedule_finite(kWhere, "initial", initial);
  detail::check_option(rate >= 0 && std::isfinite(rate), kWhere, "rate", rate, ">= 0 and finite");
  return [start = static_cast<double>(initial), rate](Index step) {
    return static_cast<T>(start / (1 + rate * static_cast<double>(step)));
  };
}

/// then(0) (step + 1) / steps for the first `steps` steps, so that the last of them has then(0),
/// and then(step - steps) from there on. `then` is a constant, a schedule or a function of the
/// step. \throws OptionError unless steps >= 0 \source Goyal et al. 2017, arXiv 1706.02677,
/// section 2.2
template <class Then>
detail::RealScheduleOf<Then> linear_warmup(Index steps, Then then) {
  using T = typename detail::RealScheduleOf<Then>::Value;
  detail::check_schedule_steps("kfac::schedules::linear_warmup", "steps", steps, 0);
  return [steps, then = Schedule<T>(std::move(then))](Index step) {
    if (step >= steps) return then(step - steps);
    return static_cast<T>(static_cast<double>(then(0)) * detail::elapsed(step + 1, steps));
  };
}

/// first(step) before step `at`, then(step - at) from there on. Both are constants, schedules or
/// functions of the step. \throws OptionError unless at >= 0
template <class First, class Then>
detail::ScheduleOf<First, Then> sequence(First first, Index at, Then then) {
  using T = typename detail::ScheduleOf<First, Then>::Value;
  detail::check_schedule_steps("kfac::schedules::sequence", "at", at, 0);
  return [at, first = Schedule<T>(std::move(first)), then = Schedule<T>(std::move(then))](
             Index step) { return step < at ? first(step) : then(step - at); };
}

/// min(max(schedule(step), low), high). \throws OptionError unless low <= high
template <class Source, class A, class B>
detail::ScheduleOf<Source, A, B> clamp(Source schedule, A low, B high) {
  using T = typename detail::ScheduleOf<Source, A, B>::Value;
  const auto least = static_cast<T>(low), most = static_cast<T>(high);
  detail::check_option(least <= most, "kfac::schedules::clamp", "low", least, "at most 'high'");
  const Schedule<T> source(std::move(schedule));
  if (source.is_constant()) return std::clamp(source(0), least, most);
  return [=](Index step) { return std::clamp(source(step), least, most); };
}

}  // namespace schedules
}  // namespace kfac
