#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>

#include <kfac/core/buffer.hpp>
#include <kfac/linalg/product_packing.hpp>
#include <kfac/linalg/product_result.hpp>

namespace kfac::linalg::detail {

/// How large the parts are that operands are packed in: a panel of the right operand is to stay in
/// the first cache, a block of the left one in the second.
template <RealScalar S>
struct ProductBlocks {
  static constexpr Index kDepth = 1664 / Index{sizeof(S)};
  static constexpr Index kRows = 8 * ProductTile<S>::kRows;
  static constexpr Index kColumns = 64 * ProductTile<S>::kColumns;
};

/// Of `alpha left right` one part, by one thread; added to what is there, or in its place.
template <RealScalar S>
class ProductLoop {
  using Tile = ProductTile<S>;
  using Blocks = ProductBlocks<S>;
  using Packet = typename Tile::Packet;

 public:
  ProductLoop(S alpha, const Strided<S>& left, const Strided<S>& right,
              const ProductResult<S>& result, bool add)
      : alpha_(alpha), left_(left), right_(right.transposed()), result_(result), add_(add) {}

  /// How many numbers operands of these sizes are packed to at once.
  static Index packed_size(Index rows, Index columns, Index depth) {
    return std::min(Blocks::kDepth, depth) *
           (packed_rows(rows) + std::min(Blocks::kColumns, round_up(columns, Tile::kColumns)));
  }

  void run(const ProductPart& part) const {
    thread_local Buffer<S> memory;
    const Index blocks = std::max<Index>((left_.columns + Blocks::kDepth - 1) / Blocks::kDepth, 1);
    S* const left = memory.map(packed_size(part.rows, part.columns, left_.columns), 1).data();
    S* const right = left + packed_rows(part.rows) * std::min(Blocks::kDepth, left_.columns);
    const Index end_row = part.first_row + part.rows;
    const Index end_column = part.first_column + part.columns;
    for (Index j = part.first_column; j < end_column; j += Blocks::kColumns) {
      const Index width = std::min(Blocks::kColumns, end_column - j);
      for (Index block = 0; block < blocks; ++block) {
        const Index k = left_.columns * block / blocks;
        const Index depth_here = left_.columns * (block + 1) / blocks - k;
        pack<Tile::kGroup, Tile::kColumns>(right_, j, width, k, depth_here, right);
        for (Index i = part.first_row; i < end_row; i += Blocks::kRows) {
          const Index height = std::min(Blocks::kRows, end_row - i);
          if (result_.triangle == Triangle::Lower && i + height <= j) continue;
          pack<Tile::kRows, Tile::kRows>(left_, i, height, k, depth_here, left);
          multiply({i, height, j, width}, k, depth_here, left, right);
        }
      }
    }
  }

 private:
  static Index packed_rows(Index rows) {
    return std::min(Blocks::kRows, round_up(rows, Tile::kRows));
  }
  static Index round_up(Index value, Index multiple) {
    return (value + multiple - 1) / multiple * multiple;
  }

  /// Panels of `Lanes` for tiles of `Size`, which read as far as any of their panels reaches.
  template <Index Lanes, Index Size>
  static void pack(const Strided<S>& operand, Index first, Index count, Index k, Index depth,
                   S* into) {
    for (Index lane = 0; lane < count; lane += Lanes, into += Lanes * depth) {
      const auto [begin, end] =
          within(operand.span_of_rows(first + lane / Size * Size, Size), k, depth);
      if (begin < end)
        LanePacking<Lanes, S>::pack(operand, first + lane, begin, end - begin,
                                    into + (begin - k) * Lanes);
    }
  }
  static std::pair<Index, Index> within(std::pair<Index, Index> span, Index first, Index count) {
    return {std::max(span.first, first), std::min(span.second, first + count)};
  }

