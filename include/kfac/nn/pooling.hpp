#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <kfac/nn/image_axes.hpp>
#include <kfac/nn/linear_map.hpp>

namespace kfac {

/// As the arguments of torch.nn.MaxPool1d, AvgPool2d and so on; arrays have one entry for each axis
/// of the image, slowest first.
template <std::size_t Axes>
struct PoolOptions {
  std::array<Index, Axes> kernel_size = detail::on_all_axes<Axes>(2);  ///< >= 1
  /// >= 1, or 0: the same as the kernel.
  std::array<Index, Axes> stride = detail::on_all_axes<Axes>(0);
  std::array<Index, Axes> padding = detail::on_all_axes<Axes>(0);  ///< 0 to half the kernel
  /// At the end of each axis, if other than at its beginning: 0 to half the kernel, or -1: as
  /// `padding`.
  std::array<Index, Axes> padding_end = detail::on_all_axes<Axes>(-1);
};
using Pool1dOptions = PoolOptions<1>;
using Pool2dOptions = PoolOptions<2>;
using Pool3dOptions = PoolOptions<3>;

namespace detail {

/// What poolings share: channels are pooled each on its own.
template <RealScalar S, std::size_t Axes>
class Pool {
 public:
  /// With the stride that is used, which is never 0.
  const PoolOptions<Axes>& options() const { return options_; }

  Shape output_shape(const Shape& shape) const {
    if (shape.rank() != 1 + static_cast<int>(Axes))
      raise<ShapeError>(std::string(where_) + ": 'input' has shape " + shape.to_string() +
                        ", expected channels x " + axes_names<Axes>());
    return window_output_shape(where_, geometry_on(shape), shape, shape[0]);
  }

 protected:
  Pool(const char* where, const PoolOptions<Axes>& options) : where_(where), options_(options) {
    for (std::size_t axis = 0; axis < Axes; ++axis) {
      const Index kernel = options_.kernel_size[axis];
      check_option(kernel >= 1, where, "kernel_size", kernel, ">= 1");
      check_option(options_.stride[axis] >= 0, where, "stride", options_.stride[axis], ">= 0");
      check_option(options_.padding[axis] >= 0 && 2 * options_.padding[axis] <= kernel, where,
                   "padding", options_.padding[axis], "0 to half of kernel_size");
      check_option(options_.padding_end[axis] >= -1 && 2 * options_.padding_end[axis] <= kernel,
                   where, "padding_end", options_.padding_end[axis],
                   "0 to half of kernel_size, or -1");
      if (options_.stride[axis] == 0) options_.stride[axis] = kernel;
    }
  }
  ~Pool() = default;
  Pool(const Pool&) = default;
  Pool& operator=(const Pool&) = default;

  /// Of one channel.
  PatchGeometry<Axes> geometry_on(const Shape& shape) const {
    return {.channels = 1,
            .image = image_of<Axes>(shape),
            .kernel = options_.kernel_size,
            .stride = options_.stride,
            .padding = options_.padding,
            .extra_padding = extra_padding(options_.padding, options_.padding_end),
            .dilation = on_all_axes<Axes>(1)};
  }

  /// One column per channel and example.
  static MatrixMap<S> planes(BatchView<S>& batch) {
    const Index size = batch.shape.size() / batch.shape[0];
    return {batch.values.data(), size, batch.values.size() / size};
  }
  static ConstMatrixMap<S> planes(const ConstBatchView<S>& batch) {
    const Index size = batch.shape.size() / batch.shape[0];
    return {batch.values.data(), size, batch.values.size() / size};
  }

