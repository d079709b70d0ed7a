#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <kfac/core/thread_pool.hpp>

#include "support/catch.hpp"
#include "support/message_of.hpp"

using namespace kfac;
using kfac::test::message_of;

TEST_CASE("ThreadPool: every one of many tasks runs once and returns its result", "[threads]") {
  for (const Index threads : {1, 2, 7}) {
    ThreadPool pool(threads);
    CHECK(pool.threads() == threads);
    std::vector<std::future<int>> results;
    std::atomic<int> runs = 0;
    for (int i = 0; i < 5000; ++i)
      results.push_back(pool.submit([i, &runs] {
        ++runs;
        return i * i;
      }));
    bool right = true;
    for (int i = 0; i < 5000; ++i)
      right = right && results[static_cast<std::size_t>(i)].get() == i * i;
    CHECK(right);
    CHECK(runs == 5000);
  }
}

TEST_CASE("ThreadPool: one thread runs the tasks in the order of their submission", "[threads]") {
  std::vector<int> order;
  {
    ThreadPool pool(1);
    for (int i = 0; i < 1000; ++i)
      static_cast<void>(pool.submit([i, &order] { order.push_back(i); }));
  }
  std::vector<int> expected(1000);
  std::iota(expected.begin(), expected.end(), 0);
  CHECK(order == expected);
}

TEST_CASE("ThreadPool: several threads work at once", "[threads]") {
  constexpr int kThreads = 3;
  ThreadPool pool(kThreads);
  // Each task waits for all the others.
  std::atomic<int> arrived = 0;
  std::vector<std::future<void>> done;
  for (int i = 0; i < kThreads; ++i)
    done.push_back(pool.submit([&] {
      ++arrived;
      arrived.notify_all();
      for (int seen = arrived; seen < kThreads; seen = arrived) arrived.wait(seen);
    }));
  for (std::future<void>& future : done)
    REQUIRE(future.wait_for(std::chrono::seconds(30)) == std::future_status::ready);
}

TEST_CASE("ThreadPool: its end waits for the task that runs and for those in the queue",
          "[threads]") {
  std::atomic<int> runs = 0;
  std::vector<std::future<int>> results;
  {
    ThreadPool pool(2);
    for (int i = 0; i < 50; ++i)
      results.push_back(pool.submit([&runs] {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        return ++runs;
      }));
  }
  CHECK(runs == 50);
  int sum = 0;
  for (std::future<int>& result : results) sum += result.get();  // outlive the pool
  CHECK(sum == 50 * 51 / 2);
}

TEST_CASE("ThreadPool: an exception arrives where the result is waited for", "[threads]") {
  ThreadPool pool(1);
  std::future<int> bad =
      pool.submit([]() -> int { throw std::runtime_error("the factor is singular"); });
  std::future<int> good = pool.submit([] { return 7; });
  CHECK(good.get() == 7);  // the thread goes on
  CHECK(message_of<std::runtime_error>([&] { bad.get(); }) == "the factor is singular");
}

TEST_CASE("ThreadPool: tasks that can only be moved, and tasks that submit tasks", "[threads]") {
  std::atomic<int> sum = 0;
  {
    ThreadPool pool(2);
    auto number = std::make_unique<int>(5);
    CHECK(pool.submit([number = std::move(number)] { return *number; }).get() == 5);
    for (int i = 0; i < 20; ++i)
      static_cast<void>(pool.submit([&] {
        static_cast<void>(pool.submit([&sum] { ++sum; }));
        ++sum;
      }));
  }
  CHECK(sum == 40);
}

TEST_CASE("ThreadPool: many threads submit to one pool", "[threads]") {
  std::atomic<int> runs = 0;
  {
    ThreadPool pool(2);
    std::vector<std::jthread> submitters;
    for (int t = 0; t < 4; ++t)
      submitters.emplace_back([&] {
        for (int i = 0; i < 500; ++i) static_cast<void>(pool.submit([&runs] { ++runs; }));
      });
  }
  CHECK(runs == 2000);
}

TEST_CASE("ThreadPool: for_each calls the body once for each part", "[threads]") {
  for (const Index threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    for (const Index parts : {0, 1, 2, 3, 17, 1000}) {
      std::vector<int> calls(static_cast<std::size_t>(parts));
      pool.for_each(parts, [&](Index part) { ++calls[static_cast<std::size_t>(part)]; });
      CHECK(calls == std::vector<int>(static_cast<std::size_t>(parts), 1));
    }
  }
}

TEST_CASE("ThreadPool: one for_each after another, with parts that take no time", "[threads]") {
  ThreadPool pool(2);
  std::vector<Index> sums(4);
  for (Index round = 0; round < 20000; ++round)
    pool.for_each(4, [&](Index part) { sums[static_cast<std::size_t>(part)] += round; });
  CHECK(sums == std::vector<Index>(4, Index(19999) * 20000 / 2));
}

TEST_CASE("ThreadPool: for_each wakes threads that have fallen asleep", "[threads]") {
  ThreadPool pool(2);
  for (int round = 0; round < 20; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    // Each part waits for all the others.
    std::atomic<int> arrived = 0;
    pool.for_each(3, [&](Index) {
      ++arrived;
      while (arrived < 3) std::this_thread::yield();
    });
    CHECK(arrived == 3);
  }
}

