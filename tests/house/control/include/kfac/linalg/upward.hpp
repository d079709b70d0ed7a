// A header that breaks the rules of the house, for the checks to find.
#include <format>
#include <string>

#include <kfac/nn/linear.hpp>

namespace kfac {
inline std::string text(int value) {
  return std::format("{}", value);
}
}  // namespace kfac
