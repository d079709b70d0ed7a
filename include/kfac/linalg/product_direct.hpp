#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>

#include <kfac/linalg/product_result.hpp>
#include <kfac/linalg/product_tile.hpp>
#include <kfac/linalg/strided.hpp>

namespace kfac::linalg::detail {

/// A product so small that packing its operands would be most of the work: both are read where they
/// lie.
template <RealScalar S>
class DirectProduct {
  using Tile = ProductTile<S>;
  using Packet = typename Tile::Packet;
  static constexpr Index kWidth = Tile::kWidth;
  /// Multiply-adds from which on packing pays.
  static constexpr Index kMost = Index{1} << 18;

 public:
  /// Whether the product is small and the left operand's columns can be read by packets.
  static bool suits(const Strided<S>& left, const Strided<S>& right) {
    return left.rows * left.columns * right.columns <= kMost && left.columns > 0 &&
           left.row_stride == 1 && left.column_stride > 0 && left.triangle == Triangle::All &&
           right.triangle == Triangle::All;
  }

  DirectProduct(S alpha, const Strided<S>& left, const Strided<S>& right,
                const ProductResult<S>& result, bool add)
      : alpha_(alpha), left_(left), right_(right), result_(result), add_(add) {}

  void run() const {
    for (Index i = 0; i < result_.rows; i += Tile::kRows)
      run_rows(i, std::min(Tile::kRows, result_.rows - i));
  }

 private:
  void run_rows(Index i, Index rows) const {
    // Packets may reach beyond the rows, into the next columns, but not beyond the last of these:
    // of as many columns as would be there is a copy.
    const Index lanes = (rows + kWidth - 1) / kWidth * kWidth;
    const Index beyond = i + lanes - left_.rows + left_.column_stride - 1;
    const Index copied = lanes == rows ? 0 : std::min(left_.columns, beyond / left_.column_stride);
    EIGEN_ALIGN_TO_BOUNDARY(64) S copies[static_cast<std::size_t>(kWidth * Tile::kRows)];
    for (Index k = 0; k < copied; ++k) {
      const S* const from = left_.at(i, left_.columns - copied + k);
      S* const to = copies + k * Tile::kRows;
      for (Index lane = 0; lane < rows; ++lane) to[lane] = from[lane];
      for (Index lane = rows; lane < lanes; ++lane) to[lane] = S(0);
    }
    const bool lower = result_.triangle == Triangle::Lower;
    const Index end = lower ? std::min(result_.columns, i + rows) : result_.columns;
    for (Index j = 0; j < end; j += Tile::kColumns) {
      // Without the packets above the diagonal of a lower triangle.
      const Index above = lower && j > i ? (j - i) / kWidth * kWidth : 0;
      const ProductPart part{i + above, rows - above, j,
                             std::min(Tile::kColumns, result_.columns - j)};
      if (lanes - above > 2 * kWidth)
        run_columns<3>(part, copies + above, copied);
      else if (lanes - above > kWidth)
        run_columns<2>(part, copies + above, copied);
      else
        run_columns<1>(part, copies + above, copied);
    }
  }
  template <std::size_t Vectors>
  void run_columns(const ProductPart& part, const S* copies, Index copied) const {
    if (part.columns > Tile::kGroup)
      run_tile<Vectors, std::size_t{Tile::kColumns}>(part, copies, copied);
    else
      run_tile<Vectors, std::size_t{Tile::kGroup}>(part, copies, copied);
  }

  template <std::size_t Vectors, std::size_t Columns>
  void run_tile(const ProductPart& part, const S* copies, Index copied) const {
    // Without as many columns the last is taken again.
    std::array<const S*, Columns> right;
    for (std::size_t j = 0; j < Columns; ++j)
      right[j] =
          right_.at(0, part.first_column + std::min(static_cast<Index>(j), part.columns - 1));
    Packet sums[Columns][Vectors];
    for (auto& column : sums)
      for (Packet& sum : column) sum = Eigen::internal::pset1<Packet>(S(0));
    const Index in_place = left_.columns - copied;
    Tile::template add_in_place<Vectors>(sums, in_place, left_.at(part.first_row, 0),
                                         left_.column_stride, right, right_.row_stride);
    for (const S*& column : right) column += in_place * right_.row_stride;
    Tile::template add_in_place<Vectors>(sums, copied, copies, Tile::kRows, right,
                                         right_.row_stride);
    for (std::size_t j = 0; j < static_cast<std::size_t>(part.columns); ++j)
      store<Vectors>(part, static_cast<Index>(j), sums[j]);
  }

  /// Column j of a tile.
  template <std::size_t Vectors>
  void store(const ProductPart& part, Index j, const Packet* sums) const {
    using namespace Eigen::internal;
    S* const to = result_.data + part.first_row + (part.first_column + j) * result_.stride;
    const Index top = result_.triangle == Triangle::Lower
                          ? std::max(Index{0}, part.first_column + j - part.first_row)
                          : 0;
    const Packet alpha = pset1<Packet>(alpha_);
    for (std::size_t v = 0; v < Vectors; ++v) {
      const Index first = static_cast<Index>(v) * kWidth;
      if (first + kWidth <= part.rows) {
        const Packet before = ploadu<Packet>(to + first);
        const Packet packet = add_ ? pmadd(alpha, sums[v], before) : pmul(alpha, sums[v]);
        if (first >= top)
          pstoreu(to + first, packet);
        else  // rows above the diagonal get what they have
          pstoreu(to + first, pselect(pcmp_le(pset1<Packet>(static_cast<S>(top)),
                                              plset<Packet>(static_cast<S>(first))),
                                      packet, before));
        continue;
      }
      EIGEN_ALIGN_TO_BOUNDARY(64) S some[static_cast<std::size_t>(kWidth)];
      pstore(some, pmul(alpha, sums[v]));
      const Index end = part.rows - first;
      for (Index i = std::max(Index{0}, top - first); i < end; ++i)
        to[first + i] = add_ ? to[first + i] + some[i] : some[i];
    }
  }

  S alpha_;
  Strided<S> left_, right_;
  ProductResult<S> result_;
  bool add_;
};

}  // namespace kfac::linalg::detail
