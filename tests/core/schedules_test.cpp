#include <cmath>
#include <limits>

#include <kfac/core/schedules.hpp>

#include "support/catch.hpp"

namespace kfac::test::schedules_test {

using kfac::Index;
using kfac::OptionError;
using kfac::Schedule;
namespace schedules = kfac::schedules;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

template <class S, class T>
constexpr bool kGives = std::is_same_v<S, Schedule<T>>;

// Real numbers keep their precision, the wider of two; whole ones become double where there are
// fractions.
static_assert(kGives<decltype(schedules::cosine(0.1f, 0, 10)), float>);
static_assert(kGives<decltype(schedules::cosine(0.1f, 0.0, 10)), double>);
static_assert(kGives<decltype(schedules::cosine(1, 0, 10)), double>);
static_assert(kGives<decltype(schedules::piecewise(1, {{10, 5}})), Index>);
static_assert(kGives<decltype(schedules::piecewise(0.1f, {{10, 1}})), float>);
static_assert(kGives<decltype(schedules::linear_warmup(5, 1)), double>);
static_assert(kGives<decltype(schedules::linear_warmup(5, schedules::cosine(0.1f, 0, 10))), float>);
static_assert(kGives<decltype(schedules::sequence(1, 5, 10)), Index>);
static_assert(kGives<decltype(schedules::exponential(0.1f, 0.5f) * 2), float>);
static_assert(kGives<decltype(schedules::exponential(0.1f, 0.5f) + 2.0), double>);

}  // namespace

TEST_CASE("schedules: pieces begin at their steps", "[core]") {
  const Schedule<double> rate = schedules::piecewise(0.5, {{3, 0.25}, {4, 8}, {10, 0.125}});
  const std::vector<double> expected{0.5, 0.5, 0.5, 0.25, 8, 8, 8, 8, 8, 8, 0.125, 0.125};
  for (Index step = 0; step < 12; ++step)
    CHECK(rate(step) == expected[static_cast<std::size_t>(step)]);
  CHECK(rate(1000000) == 0.125);
  CHECK(schedules::piecewise(0.5, {})(7) == 0.5);

  const Schedule<Index> period = schedules::piecewise(1, {{10, 5}, {100, 20}});
  CHECK(period(9) == 1);
  CHECK(period(99) == 5);
  CHECK(period(100) == 20);
}

TEST_CASE("schedules: powers of a factor, by steps and between them", "[core][exact]") {
  const Schedule<double> stairs = schedules::step_decay(0.3, 0.5, 4);
  const Schedule<double> slope = schedules::exponential(0.3, 0.5, 4);
  double expected = 0.3;
  for (Index step = 0; step < 40; step += 4) {
    CHECK(stairs(step) == Approx(expected).epsilon(1e-14));
    CHECK(stairs(step + 3) == stairs(step));
    CHECK(slope(step) == Approx(expected).epsilon(1e-14));
    CHECK(slope(step + 2) == Approx(expected * std::sqrt(0.5)).epsilon(1e-14));
    expected *= 0.5;
  }
  CHECK(schedules::exponential(2, 3)(5) == Approx(486).epsilon(1e-14));
}

