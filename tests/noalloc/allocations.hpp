#pragma once

#include <cstddef>

namespace kfac::test {

/// How often the program asked for memory since it started. malloc and its kin are counted with
/// glibc, unless a sanitizer has taken their place.
struct Allocations {
  std::size_t news = 0;
  std::size_t mallocs = 0;

  friend bool operator==(const Allocations&, const Allocations&) = default;
  friend Allocations operator-(const Allocations& a, const Allocations& b) {
    return {a.news - b.news, a.mallocs - b.mallocs};
  }
};

Allocations allocations();
bool malloc_is_counted();

}  // namespace kfac::test
