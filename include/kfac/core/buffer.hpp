#pragma once

#include <kfac/core/types.hpp>

namespace kfac {

/// Scratch memory that only grows, so that batches of varying size allocate once.
template <RealScalar S>
class Buffer {
 public:
  /// A `rows x columns` matrix over the buffer; earlier maps of this buffer become invalid, its
  /// contents unspecified unless the size is the same as before.
  MatrixMap<S> map(Index rows, Index columns) {
    if (rows * columns > storage_.size()) storage_.resize(rows * columns);
    return {storage_.data(), rows, columns};
  }
  /// How many numbers there is room for.
  Index capacity() const { return storage_.size(); }
  S* data() { return storage_.data(); }
  const S* data() const { return storage_.data(); }

 private:
  Vector<S> storage_;
};

}  // namespace kfac
