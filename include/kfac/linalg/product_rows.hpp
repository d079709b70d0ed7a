#pragma once

#include <algorithm>
#include <array>
#include <cstddef>

#include <kfac/linalg/product_result.hpp>
#include <kfac/linalg/product_tile.hpp>
#include <kfac/linalg/strided.hpp>

namespace kfac::linalg::detail {

/// A small product of long rows with long columns, each of which lies in one piece: sums along
/// them, by packets, need no operand packed. Gram matrices of convolutions' gradients are such.
template <RealScalar S>
class RowProduct {
  using Tile = ProductTile<S>;
  using Packet = typename Tile::Packet;
  static constexpr Index kWidth = Tile::kWidth;
  static constexpr std::size_t kSize = 4;  // of a tile: as many sums as leave room for operands
  /// Adding up the entries of packets at the end costs as much as some packets do.
  static constexpr Index kLeastDepth = 8 * kWidth;
  static constexpr Index kMostRows = 64;

 public:
  static bool suits(const Strided<S>& left, const Strided<S>& right) {
    return left.column_stride == 1 && right.row_stride == 1 && left.columns >= kLeastDepth &&
           left.rows <= kMostRows && right.columns <= kMostRows && left.triangle == Triangle::All &&
           right.triangle == Triangle::All;
  }

  RowProduct(S alpha, const Strided<S>& left, const Strided<S>& right,
             const ProductResult<S>& result, bool add)
      : alpha_(alpha), left_(left), right_(right), result_(result), add_(add) {}

  void run() const {
    constexpr Index kStep{kSize};
    for (Index j = 0; j < result_.columns; j += kStep)
      for (Index i = result_.triangle == Triangle::Lower ? j : 0; i < result_.rows; i += kStep)
        run_tile(i, j);
  }

 private:
  void run_tile(Index first_row, Index first_column) const {
    using namespace Eigen::internal;
    // Beyond the last row or column that is taken again.
    std::array<const S*, kSize> rows, columns;
    for (std::size_t i = 0; i < kSize; ++i) {
      const auto offset = static_cast<Index>(i);
      rows[i] = left_.at(std::min(first_row + offset, left_.rows - 1), 0);
      columns[i] = right_.at(0, std::min(first_column + offset, right_.columns - 1));
    }
    Packet sums[kSize][kSize];
    for (auto& row : sums)
      for (Packet& sum : row) sum = pset1<Packet>(S(0));
    const Index whole = left_.columns / kWidth * kWidth;
    for (Index k = 0; k < whole; k += kWidth) {
      Packet column[kSize];
      for (std::size_t j = 0; j < kSize; ++j) column[j] = ploadu<Packet>(columns[j] + k);
      for (std::size_t i = 0; i < kSize; ++i) {
        const Packet row = ploadu<Packet>(rows[i] + k);
        for (std::size_t j = 0; j < kSize; ++j) sums[i][j] = pmadd(row, column[j], sums[i][j]);
      }
    }
    const Index end_row = std::min(first_row + Index{kSize}, result_.rows);
    const Index end_column = std::min(first_column + Index{kSize}, result_.columns);
    for (Index j = first_column; j < end_column; ++j)
      for (Index i = result_.triangle == Triangle::Lower ? std::max(first_row, j) : first_row;
           i < end_row; ++i) {
        const auto row = static_cast<std::size_t>(i - first_row);
        const auto column = static_cast<std::size_t>(j - first_column);
        S sum = predux(sums[row][column]);
        for (Index k = whole; k < left_.columns; ++k) sum += rows[row][k] * columns[column][k];
        S& to = result_.data[i + j * result_.stride];
        to = add_ ? to + alpha_ * sum : alpha_ * sum;
      }
  }

  S alpha_;
  Strided<S> left_, right_;
  ProductResult<S> result_;
  bool add_;
};

}  // namespace kfac::linalg::detail
