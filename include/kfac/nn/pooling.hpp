#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <kfac/linalg/patches.hpp>
#include <kfac/nn/layer.hpp>

namespace kfac {

/// As the arguments of torch.nn.MaxPool2d and AvgPool2d; arrays are {vertical, horizontal}.
struct Pool2dOptions {
  std::array<Index, 2> kernel_size = {2, 2};  ///< >= 1
  std::array<Index, 2> stride = {0, 0};       ///< >= 1, or 0: the same as the kernel
  std::array<Index, 2> padding = {0, 0};      ///< 0 to half the kernel
};

namespace detail {

/// What poolings share: channels are pooled each on its own, and nothing is learned.
template <RealScalar S>
class Pool2d : public ParameterFree<S> {
 public:
  Shape output_shape(const Shape& shape) const {
    if (shape.rank() != 3)
      raise<ShapeError>(std::string(where_) + ": 'input' has shape " + shape.to_string() +
                        ", expected channels x height x width");
    const PatchGeometry geometry = geometry_on(shape);
    if (geometry.positions() == 0)
      raise<ShapeError>(std::string(where_) + ": 'input' has shape " + shape.to_string() +
                        ", expected room for the kernel, " +
                        Shape{geometry.kernel[0], geometry.kernel[1]}.to_string() +
                        ", in the padded image");
    return {shape[0], geometry.places(0), geometry.places(1)};
  }

 protected:
  Pool2d(const char* where, const Pool2dOptions& options) : where_(where), options_(options) {
    for (std::size_t axis = 0; axis < 2; ++axis) {
      const Index kernel = options_.kernel_size[axis];
      check_option(kernel >= 1, where, "kernel_size", kernel, ">= 1");
      check_option(options_.stride[axis] >= 0, where, "stride", options_.stride[axis], ">= 0");
      check_option(options_.padding[axis] >= 0 && 2 * options_.padding[axis] <= kernel, where,
                   "padding", options_.padding[axis], "0 to half of kernel_size");
      if (options_.stride[axis] == 0) options_.stride[axis] = kernel;
    }
  }

  /// Of one channel.
  PatchGeometry geometry_on(const Shape& shape) const {
    return {1, {shape[1], shape[2]}, options_.kernel_size, options_.stride, options_.padding};
  }

  /// One column per channel and example.
  static MatrixMap<S> planes(BatchView<S>& batch) {
    const Index size = batch.shape[1] * batch.shape[2];
    return {batch.values.data(), size, batch.values.size() / size};
  }
  static ConstMatrixMap<S> planes(const ConstBatchView<S>& batch) {
    const Index size = batch.shape[1] * batch.shape[2];
    return {batch.values.data(), size, batch.values.size() / size};
  }

 private:
  const char* where_;
  Pool2dOptions options_;
};

}  // namespace detail

/// The largest pixel under each place of a window, of each channel: `{channels, height, width}` to
/// `{channels, out_height, out_width}`, as torch.nn.MaxPool2d. Padding is -infinity. Of equal
/// pixels the first (row-major) is the one that gets the gradient.
template <RealScalar S>
class MaxPool2d : public detail::Pool2d<S> {
  using Base = detail::Pool2d<S>;

 public:
  struct Scratch {
    std::vector<int> argmax;  ///< for each output, its pixel within the input's plane
  };
  static const char* kind() { return "MaxPool2d"; }

  /// \throws OptionError if a field is outside its range
  explicit MaxPool2d(Pool2dOptions options = {}) : Base("kfac::MaxPool2d", options) {}

  void forward(const ConstBatchView<S>& x, BatchView<S> y, Scratch& scratch, const Mode&) const {
    const PatchGeometry geometry = Base::geometry_on(x.shape);
    const ConstMatrixMap<S> inputs = Base::planes(x);
    MatrixMap<S> outputs = Base::planes(y);
    scratch.argmax.resize(static_cast<std::size_t>(outputs.size()));
    int* argmax = scratch.argmax.data();
    for (Index plane = 0; plane < outputs.cols(); ++plane) {
      const S* input = inputs.col(plane).data();
      S* output = outputs.col(plane).data();
      for (Index row = 0; row < y.shape[1]; ++row) {
        const auto [top, bottom] = pixels_at(row, 0, geometry);
        for (Index column = 0; column < y.shape[2]; ++column) {
          const auto [left, right] = pixels_at(column, 1, geometry);
          Index best = top * geometry.image[1] + left;
          for (Index h = top; h < bottom; ++h)
            for (Index w = left; w < right; ++w) {
              const Index pixel = h * geometry.image[1] + w;
              // A NaN stays, as in PyTorch.
              const bool larger = !(input[pixel] <= input[best]) & !std::isnan(input[best]);
              // Looked up, not branched to: random pixels are mispredicted, at thrice the time.
              const std::array<Index, 2> candidates{best, pixel};
              best = candidates[static_cast<std::size_t>(larger)];
            }
          *output++ = input[best];
          *argmax++ = static_cast<int>(best);
        }
      }
    }
  }

  void backward(const ConstBatchView<S>&, const ConstBatchView<S>&,
                const ConstBatchView<S>& grad_output, BatchView<S>* grad_input, VectorMap<S>*,
                Scratch& scratch, const Mode&) const {
    if (!grad_input) return;
    const ConstMatrixMap<S> from = Base::planes(grad_output);
    MatrixMap<S> to = Base::planes(*grad_input);
    to.setZero();
    const int* argmax = scratch.argmax.data();
    for (Index plane = 0; plane < from.cols(); ++plane)
      for (Index place = 0; place < from.rows(); ++place)
        to(*argmax++, plane) += from(place, plane);
  }

