#pragma once

#include <kfac/nn/linear_map.hpp>

namespace kfac {

/// `{channels, ...}` to `{..., channels}`: what comes out of a convolution, position by position,
/// as layers and losses on tokens expect it; in PyTorch `movedim(1, -1)`.
template <RealScalar S>
class ChannelsLast : public detail::LinearMap<ChannelsLast<S>, S> {
 public:
  static const char* kind() { return "ChannelsLast"; }

  Shape output_shape(const Shape& shape) const {
    if (shape.rank() < 2)
      raise<ShapeError>("kfac::ChannelsLast: 'input' has shape " + shape.to_string() +
                        ", expected channels x positions");
    Shape result;
    for (int axis = 1; axis < shape.rank(); ++axis) result.push_back(shape[axis]);
    result.push_back(shape[0]);
    return result;
  }

  void apply(const ConstBatchView<S>& x, BatchView<S> y) const {
    transpose(x.values, y.values, y.shape.back());
  }
  void apply_adjoint(const ConstBatchView<S>& gradient, BatchView<S> into) const {
    transpose(gradient.values, into.values, gradient.values.rows() / gradient.shape.back());
  }

 private:
  /// Each example from `(entries / rows) x rows` to `rows x (entries / rows)`.
  static void transpose(const ConstMatrixMap<S>& from, MatrixMap<S> to, Index rows) {
    const Index columns = from.rows() / rows;
    for (Index example = 0; example < from.cols(); ++example)
      MatrixMap<S>(to.col(example).data(), rows, columns) =
          ConstMatrixMap<S>(from.col(example).data(), columns, rows).transpose();
  }
};

}  // namespace kfac
