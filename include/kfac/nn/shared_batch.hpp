#pragma once

#include <algorithm>

#include <kfac/core/types.hpp>

namespace kfac {

template <RealScalar S>
class SharedBatch;

/// Which positions of which examples are real, `positions x examples`; the others are padding.
using PositionMask = Eigen::Array<bool, Eigen::Dynamic, Eigen::Dynamic>;

/// Makes the columns of a `SharedBatch` when they are asked for, a few examples at a time, where
/// all of them would take too much memory (the patches of a convolution).
template <RealScalar S>
class ColumnSource {
 public:
  /// The columns of `count` consecutive examples, valid until the next call.
  virtual SharedBatch<S> columns_of(Index first_example, Index count) const = 0;
  /// How many examples to ask for at once, at least 1.
  virtual Index examples_at_once() const = 0;
  /// Where all columns have but one entry, a 1: the row of each from that example on (negative: the
  /// column is 0), if they are so many; else null.
  virtual const S* one_hot(Index first_example, Index features) const {
    static_cast<void>(first_example), static_cast<void>(features);
    return nullptr;
  }

 protected:
  ColumnSource() = default;
  ColumnSource(const ColumnSource&) = default;
  ColumnSource& operator=(const ColumnSource&) = default;
  ~ColumnSource() = default;
};

/// What a layer announces: a read-only `features x (positions * batch)` matrix with one column per
/// position at which the layer's weights were applied, the columns of one example together. A
/// linear layer on vectors has one position, a convolution one per output pixel (and its features
/// are the entries of a patch). The view is valid until the layer's scratch is used again.
///
/// Where a network applies the same parameters several times, each use is announced by itself:
/// `use()` of `uses()`.
template <RealScalar S>
class SharedBatch {
 public:
  enum class Order { ColumnMajor, RowMajor };

  SharedBatch() = default;
  /// \pre `columns` is a multiple of `positions`
  SharedBatch(const S* data, Index features, Index columns, Index positions, Order order)
      : data_(data),
        features_(features),
        columns_(columns),
        positions_(positions),
        stride_(order == Order::RowMajor ? columns : features),
        order_(order) {}
  /// One position per example.
  explicit SharedBatch(const ConstMatrixMap<S>& values)
      : SharedBatch(values.data(), values.rows(), values.cols(), 1, Order::ColumnMajor) {}
  /// Columns that `source` makes on demand; it must outlive the view.
  SharedBatch(const ColumnSource<S>& source, Index features, Index columns, Index positions)
      : features_(features), columns_(columns), positions_(positions), source_(&source) {}

  Index features() const { return features_; }
  Index columns() const { return columns_; }
  Index positions() const { return positions_; }
  Index batch() const { return positions_ == 0 ? 0 : columns_ / positions_; }
  /// Whether all columns are in memory, as `visit` wants them.
  bool in_memory() const { return source_ == nullptr; }
  /// Where each column has but one entry, a 1 (tokens of an embedding): its row, a number for each
  /// column, negative where the column is 0. Null where the columns are anything else.
  const S* one_hot() const {
    return source_ ? source_->one_hot(first_example_, features_) : nullptr;
  }

  /// Which use of the parameters this is, from 0, of so many in a pass of the network.
  Index use() const { return use_; }
  Index uses() const { return uses_; }
  /// Which positions are padding, `positions() x batch()`, as far as the network knows; null: none.
  const PositionMask* mask() const { return mask_; }

  /// The same as the use-th of so many.
  SharedBatch as_use(Index use, Index uses) const {
    SharedBatch result = *this;
    result.use_ = use;
    result.uses_ = uses;
    return result;
  }
  /// The same, where `count` consecutive examples are positions of one.
  /// \pre the number of examples is a multiple of it
  SharedBatch with_examples_joined(Index count) const {
    SharedBatch result = *this;
    result.positions_ *= count;
    result.joined_ *= count;
    return result;
  }
  /// The same with a mask that fits it.
  SharedBatch with_mask(const PositionMask* mask) const {
    SharedBatch result = *this;
    result.mask_ = mask;
    return result;
  }

  /// The rows `first, ..., first + count - 1`: one group of a grouped layer.
  SharedBatch features(Index first, Index count) const {
    SharedBatch slice = *this;
    slice.features_ = count;
    if (in_memory())
      slice.data_ += order_ == Order::RowMajor ? first * stride_ : first;
    else
      slice.first_feature_ += first;
    return slice;
  }

  /// The columns of `count` consecutive examples.
  SharedBatch examples(Index first, Index count) const {
    SharedBatch slice = *this;
    slice.columns_ = count * positions_;
    if (in_memory())
      slice.data_ += first * positions_ * (order_ == Order::RowMajor ? 1 : stride_);
    else
      slice.first_example_ += first * joined_;
    return slice;
  }

  /// Calls `body(block, first_example)` for consecutive examples whose columns are in memory: once,
  /// with everything, unless the columns are made on demand.
  template <class Body>
  void for_each_block(Body&& body) const {
    if (in_memory()) return body(*this, Index{0});
    const Index step = std::max<Index>(source_->examples_at_once() / joined_, 1);
    for (Index first = 0; first < batch(); first += step) {
      const Index count = std::min(step, batch() - first);
      body(source_->columns_of(first_example_ + first * joined_, count * joined_)
               .with_examples_joined(joined_)
               .features(first_feature_, features_),
           first);
    }
  }

  /// Calls `body` with an Eigen map of the matrix in the storage order it has. \pre in_memory()
  template <class Body>
  decltype(auto) visit(Body&& body) const {
    eigen_assert(in_memory());
    using RowMajor = Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    using Stride = Eigen::OuterStride<>;
    if (order_ == Order::RowMajor)
      return body(Eigen::Map<const RowMajor, 0, Stride>(data_, features_, columns_, stride_));
    return body(Eigen::Map<const Matrix<S>, 0, Stride>(data_, features_, columns_, stride_));
  }

  /// A copy with the columns in order.
  Matrix<S> matrix() const {
    Matrix<S> copy(features_, columns_);
    for_each_block([&](const SharedBatch& block, Index first) {
      block.visit([&](const auto& values) {
        copy.middleCols(first * positions_, block.columns()) = values;
      });
    });
    return copy;
  }

 private:
  const S* data_ = nullptr;
  Index features_ = 0;
  Index columns_ = 0;
  Index positions_ = 1;
  Index stride_ = 0;
  Order order_ = Order::ColumnMajor;
  const ColumnSource<S>* source_ = nullptr;
  Index first_feature_ = 0, first_example_ = 0;  // of what the source makes
  Index joined_ = 1;                             // examples of the layer in one of the network's
  Index use_ = 0, uses_ = 1;
  const PositionMask* mask_ = nullptr;
};

}  // namespace kfac
