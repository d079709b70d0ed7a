#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>

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
  /// Of a tile: as many sums as leave registers for the operands.
  static constexpr std::size_t kSize = EIGEN_ARCH_DEFAULT_NUMBER_OF_REGISTERS >= 32 ? 4 : 3;
  static constexpr Index kMostRows = 64;
  using Lines = std::array<const S*, kSize>;  // rows and columns

 public:
  static bool suits(const Strided<S>& left, const Strided<S>& right) {
    return left.column_stride == 1 && right.row_stride == 1 && left.columns > 0 &&
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
    Lines rows, columns;
    for (std::size_t i = 0; i < kSize; ++i) {
      const auto offset = static_cast<Index>(i);
      rows[i] = left_.at(std::min(first_row + offset, left_.rows - 1), 0);
      columns[i] = right_.at(0, std::min(first_column + offset, right_.columns - 1));
    }
    Packet sums[kSize][kSize];
    for (auto& row : sums)
      for (Packet& sum : row) sum = pset1<Packet>(S(0));
    const Index whole = left_.columns / kWidth * kWidth;
    for (Index k = 0; k < whole; k += kWidth) add_packets(rows, columns, k, sums);
    if (whole < left_.columns) add_rest(rows, columns, whole, sums);
    const Index end_row = std::min(first_row + Index{kSize}, result_.rows);
    const Index end_column = std::min(first_column + Index{kSize}, result_.columns);
    for (Index j = first_column; j < end_column; ++j)
      for (Index i = result_.triangle == Triangle::Lower ? std::max(first_row, j) : first_row;
           i < end_row; ++i) {
        const auto row = static_cast<std::size_t>(i - first_row);
        const auto column = static_cast<std::size_t>(j - first_column);
        const S sum = predux(sums[row][column]);
        S& to = result_.data[i + j * result_.stride];
        to = add_ ? to + alpha_ * sum : alpha_ * sum;
      }
  }

  static EIGEN_ALWAYS_INLINE void add_packets(const Lines& rows, const Lines& columns, Index k,
                                              Packet (&sums)[kSize][kSize]) {
    using namespace Eigen::internal;
    Packet column[kSize];
    for (std::size_t j = 0; j < kSize; ++j) column[j] = ploadu<Packet>(columns[j] + k);
    for (std::size_t i = 0; i < kSize; ++i) {
      const Packet row = ploadu<Packet>(rows[i] + k);
      for (std::size_t j = 0; j < kSize; ++j) sums[i][j] = pmadd(row, column[j], sums[i][j]);
    }
  }
  /// What is left at the end, with zeros beyond it.
  void add_rest(const Lines& rows, const Lines& columns, Index first,
                Packet (&sums)[kSize][kSize]) const {
    std::array<S, 2 * kSize* static_cast<std::size_t>(kWidth)> rest{};
    Lines rest_of_rows, rest_of_columns;
    S* to = rest.data();
    const auto copy = [&](const S* from) {
      S* const line = std::exchange(to, to + kWidth);
      std::copy(from + first, from + left_.columns, line);
      return line;
    };
    for (std::size_t i = 0; i < kSize; ++i) {
      rest_of_rows[i] = copy(rows[i]);
      rest_of_columns[i] = copy(columns[i]);
    }
    add_packets(rest_of_rows, rest_of_columns, 0, sums);
  }

  S alpha_;
  Strided<S> left_, right_;
  ProductResult<S> result_;
  bool add_;
};

}  // namespace kfac::linalg::detail
