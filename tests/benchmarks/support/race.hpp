#pragma once

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstddef>
#include <limits>
#include <thread>
#include <vector>

namespace benchmarks {

/// Seconds from when all of `threads` threads start `work(thread)` to when the last has ended: the
/// least of as many repetitions as `budget` seconds allow, three at least, after one that does not
/// count.
template <class Work>
double fastest_race(std::size_t threads, double budget, Work&& work) {
  using Clock = std::chrono::steady_clock;
  constexpr int kLeastRounds = 4;
  const auto since = [](Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  const Clock::time_point first = Clock::now();
  Clock::time_point started;
  double best = std::numeric_limits<double>::infinity();
  int rounds = 0;
  bool done = false;
  // What they complete happens before any thread goes on.
  std::barrier start(static_cast<std::ptrdiff_t>(threads),
                     [&]() noexcept { started = Clock::now(); });
  std::barrier end(static_cast<std::ptrdiff_t>(threads), [&]() noexcept {
    if (rounds > 0) best = std::min(best, since(started));
    done = ++rounds >= kLeastRounds && since(first) >= budget;
  });
  const auto run = [&](std::size_t thread) {
    while (!done) {
      start.arrive_and_wait();
      work(thread);
      end.arrive_and_wait();
    }
  };
  std::vector<std::jthread> others;
  for (std::size_t thread = 1; thread < threads; ++thread)
    others.emplace_back([&run, thread] { run(thread); });
  run(0);
  others.clear();
  return best;
}

}  // namespace benchmarks
