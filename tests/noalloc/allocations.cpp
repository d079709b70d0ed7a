#include "noalloc/allocations.hpp"

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <new>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || \
    __has_feature(memory_sanitizer)
#define KFAC_TEST_SANITIZED
#endif
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define KFAC_TEST_SANITIZED
#endif
#if defined(__GLIBC__) && !defined(KFAC_TEST_SANITIZED)
#define KFAC_TEST_COUNTS_MALLOC
#endif

namespace {

// Of all threads.
struct {
  std::atomic<std::size_t> news = 0;
  std::atomic<std::size_t> mallocs = 0;
} count;

void* or_bad_alloc(void* memory) {
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

namespace kfac::test {

Allocations allocations() {
  return {count.news, count.mallocs};
}

bool malloc_is_counted() {
#ifdef KFAC_TEST_COUNTS_MALLOC
  return true;
#else
  return false;
#endif
}

}  // namespace kfac::test

// The other forms of new and delete are defined by these.
void* operator new(std::size_t size) {
  ++count.news;
  return or_bad_alloc(std::malloc(size == 0 ? 1 : size));
}
void* operator new(std::size_t size, std::align_val_t alignment) {
  ++count.news;
  const auto step = static_cast<std::size_t>(alignment);
  return or_bad_alloc(std::aligned_alloc(step, (size + step) / step * step));
}
// A sanitizer has its own of this one, whose memory the delete below must not free.
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  ++count.news;
  return std::malloc(size == 0 ? 1 : size);
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  std::free(memory);
}

#ifdef KFAC_TEST_COUNTS_MALLOC
// What a program defines goes before what glibc does, in all of the program and its libraries.
extern "C" {
void* __libc_malloc(std::size_t);                 // NOLINT(bugprone-reserved-identifier)
void* __libc_calloc(std::size_t, std::size_t);    // NOLINT(bugprone-reserved-identifier)
void* __libc_realloc(void*, std::size_t);         // NOLINT(bugprone-reserved-identifier)
void* __libc_memalign(std::size_t, std::size_t);  // NOLINT(bugprone-reserved-identifier)

void* malloc(std::size_t size) noexcept {
  ++count.mallocs;
  return __libc_malloc(size);
}
void* calloc(std::size_t items, std::size_t size) noexcept {
  ++count.mallocs;
  return __libc_calloc(items, size);
}
void* realloc(void* memory, std::size_t size) noexcept {
  ++count.mallocs;
  return __libc_realloc(memory, size);
}
void* aligned_alloc(std::size_t alignment, std::size_t size) noexcept {
  ++count.mallocs;
  return __libc_memalign(alignment, size);
}
int posix_memalign(void** memory, std::size_t alignment, std::size_t size) noexcept {
  ++count.mallocs;
  *memory = __libc_memalign(alignment, size);
  return *memory == nullptr ? ENOMEM : 0;
}
}
#endif