TEST_CASE("ThreadPool: for_each returns after the last part, however late that is", "[threads]") {
  ThreadPool pool(1);
  const std::thread::id caller = std::this_thread::get_id();
  for (int round = 0; round < 10; ++round) {
    std::atomic<bool> helped = false;
    std::atomic<bool> ended = false;
    pool.for_each(2, [&](Index) {
      if (std::this_thread::get_id() == caller) {
        while (!helped) std::this_thread::yield();
      } else {
        helped = true;
        std::this_thread::sleep_for(std::chrono::milliseconds(2));  // the caller sleeps meanwhile
        ended = true;
      }
    });
    CHECK(ended);
  }
}

TEST_CASE("ThreadPool: whoever calls for_each does without threads that have a task", "[threads]") {
  std::atomic<bool> released = false;
  std::atomic<int> started = 0;
  std::vector<std::thread::id> by(100);
  {
    ThreadPool pool(2);
    for (int i = 0; i < 2; ++i)
      static_cast<void>(pool.submit([&] {
        ++started;
        while (!released) std::this_thread::sleep_for(std::chrono::microseconds(100));
      }));
    while (started < 2) std::this_thread::yield();
    pool.for_each(
        100, [&](Index part) { by[static_cast<std::size_t>(part)] = std::this_thread::get_id(); });
    released = true;
  }
  CHECK(by == std::vector<std::thread::id>(100, std::this_thread::get_id()));
}

TEST_CASE("ThreadPool: for_each goes before tasks that have not begun", "[threads]") {
  ThreadPool pool(1);
  std::atomic<bool> released = false;
  std::atomic<bool> second_began = false;
  static_cast<void>(pool.submit([&] {
    while (!released) std::this_thread::yield();
  }));
  const std::future<void> second = pool.submit([&] { second_began = true; });
  const std::thread::id caller = std::this_thread::get_id();
  std::atomic<bool> helped = false;
  bool second_waited = false;
  pool.for_each(2, [&](Index) {
    released = true;
    if (std::this_thread::get_id() == caller) {
      while (!helped) std::this_thread::yield();
    } else {
      second_waited = !second_began;
      helped = true;
    }
  });
  CHECK(second_waited);
}

TEST_CASE("ThreadPool: for_each throws what the first part throws, after all that began",
          "[threads]") {
  ThreadPool pool(3);
  for (int round = 0; round < 200; ++round) {
    std::atomic<int> inside = 0;
    const auto body = [&](Index part) {
      ++inside;
      const bool fails = part >= 5;
      if (!fails) std::this_thread::yield();
      --inside;
      if (fails) throw std::runtime_error("part " + std::to_string(part));
    };
    REQUIRE(message_of<std::runtime_error>([&] { pool.for_each(40, body); }) == "part 5");
    REQUIRE(inside == 0);
  }
  int parts = 0;
  pool.for_each(1, [&](Index) { ++parts; });
  std::atomic<int> more = 0;
  pool.for_each(10, [&](Index) { ++more; });  // all is as before
  CHECK(parts == 1);
  CHECK(more == 10);
}

TEST_CASE("ThreadPool: what is split is not split again", "[threads]") {
  ThreadPool pool(2);
  ThreadPool other(2);
  std::atomic<int> calls = 0;
  std::atomic<int> elsewhere = 0;
  const auto nested = [&](ThreadPool& inner) {
    const std::thread::id here = std::this_thread::get_id();
    inner.for_each(7, [&](Index) {
      ++calls;
      if (std::this_thread::get_id() != here) ++elsewhere;
    });
  };
  pool.for_each(50, [&](Index) {
    nested(pool);
    nested(other);
  });
  CHECK(calls == 700);
  pool.submit([&] {
        nested(pool);
        nested(other);
      })
      .get();
  CHECK(calls == 714);
  CHECK(elsewhere == 0);
}

TEST_CASE("ThreadPool: many threads call for_each of one pool, beside tasks", "[threads]") {
  ThreadPool pool(2);
  std::atomic<int> tasks = 0;
  std::vector<Index> sums(4);
  {
    std::vector<std::jthread> callers;
    for (std::size_t caller = 0; caller < sums.size(); ++caller)
      callers.emplace_back([&, caller] {
        for (int round = 0; round < 300; ++round) {
          std::vector<Index> parts(8);
          pool.for_each(8, [&](Index part) { parts[static_cast<std::size_t>(part)] = part + 1; });
          sums[caller] += std::accumulate(parts.begin(), parts.end(), Index(0));
          if (round % 10 == 0) static_cast<void>(pool.submit([&tasks] { ++tasks; }));
        }
      });
  }
  CHECK(sums == std::vector<Index>(4, 300 * 36));
  pool.submit([] {}).get();
  while (tasks < 4 * 30) std::this_thread::yield();
}

TEST_CASE("ThreadPool: wants a thread at least") {
  for (const Index threads : {0, -1})
    CHECK(message_of<OptionError>([&] { ThreadPool pool(threads); }) ==
          "kfac::ThreadPool: 'threads' is " + std::to_string(threads) + ", expected >= 1");
  ThreadPool idle(3);  // that is never used
}
