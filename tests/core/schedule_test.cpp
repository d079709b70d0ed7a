#include <limits>

#include <kfac/core/schedule.hpp>

#include "support/catch.hpp"

namespace kfac::test::schedule_test {

using kfac::Index;
using kfac::OptionError;
using kfac::Schedule;

namespace {

struct Options {
  Schedule<float> learning_rate = 0.1f;
  Schedule<Index> inverse_every = 10;
  Schedule<double> kl_clip = 1e-2;
};

float halved(Index step) {
  return step < 10 ? 1.0f : 0.5f;
}

struct Squares {
  Index operator()(Index step) const { return step * step; }
};

// Whole numbers are not cut out of real ones, and nothing else is a number.
static_assert(!std::is_constructible_v<Schedule<Index>, double>);
static_assert(!std::is_constructible_v<Schedule<Index>, Schedule<float>>);
static_assert(!std::is_constructible_v<Schedule<Index>, float (*)(Index)>);
static_assert(!std::is_constructible_v<Schedule<double>, const char*>);
static_assert(!std::is_constructible_v<Schedule<double>, std::nullptr_t>);
static_assert(std::is_nothrow_move_constructible_v<Schedule<double>>);

}  // namespace

TEST_CASE("Schedule: a constant of any type of numbers is the same at every step", "[core]") {
  const Options options{.learning_rate = 0.5, .inverse_every = 5u, .kl_clip = 0};
  CHECK(options.learning_rate.is_constant());
  CHECK(options.learning_rate(0) == 0.5f);
  CHECK(options.learning_rate(1000) == 0.5f);
  CHECK(options.inverse_every(3) == 5);
  CHECK(options.kl_clip(3) == 0);
  CHECK(Options{}.inverse_every(7) == 10);
}

TEST_CASE("Schedule: a function is asked for each step", "[core]") {
  Index asked = -1;
  const Options options{
      .learning_rate = halved, .inverse_every = Squares{}, .kl_clip = [&asked](Index step) {
        asked = step;
        return 0.25f * static_cast<float>(step);
      }};
  CHECK_FALSE(options.learning_rate.is_constant());
  CHECK(options.learning_rate(9) == 1);
  CHECK(options.learning_rate(10) == 0.5f);
  CHECK(options.inverse_every(12) == 144);
  CHECK(asked == -1);
  CHECK(options.kl_clip(6) == 1.5);
  CHECK(asked == 6);
}

TEST_CASE("Schedule: copies and other types of numbers give the same", "[core]") {
  const Schedule<float> rate = halved;
  Schedule<float> copy = rate;
  CHECK(copy(10) == 0.5f);
  const Schedule<double> wider = rate;
  CHECK_FALSE(wider.is_constant());
  CHECK(wider(9) == 1);
  CHECK(wider(11) == 0.5);
  const Schedule<double> constant = Schedule<Index>(3);
  CHECK(constant.is_constant());
  CHECK(constant(5) == 3);
  copy = 2;
  CHECK(copy.is_constant());
  CHECK(copy(10) == 2);
  CHECK(rate(10) == 0.5f);
}

TEST_CASE("Schedule: an empty function is refused", "[core][error]") {
  const char* message = "kfac::Schedule: 'function' is empty, expected a function of the step";
  CHECK_THROWS_WITH(Schedule<double>(std::function<double(Index)>{}), message);
  CHECK_THROWS_WITH(Schedule<float>(std::function<double(int)>{}), message);
  CHECK_THROWS_AS(Schedule<float>(static_cast<float (*)(Index)>(nullptr)), OptionError);
}

TEST_CASE("Schedule: values out of range are named, with the step if they are scheduled",
          "[core][error]") {
  const auto at = [](const Schedule<double>& schedule, Index step) {
    return kfac::detail::scheduled(
        schedule, step, "kfac::Sgd", "learning_rate", [](double value) { return value > 0; },
        "> 0");
  };
  const Schedule<double> falling = [](Index step) { return 6 - static_cast<double>(step); };
  CHECK(at(0.5, 7) == 0.5);
  CHECK(at(falling, 5) == 1);
  CHECK_THROWS_AS(at(falling, 7), OptionError);
  CHECK_THROWS_WITH(at(falling, 7), "kfac::Sgd: 'learning_rate' is -1 at step 7, expected > 0");
  CHECK_THROWS_WITH(at(-1, 7), "kfac::Sgd: 'learning_rate' is -1, expected > 0");
}

TEST_CASE("Schedule: the usual ranges", "[core][error]") {
  namespace detail = kfac::detail;
  const double infinity = std::numeric_limits<double>::infinity();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto positive = [](double value) {
    return detail::scheduled_positive(Schedule<double>(value), 0, "kfac::X", "y");
  };
  CHECK(positive(1e-300) == 1e-300);
  CHECK_THROWS_WITH(positive(0), "kfac::X: 'y' is 0, expected > 0 and finite");
  CHECK_THROWS_AS(positive(infinity), OptionError);
  CHECK_THROWS_AS(positive(nan), OptionError);

  const auto non_negative = [](double value) {
    return detail::scheduled_non_negative(Schedule<double>(value), 0, "kfac::X", "y");
  };
  CHECK(non_negative(0) == 0);
  CHECK_THROWS_WITH(non_negative(-2), "kfac::X: 'y' is -2, expected >= 0 and finite");
  CHECK_THROWS_AS(non_negative(infinity), OptionError);
  CHECK_THROWS_AS(non_negative(nan), OptionError);

  const auto decay = [](double value) {
    return detail::scheduled_decay(Schedule<double>(value), 0, "kfac::X", "y");
  };
  CHECK(decay(0) == 0);
  CHECK(decay(0.999) == 0.999);
  CHECK_THROWS_WITH(decay(1), "kfac::X: 'y' is 1, expected in [0, 1)");
  CHECK_THROWS_AS(decay(-1e-9), OptionError);
  CHECK_THROWS_AS(decay(nan), OptionError);
}

}  // namespace kfac::test::schedule_test
