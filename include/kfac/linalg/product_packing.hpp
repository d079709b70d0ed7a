#pragma once

#include <algorithm>

#include <kfac/linalg/product_tile.hpp>
#include <kfac/linalg/strided.hpp>

namespace kfac::linalg::detail {

/// `into(k, lane) = operand(first_lane + lane, first + k)` for `depth` values of k, with the
/// `Lanes` of each k side by side; lanes beyond the operand's rows are zero.
template <Index Lanes, RealScalar S>
class LanePacking {
  using Tile = ProductTile<S>;
  using Packet = typename Tile::Packet;
  static constexpr Index kWidth = Tile::kWidth;
  /// How many lanes are transposed at once, in registers; 1 if it is not worth it.
  static constexpr Index kBlock = Lanes % kWidth == 0 ? kWidth : Lanes == 4 && kWidth > 4 ? 4 : 1;

 public:
  static void pack(const Strided<S>& operand, Index first_lane, Index first, Index depth, S* into) {
    if (operand.is_mirrored) return pack_mirrored(operand, first_lane, first, depth, into);
    const Index lanes = std::min(Lanes, operand.rows - first_lane);
    const S* from = operand.at(first_lane, first);
    const bool whole = lanes == Lanes;
    if (whole && operand.row_stride == 1)
      copy(from, operand.column_stride, depth, into);
    else if (whole && operand.column_stride == 1 && kBlock > 1)
      transpose(from, operand.row_stride, depth, into);
    else
      copy_some(operand, from, lanes, depth, into);
    if (operand.triangle != Triangle::All) clear(operand, first_lane, lanes, first, depth, into);
  }

 private:
  using Column = Eigen::Matrix<S, Lanes, 1>;
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wignored-attributes"  // of packets as template arguments
#endif
  using Block = Eigen::internal::PacketBlock<Packet, kBlock>;
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

  /// A row begins on one side of the diagonal and ends on the other.
  static void pack_mirrored(const Strided<S>& operand, Index first_lane, Index first, Index depth,
                            S* into) {
    const Index end = first + depth;
    const Index diagonal = std::clamp(first_lane, first, end);
    const Index after = std::clamp(first_lane + Lanes, first, end);
    Strided<S> stored = operand;
    stored.triangle = Triangle::All;
    stored.is_mirrored = false;
    const bool lower = operand.triangle == Triangle::Lower;
    const Strided<S>& before_it = lower ? stored : stored.transposed();
    const Strided<S>& after_it = lower ? stored.transposed() : stored;
    if (first < diagonal) pack(before_it, first_lane, first, diagonal - first, into);
    for (Index k = diagonal; k < after; ++k)
      for (Index lane = 0; lane < Lanes; ++lane) {
        const Index row = first_lane + lane;
        S& to = into[(k - first) * Lanes + lane];
        if (row >= operand.rows)
          to = S(0);
        else
          to = operand.counts(row, k) ? *stored.at(row, k) : *stored.at(k, row);
      }
    if (after < end) pack(after_it, first_lane, after, end - after, into + (after - first) * Lanes);
  }

  static void copy(const S* from, Index stride, Index depth, S* into) {
    for (Index k = 0; k < depth; ++k)
      Eigen::Map<Column>(into + k * Lanes) = Eigen::Map<const Column>(from + k * stride);
  }

  static void copy_some(const Strided<S>& operand, const S* from, Index lanes, Index depth,
                        S* into) {
    for (Index k = 0; k < depth; ++k, from += operand.column_stride, into += Lanes) {
      for (Index lane = 0; lane < lanes; ++lane) into[lane] = from[lane * operand.row_stride];
      for (Index lane = lanes; lane < Lanes; ++lane) into[lane] = S(0);
    }
  }

  static void transpose(const S* from, Index stride, Index depth, S* into) {
    const Index whole = depth - depth % kWidth;
    for (Index lane = 0; lane < Lanes; lane += kBlock) {
      const S* row = from + lane * stride;
      for (Index k = 0; k < whole; k += kWidth) {
        Block block;
        for (Index i = 0; i < kBlock; ++i)
          block.packet[i] = Eigen::internal::ploadu<Packet>(row + i * stride + k);
        Eigen::internal::ptranspose(block);
        // Of a square block packet i is one k; of one with fewer lanes it is the lanes of several.
        constexpr Index kStep = kWidth / kBlock;
        for (Index i = 0; i < kBlock; ++i)
          Eigen::internal::pstoreu(into + (k + i * kStep) * Lanes + lane, block.packet[i]);
      }
      for (Index k = whole; k < depth; ++k)
        for (Index i = 0; i < kBlock; ++i) into[k * Lanes + lane + i] = row[i * stride + k];
    }
  }

  /// Few: what is packed of a triangle ends soon after its diagonal.
  static void clear(const Strided<S>& operand, Index first_lane, Index lanes, Index first,
                    Index depth, S* into) {
    const bool lower = operand.triangle == Triangle::Lower;
    const Index begin = lower ? std::max(first, first_lane) : first;
    const Index end = lower ? first + depth : std::min(first + depth, first_lane + lanes);
    for (Index k = begin; k < end; ++k)
      for (Index lane = 0; lane < lanes; ++lane)
        if (!operand.counts(first_lane + lane, k)) into[(k - first) * Lanes + lane] = S(0);
  }
};

}  // namespace kfac::linalg::detail
