#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
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

class ThreadPool;

namespace detail {

template <class Function>
class BackgroundCall;

/// A task with its place in the queue of a `ThreadPool`.
class QueuedTask {
 public:
  QueuedTask(const QueuedTask&) = delete;
  QueuedTask& operator=(const QueuedTask&) = delete;
  virtual void run() = 0;  // without throwing; it may end the task's life

 protected:
  QueuedTask() = default;
  virtual ~QueuedTask() = default;

 private:
  friend ThreadPool;
  QueuedTask* next_ = nullptr;
};

/// With whom this thread shares the work that it splits.
struct Sharing {
  ThreadPool* pool = nullptr;
  bool in_part = false;  // of work that was split already: not split again
};
inline thread_local constinit Sharing this_thread;

/// While alive, what this thread does is not split.
class InPart {
 public:
  InPart() { this_thread = {nullptr, true}; }
  ~InPart() { this_thread = before_; }
  InPart(const InPart&) = delete;
  InPart& operator=(const InPart&) = delete;

 private:
  Sharing before_ = this_thread;
};

/// Whether `ready()` came true while it was worth being awake for: some times what it takes to fall
/// asleep and be woken.
template <class Ready>
bool spin_until(Ready&& ready) {
  using Clock = std::chrono::steady_clock;
  if (ready()) return true;
  const Clock::time_point end = Clock::now() + std::chrono::microseconds(50);
  do {
    std::this_thread::yield();
    if (ready()) return true;
  } while (Clock::now() < end);
  return false;
}

}  // namespace detail