 private:
  const char* where_;
  PoolOptions<Axes> options_;
};

}  // namespace detail

/// The largest pixel under each place of a window, of each channel: `{channels, ...}` to the same
/// with as many pixels as places, as torch.nn.MaxPool1d, MaxPool2d and MaxPool3d. Padding is
/// -infinity. Of equal pixels the first (row-major) is the one that gets the gradient.
template <RealScalar S, std::size_t Axes>
class MaxPool : public detail::Pool<S, Axes>,
                public ParameterFree<S>,
                public LocallyLinear<MaxPool<S, Axes>, S> {
  using Base = detail::Pool<S, Axes>;

 public:
  struct Scratch {
    std::vector<int> argmax;  ///< for each output, its pixel within the input's plane
  };
  static const char* kind() {
    static constexpr std::array<const char*, 3> kKinds{"MaxPool1d", "MaxPool2d", "MaxPool3d"};
    return kKinds[Axes - 1];
  }

  /// \throws OptionError if a field is outside its range
  explicit MaxPool(const PoolOptions<Axes>& options = {})
      : Base(std::array{"kfac::MaxPool1d", "kfac::MaxPool2d", "kfac::MaxPool3d"}[Axes - 1],
             options) {}

  static constexpr MemoryUse memory_use() { return {InPlace::Never, false}; }

  Index scratch_size(const Shape& shape, Index examples) const {
    const Index bytes = Base::output_shape(shape).size() * examples * Index{sizeof(int)};
    return (bytes + Index{sizeof(S)} - 1) / Index{sizeof(S)};
  }

  void forward(const ConstBatchView<S>& x, BatchView<S> y, Scratch& scratch, const Mode&) const {
    const PatchGeometry<Axes> geometry = Base::geometry_on(x.shape);
    const ConstMatrixMap<S> inputs = Base::planes(x);
    scratch.argmax.resize(static_cast<std::size_t>(y.values.size()));
    Cursor at{.geometry = geometry,
              .places = detail::image_of<Axes>(y.shape),
              .pixels = {},
              .output = y.values.data(),
              .argmax = scratch.argmax.data()};
    for (Index plane = 0; plane < inputs.cols(); ++plane) pool(inputs.col(plane).data(), at);
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
  /// Where in the batch a pass is.
  struct Cursor {
    PatchGeometry<Axes> geometry;
    std::array<Index, Axes> places;
    std::array<std::pair<Index, Index>, Axes> pixels;  // under the window, on each axis
    S* output;
    int* argmax;
  };

  /// Pools a plane, axis by axis. `first` is the window's first pixel on the slower axes.
  template <std::size_t Axis = 0>
  static void pool(const S* input, Cursor& at, Index first = 0) {
    for (Index place = 0; place < at.places[Axis]; ++place) {
      at.pixels[Axis] = pixels_at(place, Axis, at.geometry);
      const Index pixel = first * at.geometry.image[Axis] + at.pixels[Axis].first;
      if constexpr (Axis + 1 < Axes) {
        pool<Axis + 1>(input, at, pixel);
      } else {
        const Index best = largest(input, at, pixel);
        *at.output++ = input[best];
        *at.argmax++ = static_cast<int>(best);
      }
    }
  }

  /// The first pixel of the largest entry under the window, or `best`; `row` counts on the slower
  /// axes.
  template <std::size_t Axis = 0>
  static Index largest(const S* input, const Cursor& at, Index best, Index row = 0) {
    for (Index i = at.pixels[Axis].first; i < at.pixels[Axis].second; ++i) {
      const Index pixel = row * at.geometry.image[Axis] + i;
      if constexpr (Axis + 1 < Axes) {
        best = largest<Axis + 1>(input, at, best, pixel);
      } else {
        // A NaN stays, as in PyTorch.
        const bool larger = !(input[pixel] <= input[best]) & !std::isnan(input[best]);
        // Looked up, not branched to: random pixels are mispredicted, at thrice the time.
        const std::array<Index, 2> candidates{best, pixel};
        best = candidates[static_cast<std::size_t>(larger)];
      }
    }
    return best;
  }

  /// The pixels along an axis that a place of the window covers, without the padding: at least one,
  /// since the padding is at most half the kernel.
  static std::pair<Index, Index> pixels_at(Index place, std::size_t axis,
                                           const PatchGeometry<Axes>& geometry) {
    const Index first = place * geometry.stride[axis] - geometry.padding[axis];
    return {std::max<Index>(first, 0),
            std::min(first + geometry.kernel[axis], geometry.image[axis])};
  }
};

template <RealScalar S>
using MaxPool1d = MaxPool<S, 1>;
template <RealScalar S>
using MaxPool2d = MaxPool<S, 2>;
template <RealScalar S>
using MaxPool3d = MaxPool<S, 3>;

/// The mean of the pixels under each place of a window, of each channel: `{channels, ...}` to the
/// same with as many pixels as places, as torch.nn.AvgPool1d, AvgPool2d and AvgPool3d. The zeros of
/// the padding count (PyTorch's default, count_include_pad=True).
template <RealScalar S, std::size_t Axes>
class AvgPool : public detail::Pool<S, Axes>, public detail::LinearMap<AvgPool<S, Axes>, S> {
  using Base = detail::Pool<S, Axes>;

 public:
  static const char* kind() {
    static constexpr std::array<const char*, 3> kKinds{"AvgPool1d", "AvgPool2d", "AvgPool3d"};
    return kKinds[Axes - 1];
  }

  /// \throws OptionError if a field is outside its range
  explicit AvgPool(const PoolOptions<Axes>& options = {})
      : Base(std::array{"kfac::AvgPool1d", "kfac::AvgPool2d", "kfac::AvgPool3d"}[Axes - 1],
             options) {}

  void apply(const ConstBatchView<S>& x, BatchView<S> y) const {
    y.values.setZero();
    const S* from = x.values.data();
    S* to = y.values.data();
    for_each_pair(x.shape, x.examples(),
                  [=](Index output, Index input, S weight) { to[output] += weight * from[input]; });
  }
  void apply_adjoint(const ConstBatchView<S>& gradient, BatchView<S> into) const {
    into.values.setZero();
    const S* from = gradient.values.data();
    S* to = into.values.data();
    for_each_pair(into.shape, gradient.examples(),
                  [=](Index output, Index input, S weight) { to[input] += weight * from[output]; });
  }

 private:
  /// Calls `body(output, input, weight)` for each output entry and input pixel under its window.
  template <class Body>
  void for_each_pair(const Shape& shape, Index examples, Body&& body) const {
    const PatchGeometry<Axes> geometry = Base::geometry_on(shape);
    const Index positions = geometry.positions();
    const Index stride = geometry.stride.back();
    const S weight = S(1) / static_cast<S>(geometry.taps());
    for (Index plane = 0; plane < shape[0] * examples; ++plane)
      for_each_window_row(geometry, [&](Index, Index place, Index pixel, Index count) {
        const Index output = plane * positions + place;
        const Index input = plane * geometry.plane_size() + pixel;
        for (Index i = 0; i < count; ++i) body(output + i, input + i * stride, weight);
      });
  }
};

template <RealScalar S>
using AvgPool1d = AvgPool<S, 1>;
template <RealScalar S>
using AvgPool2d = AvgPool<S, 2>;
template <RealScalar S>
using AvgPool3d = AvgPool<S, 3>;

}  // namespace kfac
