#pragma once

// clang-format off: before Eigen
#include "noalloc/forbid.hpp"
// clang-format on

#include <array>

#include <kfac/core/random.hpp>

#include "support/catch.hpp"

namespace kfac::test {

// As long as no operand is larger than Eigen's stack buffers (128 KiB), a product needs no heap.
inline constexpr Index kInputs = 2;
inline constexpr Index kHidden = 32;
inline constexpr Index kOutputs = 3;
inline constexpr Index kLargestBatch = 48;

struct Batch {
  Matrix<float> x;
  Labels y;

  Batch(Index features, Index examples) : x(features, examples), y(examples) {
    kfac::Rng rng(static_cast<std::uint64_t>(examples));
    rng.fill_normal(x);
    for (int& label : y) label = static_cast<int>(rng.below(kOutputs));
  }
};

/// Warms `step` up with the largest batch; then batches of all sizes must not allocate, with new
/// factors and inverses and without.
template <class Step>
void check_warm(Index features, Step step) {
  const Batch largest(features, kLargestBatch);
  const std::array<Batch, 4> batches{Batch(features, 16), Batch(features, 1), Batch(features, 33),
                                     largest};
  // An inverse is computed in the memory of the one before the last: two make it warm.
  for (int i = 0; i < 4; ++i) step(largest);
  for (int round = 0; round < 3; ++round)
    for (const Batch& batch : batches) {
      const Allocations found = allocations_in([&] { step(batch); });
      CHECK(found.news == 0);
      CHECK(found.mallocs == 0);
    }
}

/// The same for a step by several threads. Which of them gets which part is chance, and each takes
/// its scratch memory when it first needs it: a few times in all, however many steps there are.
template <class Step>
void check_warm_threads(Index features, Index threads, Step step) {
  const Batch largest(features, kLargestBatch), smaller(features, 16);
  for (int i = 0; i < 4; ++i) step(largest);
  Allocations all;
  for (int i = 0; i < 200; ++i) {
    const Allocations found = allocations_in([&] { step(i % 2 == 0 ? largest : smaller); });
    all.news += found.news;
    all.mallocs += found.mallocs;
  }
  CHECK(all.news == 0);
  constexpr Index kScratches = 4;
  CHECK(static_cast<Index>(all.mallocs) <= kScratches * (threads - 1));
}

}  // namespace kfac::test
