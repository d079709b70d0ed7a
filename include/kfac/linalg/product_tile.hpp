#pragma once

#include <array>
#include <cstddef>
#include <utility>

#include <kfac/core/types.hpp>

namespace kfac::linalg::detail {

/// What of a matrix product is summed in registers: a tile of the result, `kRows x kColumns`, from
/// a panel of the left operand (kRows entries of one column after another) and one of the right
/// (groups of kGroup columns, of which a row's entries lie side by side).
///
/// It is written with the packets that Eigen's own kernels are made of, so that it follows whatever
/// instructions Eigen was compiled for. With 32 registers the tile is twice as wide as Eigen 3.4's,
/// and nothing here takes memory from the heap.
template <RealScalar S>
struct ProductTile {
  using Packet = typename Eigen::internal::packet_traits<S>::type;
  static constexpr Index kWidth = Eigen::internal::unpacket_traits<Packet>::size;
  static constexpr Index kRows = 3 * kWidth;
  static constexpr Index kGroup = 4;
  static constexpr std::size_t kGroups = EIGEN_ARCH_DEFAULT_NUMBER_OF_REGISTERS >= 32 ? 2 : 1;
  static constexpr Index kColumns = Index{kGroups} * kGroup;

  /// The sums over `depth` columns of the left panel and rows of the right, of the first `Vectors`
  /// packets of the rows and the first `Groups` groups of the columns, whose panels lie
  /// `group_stride` apart: calls `store(row, column, packet)` for the rows from `row` on.
  template <std::size_t Vectors, std::size_t Groups, class Store>
  static void run(Index depth, const S* left, const S* right, Index group_stride, Store&& store) {
    constexpr std::size_t kSums = Groups * std::size_t{kGroup};
    using Rows = std::make_index_sequence<Vectors>;
    using Columns = std::make_index_sequence<kSums>;
    Packet sums[kSums][Vectors];
    for (auto& column : sums)
      for (Packet& sum : column) sum = Eigen::internal::pset1<Packet>(S(0));
    for (Index k = 0; k < depth; ++k) {
      Packet packets[Vectors];
      load(packets, left, Rows());
      add_row<Vectors>(sums, packets, right, group_stride, Columns());
      left += kRows;
      right += kGroup;
    }
    for (std::size_t j = 0; j < kSums; ++j)
      for (std::size_t i = 0; i < Vectors; ++i)
        store(static_cast<Index>(i) * kWidth, static_cast<Index>(j), sums[j][i]);
  }

  /// Adds to the sums over `depth` columns of the left operand, `stride` apart, and rows of the
  /// right one, each column of which is given and has its entries `right_stride` apart.
  template <std::size_t Vectors, std::size_t Columns>
  static void add_in_place(Packet (&sums)[Columns][Vectors], Index depth, const S* left,
                           Index stride, const std::array<const S*, Columns>& right,
                           Index right_stride) {
    Packet now[Columns][Vectors];  // in registers
    for (std::size_t j = 0; j < Columns; ++j)
      for (std::size_t i = 0; i < Vectors; ++i) now[j][i] = sums[j][i];
    for (Index k = 0; k < depth; ++k) {
      Packet packets[Vectors];
      load_unaligned(packets, left + k * stride, std::make_index_sequence<Vectors>());
      add_entries<Vectors>(now, packets, right, k * right_stride,
                           std::make_index_sequence<Columns>());
    }
    for (std::size_t j = 0; j < Columns; ++j)
      for (std::size_t i = 0; i < Vectors; ++i) sums[j][i] = now[j][i];
  }

 private:
  // By fold expressions, for the sums to be in registers at -O2 too, where loops are not unrolled.

  template <std::size_t... I>
  static EIGEN_ALWAYS_INLINE void load(Packet* packets, const S* from, std::index_sequence<I...>) {
    ((packets[I] = Eigen::internal::pload<Packet>(from + Index{I} * kWidth)), ...);
  }
  template <std::size_t... I>
  static EIGEN_ALWAYS_INLINE void load_unaligned(Packet* packets, const S* from,
                                                 std::index_sequence<I...>) {
    ((packets[I] = Eigen::internal::ploadu<Packet>(from + Index{I} * kWidth)), ...);
  }
  template <std::size_t... I>
  static EIGEN_ALWAYS_INLINE void add_column(Packet* sums, const Packet* left, const Packet& right,
                                             std::index_sequence<I...>) {
    ((sums[I] = Eigen::internal::pmadd(left[I], right, sums[I])), ...);
  }
  template <std::size_t Vectors, std::size_t... J>
  static EIGEN_ALWAYS_INLINE void add_row(Packet (*sums)[Vectors], const Packet* left,
                                          const S* right, Index group_stride,
                                          std::index_sequence<J...>) {
    (add_column(sums[J], left,
                Eigen::internal::pset1<Packet>(
                    right[Index{J} / kGroup * group_stride + Index{J} % kGroup]),
                std::make_index_sequence<Vectors>()),
     ...);
  }
  template <std::size_t Vectors, std::size_t Columns, std::size_t... J>
  static EIGEN_ALWAYS_INLINE void add_entries(Packet (*sums)[Vectors], const Packet* left,
                                              const std::array<const S*, Columns>& right, Index at,
                                              std::index_sequence<J...>) {
    (add_column(sums[J], left, Eigen::internal::pset1<Packet>(right[J][at]),
                std::make_index_sequence<Vectors>()),
     ...);
  }
};

}  // namespace kfac::linalg::detail
