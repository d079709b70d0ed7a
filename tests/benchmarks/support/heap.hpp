#pragma once

#include <cstddef>

namespace benchmarks {

/// Whether the program's heap is watched: with glibc, unless a sanitizer has taken malloc's place.
bool heap_is_measured();

/// Bytes that are allocated now: what malloc and its kin handed out, as large as they made it.
std::size_t heap_bytes();

/// The most bytes that were allocated at one time since its construction, beyond those that were
/// allocated then. One at a time; threads may allocate meanwhile.
class HeapPeak {
 public:
  HeapPeak();
  std::size_t bytes() const;

 private:
  std::size_t before_;
};

}  // namespace benchmarks
