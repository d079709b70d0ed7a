#pragma once

#include <chrono>

namespace kfac::detail {

/// Seconds of the wall clock since it was made or last asked.
class LapClock {
  using Clock = std::chrono::steady_clock;

 public:
  double lap() {
    const Clock::time_point now = Clock::now();
    const double seconds = std::chrono::duration<double>(now - last_).count();
    last_ = now;
    return seconds;
  }

 private:
  Clock::time_point last_ = Clock::now();
};

}  // namespace kfac::detail
