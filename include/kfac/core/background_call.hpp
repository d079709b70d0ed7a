#pragma once

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <type_traits>
#include <utility>

#include <kfac/core/thread_pool.hpp>

namespace kfac::detail {

/// A call that is made again and again while the thread that wants it goes on, without memory being
/// taken for it. Whoever waits for one that no thread has begun makes it himself.
///
///     BackgroundCall<Compute> inverse;
///     inverse.start(&pool, Compute{block});
///     ...
///     if (inverse.finish()) block.adopt_inverse();
///
/// The destructor drops what was started. The pool must outlive what was started.
template <class Function>
class BackgroundCall final : QueuedTask {
 public:
  using Result = std::invoke_result_t<Function&>;

  BackgroundCall() = default;
  BackgroundCall(const BackgroundCall&) = delete;
  BackgroundCall& operator=(const BackgroundCall&) = delete;
  ~BackgroundCall() override { drop(); }

  /// Has a thread of the pool call `function()`; null: this thread does, now. \pre not started
  void start(ThreadPool* pool, Function function) {
    function_ = std::move(function);
    pool_ = pool;
    is_started_ = true;
    if (pool_)
      pool_->enqueue(*this);
    else
      run();
  }
  /// Whether there is something to finish.
  bool is_started() const { return is_started_; }
  /// Whether `finish` would not wait.
  bool is_done() const { return is_done_.load(); }
  /// Makes the call now, by this thread, if no other has begun it.
  void hurry() {
    if (is_started_ && pool_ && pool_->take_back(*this)) run();
  }
  /// Ends it without a result: not made if no thread has begun it, else waited for.
  void drop() {
    if (!is_started_) return;
    if (!pool_ || !pool_->take_back(*this)) wait();
    reset();
  }
  /// What the call returned, or it throws what that threw. \pre it is started
  Result finish() {
    hurry();
    wait();
#if defined(__cpp_exceptions)
    const std::exception_ptr error = error_;
    reset();
    if (error) std::rethrow_exception(error);
#else
    reset();
#endif
    return result_;
  }

 private:
  void run() override {
#if defined(__cpp_exceptions)
    try {
      result_ = function_();
    } catch (...) {
      error_ = std::current_exception();
    }
#else
    result_ = function_();
#endif
    const std::lock_guard lock(mutex_);
    is_done_.store(true);
    done_.notify_one();  // under the lock: whoever waits may end this object's life after it
  }
  void reset() {
    is_started_ = false;
    is_done_.store(false);
#if defined(__cpp_exceptions)
    error_ = nullptr;
#endif
  }
  void wait() {
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return is_done_.load(); });
  }

  Function function_{};
  ThreadPool* pool_ = nullptr;
  bool is_started_ = false;
  std::atomic<bool> is_done_ = false;
  Result result_{};
#if defined(__cpp_exceptions)
  std::exception_ptr error_;
#endif
  std::mutex mutex_;
  std::condition_variable done_;
};

}  // namespace kfac::detail
