#pragma once

#include <array>
#include <cstddef>
#include <type_traits>

#include <kfac/core/errors.hpp>

namespace kfac {

/// Scratch memory that only grows, so that batches of varying size allocate once. With a `Capacity`
/// the numbers are in the object, and it allocates nothing.
template <RealScalar S, Index Capacity = Eigen::Dynamic>
class Buffer {
  static constexpr bool kGrows = Capacity == Eigen::Dynamic;

 public:
  /// A `rows x columns` matrix over the buffer; earlier maps of this buffer become invalid, its
  /// contents unspecified unless the size is the same as before.
  /// \throws ShapeError if they are more numbers than a given capacity
  MatrixMap<S> map(Index rows, Index columns) {
    if constexpr (kGrows) {
      if (rows * columns > storage_.size()) storage_.resize(rows * columns);
    } else {
      if (rows * columns > Capacity)
        raise<ShapeError>("kfac::Buffer::map: 'rows' * 'columns' is " +
                          std::to_string(rows * columns) + ", expected at most " +
                          std::to_string(Capacity));
    }
    return {storage_.data(), rows, columns};
  }
  /// For how many numbers there is room once a map of `size` numbers was asked for.
  static constexpr Index room_for(Index size) { return kGrows ? size : Capacity; }
  /// How many numbers there is room for.
  Index capacity() const { return static_cast<Index>(storage_.size()); }
  S* data() { return storage_.data(); }
  const S* data() const { return storage_.data(); }

 private:
  using Array = std::array<S, static_cast<std::size_t>(kGrows ? 1 : Capacity)>;
  // As large vectors of the processor want it.
  static constexpr std::size_t kAlignment = kGrows ? alignof(Vector<S>) : 64;

  alignas(kAlignment) std::conditional_t<kGrows, Vector<S>, Array> storage_{};
};

}  // namespace kfac
