#pragma once

#include <numeric>
#include <optional>
#include <string>

#include <kfac/core/types.hpp>

namespace benchmarks {

/// When K-FAC works: factors every so many steps, and inverses.
struct Schedule {
  kfac::Index factor_every = 1;
  kfac::Index inverse_every = 1;

  /// The steps after which it repeats itself.
  kfac::Index period() const { return std::lcm(factor_every, inverse_every); }
  /// "1/10".
  std::string text() const {
    return std::to_string(factor_every) + '/' + std::to_string(inverse_every);
  }
  /// The inverse of `text`; nothing unless it is two whole numbers from 1 to 10000.
  static std::optional<Schedule> parse(const std::string& text);
};

}  // namespace benchmarks
