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

TEST_CASE("ThreadPool: wants a thread at least") {
  for (const Index threads : {0, -1})
    CHECK(message_of<OptionError>([&] { ThreadPool pool(threads); }) ==
          "kfac::ThreadPool: 'threads' is " + std::to_string(threads) + ", expected >= 1");
  ThreadPool idle(3);  // that is never used
}
