#pragma once

#include <kfac/core/thread_pool.hpp>

namespace kfac {

/// While alive, the library's kernels that are called on this thread (products, inverses, passes
/// over layers) split large work over this thread and those of a pool:
///
///     kfac::ThreadPool pool(1);
///     const kfac::ParallelScope parallel(&pool);
///     model.backward(loss.gradient(model.forward(x), y));  // by two threads
///
/// The numbers are the same as without. With null all stays as it was; an inner scope goes before
/// an outer one. Work that is split is not split again: in a part of it, and in a task of a pool,
/// scopes have no effect. The pool must outlive the scope. `KfacOptimizer` has its own where its
/// options ask for threads, and needs none.
class ParallelScope {
 public:
  explicit ParallelScope(ThreadPool* pool) : before_(detail::this_thread.pool) {
    if (pool && !detail::this_thread.in_part) detail::this_thread.pool = pool;
  }
  ~ParallelScope() { detail::this_thread.pool = before_; }
  ParallelScope(const ParallelScope&) = delete;
  ParallelScope& operator=(const ParallelScope&) = delete;

 private:
  ThreadPool* before_;
};

namespace detail {

/// How many threads take part in `parallel_for`, at most.
inline Index parallelism() {
  const ThreadPool* pool = this_thread.pool;
  return pool ? pool->threads() + 1 : 1;
}

/// `ThreadPool::for_each` with the pool of this thread's `ParallelScope`; without one, a loop. For
/// results not to depend on the number of threads, let no part depend on it, nor on the order.
template <class Body>
void parallel_for(Index parts, Body&& body) {
  if (ThreadPool* pool = this_thread.pool) return pool->for_each(parts, body);
  for (Index part = 0; part < parts; ++part) body(part);
}

}  // namespace detail
}  // namespace kfac