TEST_CASE("schedules: a cosine and polynomials end at their final value", "[core][exact]") {
  const Schedule<double> cosine = schedules::cosine(1.0, 0.2, 12);
  CHECK(cosine(0) == Approx(1).epsilon(1e-14));
  CHECK(cosine(2) == Approx(0.6 + 0.4 * std::sqrt(0.75)).epsilon(1e-14));
  CHECK(cosine(4) == Approx(0.8).epsilon(1e-14));
  CHECK(cosine(6) == Approx(0.6).epsilon(1e-14));
  CHECK(cosine(12) == Approx(0.2).epsilon(1e-14));
  CHECK(cosine(13) == cosine(12));

  const Schedule<double> line = schedules::polynomial(1.0, 0.2, 8);
  const Schedule<double> square = schedules::polynomial(1.0, 0.2, 8, 2);
  for (Index step = 0; step <= 8; ++step) {
    const double left = static_cast<double>(8 - step) / 8;
    CHECK(line(step) == Approx(0.2 + 0.8 * left).epsilon(1e-14));
    CHECK(square(step) == Approx(0.2 + 0.8 * left * left).epsilon(1e-14));
  }
  CHECK(line(8) == 0.2);
  CHECK(line(100) == 0.2);
  CHECK(square(100) == 0.2);
  const Schedule<double> rising = schedules::polynomial(0, 1, 4, 0.5);
  CHECK(rising(3) == Approx(1 - std::sqrt(0.25)).epsilon(1e-14));
}

TEST_CASE("schedules: inverse time", "[core][exact]") {
  const Schedule<double> rate = schedules::inverse_time(0.5, 0.25);
  CHECK(rate(0) == 0.5);
  CHECK(rate(4) == 0.25);
  CHECK(rate(12) == 0.125);
  CHECK(schedules::inverse_time(0.5, 0)(12) == 0.5);
}

TEST_CASE("schedules: warm-up ends where what follows begins", "[core][exact]") {
  const Schedule<double> rate = schedules::linear_warmup(4, schedules::exponential(0.8, 0.5));
  const std::vector<double> expected{0.2, 0.4, 0.6, 0.8, 0.8, 0.4, 0.2, 0.1};
  for (Index step = 0; step < 8; ++step)
    CHECK(rate(step) == Approx(expected[static_cast<std::size_t>(step)]).epsilon(1e-14));
  CHECK(rate(3) == 0.8);

  CHECK(schedules::linear_warmup(2, 1)(0) == 0.5);
  CHECK(schedules::linear_warmup(2, 1)(2) == 1);
  CHECK(schedules::linear_warmup(0, 0.5)(0) == 0.5);
  const auto squares = [](Index step) { return static_cast<double>(step * step); };
  CHECK(schedules::linear_warmup(3, squares)(5) == 4);
}

TEST_CASE("schedules: one after another", "[core]") {
  const Schedule<double> rate =
      schedules::sequence(schedules::exponential(1.0, 0.5), 3, schedules::inverse_time(2, 1));
  const std::vector<double> expected{1, 0.5, 0.25, 2, 1, 2.0 / 3};
  for (Index step = 0; step < 6; ++step)
    CHECK(rate(step) == Approx(expected[static_cast<std::size_t>(step)]).epsilon(1e-14));
  const Schedule<Index> period = schedules::sequence(1, 5, 10);
  CHECK(period(4) == 1);
  CHECK(period(5) == 10);
  CHECK(schedules::sequence(1, 0, 10)(0) == 10);
}

TEST_CASE("schedules: products and sums, with constants and with each other", "[core]") {
  const Schedule<double> ramp = [](Index step) { return static_cast<double>(step); };
  const Schedule<double> stairs = schedules::piecewise(1.0, {{2, 4.0}});
  CHECK((ramp * stairs)(3) == 12);
  CHECK((ramp + stairs)(1) == 2);
  CHECK((0.5 * ramp)(3) == 1.5);
  CHECK((ramp * 3)(3) == 9);
  CHECK((1 + ramp)(3) == 4);
  CHECK((ramp + 0.25f)(3) == 3.25);
  const Schedule<double> constant = 3;
  CHECK((2 * constant).is_constant());
  CHECK((constant + constant).is_constant());
  CHECK((constant * constant)(8) == 9);
  CHECK_FALSE((ramp * constant).is_constant());
  const Schedule<float> narrow = schedules::exponential(0.5f, 0.5f);
  CHECK((ramp * narrow)(2) == 0.25);
}