  void multiply(const ProductPart& block, Index k, Index depth, const S* left,
                const S* right) const {
    const bool add = add_ || k > 0;
    for (Index j = 0; j < block.columns; j += Tile::kColumns) {
      const Index columns = std::min(Tile::kColumns, block.columns - j);
      const auto right_span =
          within(right_.span_of_rows(block.first_column + j, columns), k, depth);
      for (Index i = 0; i < block.rows; i += Tile::kRows) {
        const ProductPart tile{block.first_row + i, std::min(Tile::kRows, block.rows - i),
                               block.first_column + j, columns};
        if (result_.triangle == Triangle::Lower && tile.first_row + tile.rows <= tile.first_column)
          continue;
        auto [begin, end] = within(left_.span_of_rows(tile.first_row, tile.rows), k, depth);
        begin = std::max(begin, right_span.first);
        end = std::max(begin, std::min(end, right_span.second));
        const S* const left_panel = left + i * depth + (begin - k) * Tile::kRows;
        const S* const right_panel = right + j * depth + (begin - k) * Tile::kGroup;
        if (columns > Tile::kGroup)
          sum<Tile::kGroups>(tile, end - begin, left_panel, right_panel, Tile::kGroup * depth, add);
        else
          sum<1>(tile, end - begin, left_panel, right_panel, Tile::kGroup * depth, add);
      }
    }
  }

  /// Without the packets of the tile that are beyond the last row, or above the diagonal of a
  /// result that is a lower triangle.
  template <std::size_t Groups>
  void sum(ProductPart tile, Index depth, const S* left, const S* right, Index group_stride,
           bool add) const {
    if (result_.triangle == Triangle::Lower && tile.first_row < tile.first_column) {
      const Index above = (tile.first_column - tile.first_row) / Tile::kWidth * Tile::kWidth;
      tile.first_row += above;
      tile.rows -= above;
      left += above;
    }
    if (tile.rows > 2 * Tile::kWidth)
      sum_and_store<3, Groups>(tile, depth, left, right, group_stride, add);
    else if (tile.rows > Tile::kWidth)
      sum_and_store<2, Groups>(tile, depth, left, right, group_stride, add);
    else
      sum_and_store<1, Groups>(tile, depth, left, right, group_stride, add);
  }

  template <std::size_t Vectors, std::size_t Groups>
  void sum_and_store(const ProductPart& tile, Index depth, const S* left, const S* right,
                     Index group_stride, bool add) const {
    using namespace Eigen::internal;
    S* const to = result_.data + tile.first_row + tile.first_column * result_.stride;
    const bool whole = tile.rows == Index{Vectors} * Tile::kWidth &&
                       tile.columns == Index{Groups} * Tile::kGroup &&
                       (result_.triangle == Triangle::All ||
                        tile.first_row >= tile.first_column + tile.columns - 1);
    const Packet alpha = pset1<Packet>(alpha_);
    if (whole) {
      const Index stride = result_.stride;
      Tile::template run<Vectors, Groups>(
          depth, left, right, group_stride, [&](Index i, Index j, const Packet& packet) {
            S* const at = to + i + j * stride;
            pstoreu(at, add ? pmadd(alpha, packet, ploadu<Packet>(at)) : pmul(alpha, packet));
          });
      return;
    }
    EIGEN_ALIGN_TO_BOUNDARY(64) S sums[static_cast<std::size_t>(Tile::kRows * Tile::kColumns)];
    Tile::template run<Vectors, Groups>(depth, left, right, group_stride,
                                        [&](Index i, Index j, const Packet& packet) {
                                          pstore(sums + i + j * Tile::kRows, pmul(alpha, packet));
                                        });
    for (Index j = 0; j < tile.columns; ++j) {
      const Index diagonal = tile.first_column + j - tile.first_row;
      const Index top = result_.triangle == Triangle::Lower ? std::max(Index{0}, diagonal) : 0;
      S* const column = to + j * result_.stride;
      const S* const from = sums + j * Tile::kRows;
      if (add)
        for (Index i = top; i < tile.rows; ++i) column[i] += from[i];
      else
        for (Index i = top; i < tile.rows; ++i) column[i] = from[i];
    }
  }

  S alpha_;
  Strided<S> left_;
  Strided<S> right_;  // transposed: lanes are its rows, as the left one's
  ProductResult<S> result_;
  bool add_;
};

}  // namespace kfac::linalg::detail
