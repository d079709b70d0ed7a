#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

#include <kfac/core/parallel.hpp>

#include "support/catch.hpp"

using namespace kfac;
using kfac::detail::parallel_for;
using kfac::detail::parallelism;

namespace {

/// Whether other threads take part in what this one splits.
bool is_shared() {
  const std::thread::id here = std::this_thread::get_id();
  const Index threads = parallelism();
  // Each part waits for the others if there is anybody to do them.
  std::atomic<Index> arrived = 0;
  std::atomic<bool> elsewhere = false;
  parallel_for(threads, [&](Index) {
    ++arrived;
    while (arrived < threads) std::this_thread::yield();
    if (std::this_thread::get_id() != here) elsewhere = true;
  });
  return elsewhere;
}

}  // namespace

TEST_CASE("ParallelScope: without one, and with null, work is not split") {
  std::vector<Index> order;
  parallel_for(5, [&](Index part) { order.push_back(part); });
  CHECK(order == std::vector<Index>{0, 1, 2, 3, 4});
  CHECK(parallelism() == 1);
  const ParallelScope none(nullptr);
  parallel_for(2, [&](Index part) { order.push_back(part); });
  CHECK(order == std::vector<Index>{0, 1, 2, 3, 4, 0, 1});
  CHECK(parallelism() == 1);
  CHECK_FALSE(is_shared());
}

TEST_CASE("ParallelScope: while it is alive the threads of its pool take part", "[threads]") {
  ThreadPool two(2);
  ThreadPool one(1);
  {
    const ParallelScope outer(&two);
    CHECK(parallelism() == 3);
    CHECK(is_shared());
    {
      const ParallelScope inner(&one);
      CHECK(parallelism() == 2);
      CHECK(is_shared());
      {
        const ParallelScope none(nullptr);
        CHECK(parallelism() == 2);
      }
      CHECK(parallelism() == 2);
    }
    CHECK(parallelism() == 3);
    CHECK(is_shared());
  }
  CHECK(parallelism() == 1);
}

TEST_CASE("ParallelScope: is of one thread", "[threads]") {
  ThreadPool pool(1);
  const ParallelScope scope(&pool);
  Index elsewhere = 0;
  std::jthread([&] { elsewhere = parallelism(); }).join();
  CHECK(elsewhere == 1);
}

TEST_CASE("ParallelScope: has no effect in what is split already, and in tasks", "[threads]") {
  ThreadPool pool(2);
  ThreadPool other(2);
  std::atomic<int> wrong = 0;
  const auto check_alone = [&] {
    if (parallelism() != 1) ++wrong;
    const ParallelScope scope(&other);
    if (parallelism() != 1 || is_shared()) ++wrong;
  };
  const ParallelScope scope(&pool);
  parallel_for(100, [&](Index) { check_alone(); });
  pool.submit(check_alone).get();
  pool.for_each(10, [&](Index) { check_alone(); });
  CHECK(wrong == 0);
  CHECK(parallelism() == 3);
  CHECK(is_shared());
}

TEST_CASE("ParallelScope: one part alone may split its own work", "[threads]") {
  ThreadPool pool(1);
  const ParallelScope scope(&pool);
  bool shared = false;
  parallel_for(1, [&](Index) { shared = is_shared(); });
  CHECK(shared);
}

TEST_CASE("ParallelScope: is as it was after an exception", "[threads]") {
  ThreadPool pool(1);
  const ParallelScope scope(&pool);
  for (int round = 0; round < 50; ++round)
    CHECK_THROWS_AS(parallel_for(8,
                                 [](Index part) {
                                   if (part == 3) throw std::runtime_error("part");
                                 }),
                    std::runtime_error);
  CHECK(parallelism() == 2);
  CHECK(is_shared());
}
