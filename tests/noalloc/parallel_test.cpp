// clang-format off: before Eigen
#include "noalloc/forbid.hpp"
// clang-format on

#include <array>
#include <chrono>
#include <thread>

#include <kfac/core/parallel.hpp>

#include "support/catch.hpp"

using kfac::Index;
using namespace kfac::test;

TEST_CASE("noalloc: work that is split over threads", "[noalloc]") {
  kfac::ThreadPool pool(2);
  std::array<Index, 64> sums{};
  const auto split = [&] {
    const kfac::ParallelScope scope(&pool);
    for (Index round = 0; round < 100; ++round)
      kfac::detail::parallel_for(
          64, [&](Index part) { sums[static_cast<std::size_t>(part)] += part * round; });
    // Asleep, and woken.
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    kfac::detail::parallel_for(64, [&](Index part) { ++sums[static_cast<std::size_t>(part)]; });
  };
  for (int run = 0; run < 3; ++run) CHECK(allocations_in(split) == Allocations{});
  CHECK(sums[63] == 3 * (63 * 4950 + 1));
}