/// Threads for two kinds of work. `submit` has tasks run beside the thread that submits them, in
/// the order in which they came:
///
///     kfac::ThreadPool pool(2);
///     std::future<bool> done = pool.submit([&] { return inverse.compute(); });
///     if (done.get()) inverse.adopt();
///
/// `for_each` splits work between the thread that calls it and those of the pool that have nothing
/// else to do, and goes before tasks that have not begun:
///
///     pool.for_each(16, [&](kfac::Index part) { rows(part) *= 2; });
///
/// The pool's threads are in addition to the callers', so a program that is to use n has a pool of
/// n - 1. They sleep while there is nothing to do, after looking out for more for 50 microseconds.
/// The destructor waits until every task has run, those in the queue too. Any thread may call, so
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

  /// Of the pool; callers of `for_each` come on top.
  Index threads() const { return static_cast<Index>(workers_.size()); }

  /// Has `task()` run by one of the threads. The future has what it returned, or throws what it
  /// threw; unlike that of `std::async` it can be dropped without waiting.
  template <class Task>
  std::future<std::invoke_result_t<std::decay_t<Task>&>> submit(Task&& task) {
    using Result = std::invoke_result_t<std::decay_t<Task>&>;
    struct Submitted final : QueuedTask {
      explicit Submitted(Task&& function) : task(std::forward<Task>(function)) {}
      void run() override {
        const std::unique_ptr<Submitted> ends_with_it(this);
        task();
      }
      std::packaged_task<Result()> task;
    };
    auto submitted = std::make_unique<Submitted>(std::forward<Task>(task));
    std::future<Result> result = submitted->task.get_future();
    enqueue(*submitted.release());
    return result;
  }

  /// Calls `body(part)` once for each part in [0, parts), in any order and at the same time, and
  /// returns when all are done. What a body throws is thrown here, that of the first such part;
  /// parts that had not begun are then left out. Within a body or a task it is a plain loop, and so
  /// it is while another thread is in it, or with one part. It takes no memory.
  template <class Body>
  void for_each(Index parts, Body&& body) {
    const bool alone = parts <= 1 || detail::this_thread.in_part || busy_.exchange(true);
    if (alone) {
      for (Index part = 0; part < parts; ++part) body(part);
      return;
    }
    const detail::InPart in_part;
    Job job(
        parts,
        [](void* context, Index part) {
          (*static_cast<std::remove_reference_t<Body>*>(context))(part);
        },
        const_cast<void*>(static_cast<const void*>(std::addressof(body))));
    share(job);
    busy_.store(false);
    job.rethrow();
  }

 private:
  template <class Function>
  friend class detail::BackgroundCall;
  using QueuedTask = detail::QueuedTask;

  /// A call of `for_each`.
  class Job {
   public:
    using Call = void (*)(void* context, Index part);

    Job(Index parts, Call call, void* context) : parts_(parts), call_(call), context_(context) {}

    /// Parts, until there are no more to begin.
    void run() {
      for (Index part = next_++; part < parts_; part = next_++) {
#if defined(__cpp_exceptions)
        try {
          call_(context_, part);
        } catch (...) {
          next_ = parts_;
          const std::lock_guard lock(mutex_);
          if (part >= failed_part_) continue;
          failed_part_ = part;
          error_ = std::current_exception();
        }
#else
        call_(context_, part);
#endif
      }
    }
    void rethrow() const {
#if defined(__cpp_exceptions)
      if (error_) std::rethrow_exception(error_);
#endif
    }

   private:
    Index parts_;
    Call call_;
    void* context_;
    std::atomic<Index> next_ = 0;
#if defined(__cpp_exceptions)
    std::mutex mutex_;
    Index failed_part_ = parts_;
    std::exception_ptr error_;
#endif
  };

  // Of each pair of operations below, a store or an addition and then a load of something else, at
  // least one thread sees what the other did: both are sequentially consistent.

  void share(Job& job) {
    job_.store(&job);
    signal();
    job.run();
    job_.store(nullptr);
    const auto is_alone = [this] { return helpers_.load() == 0; };
    if (detail::spin_until(is_alone)) return;
    std::unique_lock lock(mutex_);
    caller_sleeps_.store(true);
    joined_.wait(lock, is_alone);
    caller_sleeps_.store(false);
  }

  void help() {
    if (!job_.load()) return;
    ++helpers_;  // from here on no job ends that is still there
    if (Job* job = job_.load()) job->run();
    if (--helpers_ > 0 || !caller_sleeps_.load()) return;
    // Neither before it has looked nor between that and falling asleep.
    { const std::lock_guard lock(mutex_); }
    joined_.notify_one();
  }

  /// There is something to do.
  void signal() {
    ++signals_;
    if (sleepers_.load() == 0) return;
    { const std::lock_guard lock(mutex_); }
    wake_.notify_all();
  }

  void work(const std::stop_token& stop) {
    const detail::InPart in_part;
    for (;;) {
      const std::uint64_t seen = signals_.load();
      help();
      if (run_task()) continue;
      if (stop.stop_requested()) return;
      const auto is_signalled = [&] { return signals_.load() != seen; };
      if (detail::spin_until([&] { return is_signalled() || stop.stop_requested(); })) continue;
      std::unique_lock lock(mutex_);
      ++sleepers_;
      wake_.wait(lock, stop, is_signalled);
      --sleepers_;
    }
  }

  void enqueue(QueuedTask& task) {
    {
      const std::lock_guard lock(mutex_);
      *queue_end_ = &task;
      queue_end_ = &task.next_;
    }
    signal();
  }
  /// Whether the task was in the queue still, in which it then is no more.
  bool take_back(QueuedTask& task) {
    const std::lock_guard lock(mutex_);
    QueuedTask** place = &queue_;
    while (*place && *place != &task) place = &(*place)->next_;
    if (!*place) return false;
    unlink(place);
    return true;
  }
  bool run_task() {
    QueuedTask* task = nullptr;
    {
      const std::lock_guard lock(mutex_);
      task = queue_;
      if (!task) return false;
      unlink(&queue_);
    }
    task->run();
    return true;
  }
  void unlink(QueuedTask** place) {
    QueuedTask* task = *place;
    *place = std::exchange(task->next_, nullptr);
    if (queue_end_ == &task->next_) queue_end_ = place;
  }

  std::mutex mutex_;
  QueuedTask* queue_ = nullptr;
  QueuedTask** queue_end_ = &queue_;  // where the next comes
  std::atomic<std::uint64_t> signals_ = 0;
  std::atomic<Index> sleepers_ = 0;
  std::condition_variable_any wake_;

  std::atomic<bool> busy_ = false;   // a thread is in `for_each`
  std::atomic<Job*> job_ = nullptr;  // while it has parts to give
  std::atomic<Index> helpers_ = 0;   // threads that may be at work on it
  std::atomic<bool> caller_sleeps_ = false;
  std::condition_variable joined_;

  std::vector<std::jthread> workers_;  // last: stopped and joined before the rest is gone
};

}  // namespace kfac
