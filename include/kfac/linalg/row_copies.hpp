#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <type_traits>
#include <vector>

#include <kfac/core/types.hpp>

namespace kfac::linalg::detail {

// By way of arrays, so that the compiler need not fear that what is written is read again.

template <Index Count, Index Step, RealScalar S>
void copy_block(const S* from, S shift, S* to) {
  std::array<S, static_cast<std::size_t>(Count)> block;
  for (std::size_t i = 0; i < block.size(); ++i) block[i] = from[i * Step] + shift;
  for (std::size_t i = 0; i < block.size(); ++i) to[i] = block[i];
}

/// Calls `body(size, first)` for blocks of a size that the compiler knows; the last two may
/// overlap.
template <Index Size, class Body>
void in_blocks_of(Index count, Body& body) {
  constexpr std::integral_constant<Index, Size> kSize;
  for (Index i = 0; i < count - Size; i += Size) body(kSize, i);
  body(kSize, count - Size);
}
template <class Body>
void in_blocks(Index count, Body&& body) {
  if (count >= 16)
    in_blocks_of<16>(count, body);
  else if (count >= 8)
    in_blocks_of<8>(count, body);
  else if (count >= 4)
    in_blocks_of<4>(count, body);
  else
    for (Index i = 0; i < count; ++i) body(std::integral_constant<Index, 1>(), i);
}

/// to[i] = from[i Step] + shift.
template <Index Step, RealScalar S>
void copy_row(const S* from, Index count, S shift, S* to) {
  in_blocks(count,
            [&](auto size, Index i) { copy_block<size(), Step>(from + i * Step, shift, to + i); });
}

/// A channel of an image copied to where it is read from, row by row; what is not copied to is
/// zero.
class RowCopies {
 public:
  /// Begins anew, for `size` numbers. Within a row they are `from_step` and `to_step` apart.
  void begin(Index size, Index from_step, Index to_step) {
    size_ = size;
    from_step_ = from_step;
    to_step_ = to_step;
    copied_ = 0;
    rows_.clear();
    pairs_.clear();
  }
  /// To number `to` goes number `from`; of a row, one after another.
  void add(Index to, Index from) {
    ++copied_;
    if (!rows_.empty()) {
      Row& row = rows_.back();
      if (to == row.to + row.count * to_step_ && from == row.from + row.count * from_step_) {
        ++row.count;
        return;
      }
    }
    rows_.push_back({from, to, 1});
  }
  /// After the last of them. Two rows of every second number of the same row are copied together.
  void end() {
    if (from_step_ == 2 && to_step_ == 1)
      pair_rows(&Row::from);
    else if (from_step_ == 1 && to_step_ == 2)
      pair_rows(&Row::to);
  }

  Index size() const { return size_; }

  /// `shift` is added to what is copied, and takes the place of the zeros.
  template <RealScalar S>
  void copy(const S* from, S shift, S* to) const {
    if (copied_ < size_) std::fill_n(to, size_, shift);
    if (from_step_ == 1 && to_step_ == 1)
      for (const Row& row : rows_) copy_row<1>(from + row.from, row.count, shift, to + row.to);
    else
      for (const Row& row : rows_)
        for (Index i = 0; i < row.count; ++i)
          to[row.to + i * to_step_] = from[row.from + i * from_step_] + shift;
    if (to_step_ == 1)
      for (const Pair& pair : pairs_)
        in_blocks(pair.first.count, [&](auto count, Index i) {
          separate<count()>(from + pair.first.from + 2 * i, shift, to + pair.first.to + i,
                            to + pair.second.to + i);
        });
    else
      for (const Pair& pair : pairs_)
        in_blocks(pair.first.count, [&](auto count, Index i) {
          interleave<count()>(from + pair.first.from + i, from + pair.second.from + i, shift,
                              to + pair.first.to + 2 * i);
        });
  }

 private:
  struct Row {
    Index from, to, count;
  };
  struct Pair {
    Row first, second;
  };

  void pair_rows(Index Row::*place) {
    std::sort(rows_.begin(), rows_.end(),
              [&](const Row& a, const Row& b) { return a.*place < b.*place; });
    for (std::size_t i = 0; i + 1 < rows_.size(); ++i) {
      Row& first = rows_[i];
      Row& second = rows_[i + 1];
      if (first.count == 0 || second.*place != first.*place + 1) continue;
      const Index count = std::min(first.count, second.count);
      pairs_.push_back({first, second});
      pairs_.back().first.count = count;
      for (Row* row : {&first, &second})
        *row = {row->from + count * from_step_, row->to + count * to_step_, row->count - count};
    }
    std::erase_if(rows_, [](const Row& row) { return row.count == 0; });
  }

  template <Index Count, RealScalar S>
  static void separate(const S* from, S shift, S* first, S* second) {
    std::array<S, static_cast<std::size_t>(Count)> even, odd;
    for (std::size_t i = 0; i < even.size(); ++i) {
      even[i] = from[2 * i] + shift;
      odd[i] = from[2 * i + 1] + shift;
    }
    for (std::size_t i = 0; i < even.size(); ++i) first[i] = even[i];
    for (std::size_t i = 0; i < odd.size(); ++i) second[i] = odd[i];
  }
  template <Index Count, RealScalar S>
  static void interleave(const S* first, const S* second, S shift, S* to) {
    if constexpr (Count == 1) {
      to[0] = *first + shift;
      to[1] = *second + shift;
    } else {
      constexpr std::size_t kHalf = static_cast<std::size_t>(Count) / 2;
      std::array<S, 2 * kHalf> low, high;
      for (std::size_t i = 0; i < kHalf; ++i) {
        low[2 * i] = first[i] + shift;
        low[2 * i + 1] = second[i] + shift;
        high[2 * i] = first[kHalf + i] + shift;
        high[2 * i + 1] = second[kHalf + i] + shift;
      }
      for (std::size_t i = 0; i < low.size(); ++i) to[i] = low[i];
      for (std::size_t i = 0; i < high.size(); ++i) to[2 * kHalf + i] = high[i];
    }
  }
  Index size_ = 0;
  Index from_step_ = 1, to_step_ = 1;
  Index copied_ = 0;
  std::vector<Row> rows_;
  std::vector<Pair> pairs_;
};

}  // namespace kfac::linalg::detail
