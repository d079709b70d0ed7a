#pragma once

#include <kfac/core/types.hpp>

namespace kfac {

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
      : data_(data), features_(features), columns_(columns), positions_(positions), order_(order) {}
  /// One position per example.
  explicit SharedBatch(const ConstMatrixMap<S>& values)
      : SharedBatch(values.data(), values.rows(), values.cols(), 1, Order::ColumnMajor) {}

  Index features() const { return features_; }
  Index columns() const { return columns_; }
  Index positions() const { return positions_; }
  Index batch() const { return positions_ == 0 ? 0 : columns_ / positions_; }

  /// The rows `first, ..., first + count - 1`: one group of a grouped layer.
  /// \pre row-major, or all rows: a slice must be contiguous
  SharedBatch features(Index first, Index count) const {
    eigen_assert(order_ == Order::RowMajor || count == features_);
    return {data_ + first * columns_, count, columns_, positions_, order_};
  }

  /// Calls `body` with an Eigen map of the matrix in the storage order it has.
  template <class Body>
  decltype(auto) visit(Body&& body) const {
    using RowMajor = Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    if (order_ == Order::RowMajor)
      return body(Eigen::Map<const RowMajor>(data_, features_, columns_));
    return body(ConstMatrixMap<S>(data_, features_, columns_));
  }

  /// A copy with the columns in order.
  Matrix<S> matrix() const {
    return visit([](const auto& values) { return Matrix<S>(values); });
  }

 private:
  const S* data_ = nullptr;
  Index features_ = 0;
  Index columns_ = 0;
  Index positions_ = 1;
  Order order_ = Order::ColumnMajor;
};

}  // namespace kfac
