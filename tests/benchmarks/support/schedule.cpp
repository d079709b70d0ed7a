#include "support/schedule.hpp"

#include <charconv>
#include <system_error>

namespace benchmarks {

std::optional<Schedule> Schedule::parse(const std::string& text) {
  constexpr kfac::Index kMost = 10000;
  const auto number = [&](std::size_t begin, std::size_t end) -> kfac::Index {
    kfac::Index value = 0;
    const char* last = text.data() + end;
    const auto [rest, error] = std::from_chars(text.data() + begin, last, value);
    return error == std::errc() && rest == last && value >= 1 && value <= kMost ? value : 0;
  };
  const std::size_t slash = text.find('/');
  if (slash == std::string::npos) return std::nullopt;
  const Schedule schedule{number(0, slash), number(slash + 1, text.size())};
  if (schedule.factor_every == 0 || schedule.inverse_every == 0) return std::nullopt;
  return schedule;
}

}  // namespace benchmarks