TEST_CASE("schedules: values can be kept in a range", "[core]") {
  const Schedule<double> ramp = [](Index step) { return static_cast<double>(step); };
  const Schedule<double> kept = schedules::clamp(ramp, 1.5, 4);
  CHECK(kept(0) == 1.5);
  CHECK(kept(3) == 3);
  CHECK(kept(9) == 4);
  CHECK(schedules::clamp(Schedule<double>(7), 1, 4).is_constant());
  CHECK(schedules::clamp(7, 1, 4)(0) == 4);
}

TEST_CASE("schedules: arguments out of range are named", "[core][error]") {
  CHECK_THROWS_AS(schedules::piecewise(1.0, {{0, 2.0}}), OptionError);
  CHECK_THROWS_WITH(schedules::piecewise(1.0, {{0, 2.0}}),
                    "kfac::schedules::piecewise: 'from' is 0, expected > 0");
  CHECK_THROWS_WITH(schedules::piecewise(1, {{5, 2}, {5, 3}}),
                    "kfac::schedules::piecewise: 'from' is 5, expected > 5");
  CHECK_THROWS_WITH(schedules::step_decay(kInfinity, 0.5, 3),
                    "kfac::schedules::step_decay: 'initial' is inf, expected finite");
  CHECK_THROWS_WITH(schedules::step_decay(1.0, 0, 3),
                    "kfac::schedules::step_decay: 'factor' is 0, expected > 0 and finite");
  CHECK_THROWS_WITH(schedules::step_decay(1.0, 0.5, 0),
                    "kfac::schedules::step_decay: 'every' is 0, expected >= 1");
  CHECK_THROWS_WITH(schedules::exponential(1.0, -0.5),
                    "kfac::schedules::exponential: 'factor' is -0.5, expected > 0 and finite");
  CHECK_THROWS_WITH(schedules::exponential(1.0, 0.5, 0),
                    "kfac::schedules::exponential: 'steps' is 0, expected >= 1");
  CHECK_THROWS_WITH(schedules::exponential(std::nan(""), 0.5),
                    "kfac::schedules::exponential: 'initial' is nan, expected finite");
  CHECK_THROWS_WITH(schedules::cosine(1.0, kInfinity, 3),
                    "kfac::schedules::cosine: 'final' is inf, expected finite");
  CHECK_THROWS_WITH(schedules::cosine(1.0, 0, -1),
                    "kfac::schedules::cosine: 'steps' is -1, expected >= 1");
  CHECK_THROWS_AS(schedules::cosine(kInfinity, 0, 1), OptionError);
  CHECK_THROWS_AS(schedules::polynomial(kInfinity, 0, 1), OptionError);
  CHECK_THROWS_AS(schedules::polynomial(0, kInfinity, 1), OptionError);
  CHECK_THROWS_WITH(schedules::polynomial(1.0, 0, 0),
                    "kfac::schedules::polynomial: 'steps' is 0, expected >= 1");
  CHECK_THROWS_WITH(schedules::polynomial(1.0, 0, 3, 0),
                    "kfac::schedules::polynomial: 'power' is 0, expected > 0 and finite");
  CHECK_THROWS_AS(schedules::inverse_time(kInfinity, 1), OptionError);
  CHECK_THROWS_WITH(schedules::inverse_time(1.0, -1),
                    "kfac::schedules::inverse_time: 'rate' is -1, expected >= 0 and finite");
  CHECK_THROWS_WITH(schedules::linear_warmup(-1, 0.1),
                    "kfac::schedules::linear_warmup: 'steps' is -1, expected >= 0");
  CHECK_THROWS_WITH(schedules::sequence(1.0, -1, 0.1),
                    "kfac::schedules::sequence: 'at' is -1, expected >= 0");
  CHECK_THROWS_WITH(schedules::clamp(1.0, 4, 3),
                    "kfac::schedules::clamp: 'low' is 4, expected at most 'high'");
}

}  // namespace kfac::test::schedules_test
