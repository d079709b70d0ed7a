#pragma once

#include <cstddef>
#include <vector>

#include "support/race.hpp"

namespace benchmarks {

/// Operations a second of `multiply(a, b, c)` on square matrices, each thread with its own.
template <class Matrix, class Multiply>
double product_rate_of(std::size_t threads, Multiply multiply) {
  constexpr double kSeconds = 0.12;  // a size
  double best = 0;
  for (const std::ptrdiff_t size : {256, 384, 768, 1152}) {
    struct Operands {
      Matrix a, b, c;
    };
    std::vector<Operands> all(threads);
    for (Operands& operands : all) {
      operands.a.setConstant(size, size, 1);
      operands.b.setConstant(size, size, 1);
      operands.c.setZero(size, size);
    }
    const double seconds = fastest_race(threads, kSeconds, [&](std::size_t thread) {
      multiply(all[thread].a, all[thread].b, all[thread].c);
    });
    const auto n = static_cast<double>(size);
    const double rate = 2 * n * n * n * static_cast<double>(threads) / seconds;
    if (rate > best) best = rate;
  }
  return best;
}

}  // namespace benchmarks
