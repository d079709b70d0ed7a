#pragma once

#include <cmath>

#include <kfac/core/errors.hpp>

namespace kfac {

/// Which lengths of a grid are tried, from the largest on.
enum class LineSearchChoice {
  Best,           ///< all: the one with the smallest objective is taken
  FirstMinimum,   ///< until one that lowers the objective is followed by one that is worse
  FirstDecrease,  ///< until one lowers the objective
};

/// The lengths largest, largest * ratio, largest * ratio^2, ... that a step is chosen from.
template <RealScalar S>
struct LineSearchOptions {
  S largest = 1;      ///< > 0, finite
  S ratio = S(0.5);   ///< in (0, 1)
  Index points = 31;  ///< >= 1
  LineSearchChoice choice = LineSearchChoice::FirstMinimum;

  /// \throws OptionError
  void validate(const char* where) const {
    detail::check_option(largest > 0 && std::isfinite(largest), where, "line_search.largest",
                         largest, "> 0 and finite");
    detail::check_option(ratio > 0 && ratio < 1, where, "line_search.ratio", ratio, "in (0, 1)");
    detail::check_option(points >= 1, where, "line_search.points", points, ">= 1");
  }
};

template <RealScalar S>
struct LineSearchResult {
  S length = 0;  ///< 0 where none was better
  S value = 0;   ///< of the objective there
  Index evaluations = 0;
};

/// The length on the grid that is chosen, if its `objective(length)` is below `now`, the objective
/// at 0. Lengths at which it is not finite do not count.
template <RealScalar S, class Objective>
LineSearchResult<S> grid_line_search(S now, const Objective& objective,
                                     const LineSearchOptions<S>& options = {}) {
  options.validate("kfac::grid_line_search");
  LineSearchResult<S> best{S(0), now, 0};
  S length = options.largest;
  for (; best.evaluations < options.points; length *= options.ratio) {
    const S value = objective(length);
    ++best.evaluations;
    if (value < best.value) {
      best.length = length;
      best.value = value;
      if (options.choice == LineSearchChoice::FirstDecrease) break;
    } else if (options.choice == LineSearchChoice::FirstMinimum && best.length > 0) {
      break;
    }
  }
  return best;
}

}  // namespace kfac