  void tangent(const ConstBatchView<S>&, const ConstBatchView<S>&,
               const ConstBatchView<S>* x_tangent, const ConstVectorMap<S>*, BatchView<S> y_tangent,
               Scratch& scratch) const {
    MatrixMap<S> to = Base::planes(y_tangent);
    if (!x_tangent) {
      to.setZero();
      return;
    }
    const ConstMatrixMap<S> from = Base::planes(*x_tangent);
    const int* argmax = scratch.argmax.data();
    for (Index plane = 0; plane < to.cols(); ++plane)
      for (Index place = 0; place < to.rows(); ++place) to(place, plane) = from(*argmax++, plane);
  }

 private:
  /// The pixels along an axis that a place of the window covers, without the padding: at least one,
  /// since the padding is at most half the kernel.
  static std::pair<Index, Index> pixels_at(Index place, std::size_t axis,
                                           const PatchGeometry& geometry) {
    const Index first = place * geometry.stride[axis] - geometry.padding[axis];
    return {std::max<Index>(first, 0),
            std::min(first + geometry.kernel[axis], geometry.image[axis])};
  }
};

/// The mean of the pixels under each place of a window, of each channel: `{channels, height,
/// width}` to `{channels, out_height, out_width}`, as torch.nn.AvgPool2d. The zeros of the padding
/// count (PyTorch's default, count_include_pad=True).
template <RealScalar S>
class AvgPool2d : public detail::Pool2d<S> {
  using Base = detail::Pool2d<S>;

 public:
  struct Scratch {};
  static const char* kind() { return "AvgPool2d"; }

  /// \throws OptionError if a field is outside its range
  explicit AvgPool2d(Pool2dOptions options = {}) : Base("kfac::AvgPool2d", options) {}

  void forward(const ConstBatchView<S>& x, BatchView<S> y, Scratch&, const Mode&) const {
    average(x, y);
  }

  void backward(const ConstBatchView<S>& x, const ConstBatchView<S>&,
                const ConstBatchView<S>& grad_output, BatchView<S>* grad_input, VectorMap<S>*,
                Scratch&, const Mode&) const {
    if (!grad_input) return;
    grad_input->values.setZero();
    const S* from = grad_output.values.data();
    S* to = grad_input->values.data();
    for_each_pair(x,
                  [=](Index output, Index input, S weight) { to[input] += weight * from[output]; });
  }

  void tangent(const ConstBatchView<S>&, const ConstBatchView<S>&,
               const ConstBatchView<S>* x_tangent, const ConstVectorMap<S>*, BatchView<S> y_tangent,
               Scratch&) const {
    if (x_tangent)
      average(*x_tangent, y_tangent);
    else
      y_tangent.values.setZero();
  }

 private:
  void average(const ConstBatchView<S>& x, BatchView<S> y) const {
    y.values.setZero();
    const S* from = x.values.data();
    S* to = y.values.data();
    for_each_pair(x,
                  [=](Index output, Index input, S weight) { to[output] += weight * from[input]; });
  }

  /// Calls `body(output, input, weight)` for each output entry and input pixel under its window.
  template <class Body>
  void for_each_pair(const ConstBatchView<S>& x, Body&& body) const {
    const PatchGeometry geometry = Base::geometry_on(x.shape);
    const Index positions = geometry.positions();
    const S weight = S(1) / static_cast<S>(geometry.taps());
    const Index planes = x.values.size() / geometry.plane_size();
    for (Index plane = 0; plane < planes; ++plane)
      for_each_window_row(geometry, [&](Index, Index place, Index pixel, Index count) {
        const Index output = plane * positions + place;
        const Index input = plane * geometry.plane_size() + pixel;
        for (Index i = 0; i < count; ++i) body(output + i, input + i * geometry.stride[1], weight);
      });
  }
};

/// The mean of each channel: `{channels, height, width}` to `{channels}`; in PyTorch
/// AdaptiveAvgPool2d(1) and Flatten.
template <RealScalar S>
class GlobalAvgPool2d : public ParameterFree<S> {
 public:
  struct Scratch {};
  static const char* kind() { return "GlobalAvgPool2d"; }

  Shape output_shape(const Shape& shape) const {
    if (shape.rank() != 3)
      raise<ShapeError>("kfac::GlobalAvgPool2d: 'input' has shape " + shape.to_string() +
                        ", expected channels x height x width");
    return {shape[0]};
  }

  void forward(const ConstBatchView<S>& x, BatchView<S> y, Scratch&, const Mode&) const {
    average(x, y);
  }
  void backward(const ConstBatchView<S>& x, const ConstBatchView<S>&,
                const ConstBatchView<S>& grad_output, BatchView<S>* grad_input, VectorMap<S>*,
                Scratch&, const Mode&) const {
    if (!grad_input) return;
    const Index pixels = x.shape[1] * x.shape[2];
    MatrixMap<S> planes(grad_input->values.data(), pixels, grad_output.values.size());
    for (Index plane = 0; plane < planes.cols(); ++plane)
      planes.col(plane).setConstant(grad_output.values.data()[plane] / static_cast<S>(pixels));
  }
  void tangent(const ConstBatchView<S>&, const ConstBatchView<S>&,
               const ConstBatchView<S>* x_tangent, const ConstVectorMap<S>*, BatchView<S> y_tangent,
               Scratch&) const {
    if (x_tangent)
      average(*x_tangent, y_tangent);
    else
      y_tangent.values.setZero();
  }

 private:
  static void average(const ConstBatchView<S>& x, BatchView<S> y) {
    const Index pixels = x.shape[1] * x.shape[2];
    VectorMap<S>(y.values.data(), y.values.size()) =
        ConstMatrixMap<S>(x.values.data(), pixels, y.values.size()).colwise().mean().transpose();
  }
};

}  // namespace kfac
