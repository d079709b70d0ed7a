#pragma once

#include <algorithm>
#include <array>

#include <kfac/core/types.hpp>

namespace kfac::linalg::detail {

/// to[column * to_stride + row] = from[row * from_stride + column] + shift(column), in square
/// blocks that are transposed in registers. A last block overlaps the one before.
template <RealScalar S>
class Transpose {
  using Packet = typename Eigen::internal::packet_traits<S>::type;
  static constexpr Index kWidth = Eigen::internal::unpacket_traits<Packet>::size;

 public:
  template <class Shift>
  static void run(const S* from, Index from_stride, Index rows, Index columns, Shift&& shift, S* to,
                  Index to_stride) {
    if (rows < kWidth || columns < kWidth) {
      for (Index column = 0; column < columns; ++column)
        for (Index row = 0; row < rows; ++row)
          to[column * to_stride + row] = from[row * from_stride + column] + shift(column);
      return;
    }
    for (Index next = 0; next < columns; next += kWidth) {
      const Index column = std::min(next, columns - kWidth);
      std::array<S, static_cast<std::size_t>(kWidth)> shifts;
      for (Index i = 0; i < kWidth; ++i) shifts[static_cast<std::size_t>(i)] = shift(column + i);
      for (Index below = 0; below < rows; below += kWidth) {
        const Index row = std::min(below, rows - kWidth);
        run_block(from + row * from_stride + column, from_stride, shifts.data(),
                  to + column * to_stride + row, to_stride);
      }
    }
  }

 private:
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wignored-attributes"  // of packets as template arguments
#endif
  using Block = Eigen::internal::PacketBlock<Packet, kWidth>;
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

  static EIGEN_ALWAYS_INLINE void run_block(const S* from, Index from_stride, const S* shifts,
                                            S* to, Index to_stride) {
    using namespace Eigen::internal;  // NOLINT(google-build-using-namespace): packets' operations
    Block block;
    for (Index i = 0; i < kWidth; ++i) block.packet[i] = ploadu<Packet>(from + i * from_stride);
    ptranspose(block);
    for (Index i = 0; i < kWidth; ++i)
      pstoreu(to + i * to_stride, padd(block.packet[i], pset1<Packet>(shifts[i])));
  }
};

}  // namespace kfac::linalg::detail
