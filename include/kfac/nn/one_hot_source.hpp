#pragma once

#include <algorithm>

#include <kfac/core/buffer.hpp>
#include <kfac/nn/shared_batch.hpp>

namespace kfac::detail {

/// Columns of which each is 0 but for a 1 in one row, made when they are asked for, a few examples
/// at a time; who asks for the rows instead (`SharedBatch::one_hot`) gets these.
template <RealScalar S>
class OneHotSource final : public ColumnSource<S> {
 public:
  /// `rows`, one for each column, are used until the next call; where a row is negative, the column
  /// is 0. \pre rows.size() is a multiple of `positions`
  void begin(Index features, Index positions, const ConstVectorMap<S>& rows) {
    features_ = features;
    positions_ = positions;
    rows_ = rows.data();
    columns_ = rows.size();
  }

  SharedBatch<S> shared() const { return {*this, features_, columns_, positions_}; }

  /// At most a million numbers, or one example's.
  Index examples_at_once() const override {
    constexpr Index kRoom = Index{1} << 20;
    return std::max<Index>(kRoom / (features_ * positions_), 1);
  }
  SharedBatch<S> columns_of(Index first_example, Index count) const override {
    MatrixMap<S> columns = block_.map(features_, count * positions_);
    columns.setZero();
    const S* const rows = rows_ + first_example * positions_;
    for (Index i = 0; i < columns.cols(); ++i)
      if (rows[i] >= 0) columns(static_cast<Index>(rows[i]), i) = 1;
    return {columns.data(), columns.rows(), columns.cols(), positions_,
            SharedBatch<S>::Order::ColumnMajor};
  }
  const S* one_hot(Index first_example, Index features) const override {
    return features == features_ ? rows_ + first_example * positions_ : nullptr;
  }

 private:
  Index features_ = 1;
  Index positions_ = 1;
  const S* rows_ = nullptr;
  Index columns_ = 0;
  mutable Buffer<S> block_;
};

}  // namespace kfac::detail
