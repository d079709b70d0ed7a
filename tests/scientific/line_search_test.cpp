#include <limits>

#include <kfac/scientific/line_search.hpp>

#include "support/catch.hpp"
#include "support/message_of.hpp"

namespace kfac::test::line_search_test {

namespace {

using Options = LineSearchOptions<double>;

/// Two minima: 1 at 0.25, and a lower one, 0, at 0.0625; 3 at 0.
double two_minima(double length) {
  if (length >= 0.25) return 1 + (length - 0.25);
  if (length >= 0.125) return 2;
  return length == 0.0625 ? 0 : 2.5;
}

}  // namespace

TEST_CASE("grid_line_search: which length is taken is the choice's") {
  const auto first = grid_line_search(3.0, two_minima);
  CHECK(first.length == 0.25);
  CHECK(first.value == 1);
  CHECK(first.evaluations == 4);
  const auto best = grid_line_search(3.0, two_minima, Options{.choice = LineSearchChoice::Best});
  CHECK(best.length == 0.0625);
  CHECK(best.evaluations == 31);
  const auto decrease =
      grid_line_search(3.0, two_minima, Options{.choice = LineSearchChoice::FirstDecrease});
  CHECK(decrease.length == 1);
  CHECK(decrease.evaluations == 1);
  const auto coarse =
      grid_line_search(3.0, two_minima, Options{.largest = 4, .ratio = 0.25, .points = 2});
  CHECK(coarse.length == 1);
  CHECK(coarse.evaluations == 2);
}

TEST_CASE("grid_line_search: no length where none is better, and none that is not finite") {
  const auto none = grid_line_search(-1.0, two_minima, Options{.points = 5});
  CHECK(none.length == 0);
  CHECK(none.value == -1);
  CHECK(none.evaluations == 5);
  const auto wild = grid_line_search(3.0, [](double length) {
    return length > 0.1 ? std::numeric_limits<double>::quiet_NaN() : 2 + length;
  });
  CHECK(wild.length < 0.1);
  CHECK(wild.length > 0);
}

TEST_CASE("grid_line_search: options out of range are named") {
  const auto refused = [](const Options& options) {
    return message_of<OptionError>([&] { grid_line_search(3.0, two_minima, options); });
  };
  CHECK(refused({.largest = 0}) ==
        "kfac::grid_line_search: 'line_search.largest' is 0, expected > 0 and finite");
  CHECK(refused({.ratio = 1}) ==
        "kfac::grid_line_search: 'line_search.ratio' is 1, expected in (0, 1)");
  CHECK(refused({.points = 0}) ==
        "kfac::grid_line_search: 'line_search.points' is 0, expected >= 1");
}

}  // namespace kfac::test::line_search_test
