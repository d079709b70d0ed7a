#include "support/heap.hpp"

#include <atomic>
#include <cerrno>
#include <cstdlib>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || \
    __has_feature(memory_sanitizer)
#define KFAC_BENCHMARKS_SANITIZED
#endif
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define KFAC_BENCHMARKS_SANITIZED
#endif
#if defined(__GLIBC__) && !defined(KFAC_BENCHMARKS_SANITIZED)
#define KFAC_BENCHMARKS_WATCH_MALLOC
#include <malloc.h>
#endif

namespace {

std::atomic<std::size_t> now{0};
std::atomic<std::size_t> most{0};

}  // namespace

namespace benchmarks {

bool heap_is_measured() {
#ifdef KFAC_BENCHMARKS_WATCH_MALLOC
  return true;
#else
  return false;
#endif
}

std::size_t heap_bytes() {
  return now.load();
}

HeapPeak::HeapPeak() : before_(now.load()) {
  most.store(before_);
}

std::size_t HeapPeak::bytes() const {
  return most.load() - before_;
}

}  // namespace benchmarks

#ifdef KFAC_BENCHMARKS_WATCH_MALLOC
namespace {

void* taken(void* memory) {
  const std::size_t size = malloc_usable_size(memory);
  const std::size_t total = now.fetch_add(size, std::memory_order_relaxed) + size;
  std::size_t before = most.load(std::memory_order_relaxed);
  while (before < total && !most.compare_exchange_weak(before, total, std::memory_order_relaxed)) {
  }
  return memory;
}

void give_back(void* memory) {
  now.fetch_sub(malloc_usable_size(memory), std::memory_order_relaxed);
}

}  // namespace

// What a program defines goes before what glibc does, in all of the program and its libraries;
// operator new asks malloc.
extern "C" {
void* __libc_malloc(std::size_t);                 // NOLINT(bugprone-reserved-identifier)
void* __libc_calloc(std::size_t, std::size_t);    // NOLINT(bugprone-reserved-identifier)
void* __libc_realloc(void*, std::size_t);         // NOLINT(bugprone-reserved-identifier)
void* __libc_memalign(std::size_t, std::size_t);  // NOLINT(bugprone-reserved-identifier)
void __libc_free(void*);                          // NOLINT(bugprone-reserved-identifier)

void* malloc(std::size_t size) noexcept {
  return taken(__libc_malloc(size));
}
void* calloc(std::size_t items, std::size_t size) noexcept {
  return taken(__libc_calloc(items, size));
}
void* realloc(void* memory, std::size_t size) noexcept {
  const std::size_t before = malloc_usable_size(memory);
  void* result = __libc_realloc(memory, size);
  if (result == nullptr && size > 0) return nullptr;  // `memory` is as it was
  now.fetch_sub(before, std::memory_order_relaxed);
  return taken(result);
}
void free(void* memory) noexcept {
  give_back(memory);
  __libc_free(memory);
}
void* memalign(std::size_t alignment, std::size_t size) noexcept {
  return taken(__libc_memalign(alignment, size));
}
void* aligned_alloc(std::size_t alignment, std::size_t size) noexcept {
  return taken(__libc_memalign(alignment, size));
}
int posix_memalign(void** memory, std::size_t alignment, std::size_t size) noexcept {
  *memory = taken(__libc_memalign(alignment, size));
  return *memory == nullptr ? ENOMEM : 0;
}
}
#endif
