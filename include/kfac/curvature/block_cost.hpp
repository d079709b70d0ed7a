#pragma once

#include <string>

#include <kfac/core/types.hpp>

namespace kfac {

/// What a curvature block costs, by the sizes of its parts: multiply-adds of the leading terms, and
/// bytes of everything it keeps between steps.
struct BlockCost {
  std::string factors;  ///< such as "A 785x785, G 512x512"
  double bytes = 0;     ///< of statistics and the inverse; without copies that other threads invert
  double update = 0;    ///< to take in one example, used once, with one output gradient
  double inverse = 0;   ///< to refresh the inverse
  double precondition = 0;   ///< of one gradient
  double inverse_bytes = 0;  ///< that part of `bytes` that is the inverse
};

namespace detail {

inline std::string square_text(const char* name, Index size) {
  return std::string(name) + ' ' + std::to_string(size) + 'x' + std::to_string(size);
}

}  // namespace detail
}  // namespace kfac
