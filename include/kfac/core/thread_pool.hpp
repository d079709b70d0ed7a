#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <stop_token>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <kfac/core/errors.hpp>

namespace kfac {

/// Threads that run tasks in the order in which these were submitted; without any they sleep.
///
///     kfac::ThreadPool pool(2);
///     std::future<bool> done = pool.submit([&] { return inverse.compute(); });
///     if (done.get()) inverse.adopt();
///
/// The destructor waits until every task has run, those in the queue too. Any thread may submit, so
/// may a task; one that waits for a later one occupies its thread meanwhile.
class ThreadPool {
 public:
  /// \throws OptionError unless threads >= 1
  explicit ThreadPool(Index threads) {
    detail::check_option(threads >= 1, "kfac::ThreadPool", "threads", threads, ">= 1");
    workers_.reserve(static_cast<std::size_t>(threads));
    for (Index i = 0; i < threads; ++i)
      workers_.emplace_back([this](const std::stop_token& stop) { work(stop); });
  }
  ~ThreadPool() = default;
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  Index threads() const { return static_cast<Index>(workers_.size()); }

  /// Has `task()` run by one of the threads. The future has what it returned, or throws what it
  /// threw; unlike that of `std::async` it can be dropped without waiting.
  template <class Task>
  std::future<std::invoke_result_t<std::decay_t<Task>&>> submit(Task&& task) {
    using Result = std::invoke_result_t<std::decay_t<Task>&>;
    // Shared, since std::function wants what it holds to be copyable.
    auto packaged = std::make_shared<std::packaged_task<Result()>>(std::forward<Task>(task));
    std::future<Result> result = packaged->get_future();
    {
      const std::lock_guard lock(mutex_);
      queue_.emplace_back([packaged = std::move(packaged)] { (*packaged)(); });
    }
    wake_.notify_one();
    return result;
  }

 private:
  void work(const std::stop_token& stop) {
    for (;;) {
      std::function<void()> task;
      {
        std::unique_lock lock(mutex_);
        if (!wake_.wait(lock, stop, [this] { return !queue_.empty(); })) return;
        task = std::move(queue_.front());
        queue_.pop_front();
      }
      task();
    }
  }

  std::mutex mutex_;
  std::condition_variable_any wake_;
  std::deque<std::function<void()>> queue_;
  std::vector<std::jthread> workers_;  // last: stopped and joined before the rest is gone
};

}  // namespace kfac
