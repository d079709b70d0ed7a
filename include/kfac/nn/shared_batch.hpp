#pragma once

#include <algorithm>

#include <kfac/core/types.hpp>

namespace kfac {

template <RealScalar S>
class SharedBatch;

/// Makes the columns of a `SharedBatch` when they are asked for, a few examples at a time, where
/// all of them would take too much memory (the patches of a convolution).
template <RealScalar S>
class ColumnSource {
 public:
  /// The columns of `count` consecutive examples, valid until the next call.
  virtual SharedBatch<S> columns_of(Index first_example, Index count) const = 0;
  /// How many examples to ask for at once, at least 1.
  virtual Index examples_at_once() const = 0;

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
      slice.first_example_ += first;
    return slice;
  }

  /// Calls `body(block, first_example)` for consecutive examples whose columns are in memory: once,
  /// with everything, unless the columns are made on demand.
  template <class Body>
  void for_each_block(Body&& body) const {
    if (in_memory()) return body(*this, Index{0});
    const Index step = source_->examples_at_once();
    for (Index first = 0; first < batch(); first += step) {
      const Index count = std::min(step, batch() - first);
      body(source_->columns_of(first_example_ + first, count).features(first_feature_, features_),
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
};

}  // namespace kfac
