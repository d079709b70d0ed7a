#pragma once

#include <stdexcept>

#ifndef EIGEN_RUNTIME_NO_MALLOC
#error "this program is compiled with EIGEN_RUNTIME_NO_MALLOC"
#endif
// Eigen's complaint about an allocation is to be one of Catch's failures, also with NDEBUG.
#define eigen_assert(condition) \
  static_cast<void>((condition) || (throw std::logic_error("Eigen: " #condition), false))

#include <Eigen/Core>

#include "noalloc/allocations.hpp"

namespace kfac::test {

/// What `body` allocates. Eigen is forbidden to, and throws std::logic_error if it does.
template <class Body>
Allocations allocations_in(Body&& body) {
  struct Forbid {
    Forbid() { Eigen::internal::set_is_malloc_allowed(false); }
    ~Forbid() { Eigen::internal::set_is_malloc_allowed(true); }
  } const forbid;
  const Allocations before = allocations();
  body();
  return allocations() - before;
}

}  // namespace kfac::test
