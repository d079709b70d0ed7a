#include <atomic>
#include <functional>
#include <memory>
#include <stdexcept>
#include <thread>
#include <vector>

#include <kfac/core/background_call.hpp>

#include "support/catch.hpp"
#include "support/message_of.hpp"

using namespace kfac;
using kfac::test::message_of;

namespace {

using Call = kfac::detail::BackgroundCall<std::function<int()>>;

/// A pool whose thread does nothing until it is let go.
struct HeldPool {
  std::atomic<bool> released = false;
  ThreadPool pool{1};

  HeldPool() {
    std::atomic<bool> begun = false;
    static_cast<void>(pool.submit([this, &begun] {
      begun = true;
      while (!released) std::this_thread::yield();
    }));
    while (!begun) std::this_thread::yield();
  }
  ~HeldPool() { released = true; }
};

}  // namespace

TEST_CASE("BackgroundCall: is made by a thread of the pool, again and again", "[threads]") {
  ThreadPool pool(2);
  Call call;
  const std::thread::id here = std::this_thread::get_id();
  for (int i = 0; i < 500; ++i) {
    std::thread::id by;
    CHECK_FALSE(call.is_started());
    call.start(&pool, [&by, i] {
      by = std::this_thread::get_id();
      return i;
    });
    CHECK(call.is_started());
    if (i % 2 == 0)
      while (!call.is_done()) std::this_thread::yield();
    REQUIRE(call.finish() == i);
    if (i % 2 == 0) REQUIRE(by != here);
    CHECK_FALSE(call.is_done());
  }
}

TEST_CASE("BackgroundCall: without a pool it is made at once") {
  Call call;
  std::thread::id by;
  call.start(nullptr, [&] {
    by = std::this_thread::get_id();
    return 3;
  });
  CHECK(by == std::this_thread::get_id());
  CHECK(call.is_done());
  CHECK(call.finish() == 3);
}

TEST_CASE("BackgroundCall: whoever waits for one that no thread has begun makes it", "[threads]") {
  HeldPool held;
  std::vector<std::unique_ptr<Call>> calls;
  std::vector<int> order;
  for (int i = 0; i < 4; ++i) {
    calls.push_back(std::make_unique<Call>());
    calls.back()->start(&held.pool, [&order, i] {
      order.push_back(i);
      return i;
    });
  }
  // From the middle, the end and the front of the queue, which goes on being one.
  CHECK(calls[1]->finish() == 1);
  CHECK(calls[3]->finish() == 3);
  CHECK(calls[0]->finish() == 0);
  CHECK(order == std::vector<int>{1, 3, 0});
  calls[0]->start(&held.pool, [&order] {
    order.push_back(4);
    return 4;
  });
  calls[2]->hurry();
  CHECK(order == std::vector<int>{1, 3, 0, 2});
  CHECK(calls[2]->is_done());
  calls[2]->hurry();  // once is enough
  held.released = true;
  while (!calls[0]->is_done()) std::this_thread::yield();
  CHECK(calls[0]->finish() == 4);
  CHECK(calls[2]->finish() == 2);
  CHECK(order == std::vector<int>{1, 3, 0, 2, 4});
}

TEST_CASE("BackgroundCall: what it throws arrives where it is finished", "[threads]") {
  ThreadPool pool(1);
  for (ThreadPool* where : {static_cast<ThreadPool*>(nullptr), &pool}) {
    Call call;
    call.start(where, []() -> int { throw std::runtime_error("the factor is singular"); });
    CHECK(message_of<std::runtime_error>([&] { call.finish(); }) == "the factor is singular");
    CHECK_FALSE(call.is_started());
    call.start(where, [] { return 1; });  // and is forgotten
    CHECK(call.finish() == 1);
  }
}

TEST_CASE("BackgroundCall: its end waits for a call that has begun, and drops one that has not",
          "[threads]") {
  std::atomic<int> calls = 0;
  {
    HeldPool held;
    Call call;
    call.start(&held.pool, [&] { return ++calls; });
  }
  CHECK(calls == 0);
  ThreadPool pool(1);
  for (int round = 0; round < 20; ++round) {
    std::atomic<bool> begun = false;
    {
      Call call;
      call.start(&pool, [&] {
        begun = true;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        return ++calls;
      });
      while (!begun) std::this_thread::yield();
    }
    CHECK(calls == round + 1);
  }
}
