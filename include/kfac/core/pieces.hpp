#pragma once

#include <algorithm>
#include <array>
#include <cstddef>

#include <kfac/core/parallel.hpp>
#include <kfac/core/types.hpp>

namespace kfac::detail {

/// How many numbers a thread goes through at once: a quarter of a first-level cache, and long
/// enough for what it takes to share them. Fixed, so that results do not depend on the number of
/// threads.
inline constexpr Index kPieceSize = 8192;

/// Calls `body(first, count)` for consecutive pieces of [0, size) of `piece` entries (the last may
/// have fewer), at once on as many threads as there are.
template <class Body>
void for_each_piece(Index size, Index piece, Body&& body) {
  if (size <= piece) return body(Index{0}, size);
  parallel_for((size + piece - 1) / piece,
               [&](Index part) { body(part * piece, std::min(piece, size - part * piece)); });
}

/// The sum of `body(first, count)` over the same pieces, in their order.
template <RealScalar S, class Body>
S sum_over_pieces(Index size, Index piece, Body&& body) {
  if (size <= piece) return body(Index{0}, size);
  static constexpr Index kAtOnce = 64;
  std::array<S, static_cast<std::size_t>(kAtOnce)> sums;
  S total = 0;
  for (Index begin = 0; begin < size; begin += kAtOnce * piece) {
    const Index parts = std::min(kAtOnce, (size - begin + piece - 1) / piece);
    parallel_for(parts, [&](Index part) {
      const Index first = begin + part * piece;
      sums[static_cast<std::size_t>(part)] = body(first, std::min(piece, size - first));
    });
    for (Index part = 0; part < parts; ++part) total += sums[static_cast<std::size_t>(part)];
  }
  return total;
}

/// Whether all numbers of a matrix are finite, many at once: zero times anything else is NaN.
template <RealScalar S>
bool all_finite(const ConstMatrixRef<S>& values) {
  const auto are_finite = [](const S* data, Index size) {
    return (ConstVectorMap<S>(data, size).array() * S(0)).sum() == S(0);
  };
  if (values.outerStride() == values.rows() || values.cols() == 1)
    return are_finite(values.data(), values.size());
  bool finite = true;
  for (Index column = 0; column < values.cols(); ++column)
    finite = finite && are_finite(values.col(column).data(), values.rows());
  return finite;
}

/// into = values: in one go where they are contiguous, not column by column.
template <RealScalar S>
void copy_batch(const ConstMatrixRef<S>& values, MatrixMap<S> into) {
  if (values.outerStride() == values.rows())
    std::copy(values.data(), values.data() + values.size(), into.data());
  else
    into = values;
}

}  // namespace kfac::detail
