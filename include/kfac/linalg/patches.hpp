#pragma once

#include <algorithm>
#include <array>
#include <type_traits>

#include <kfac/core/types.hpp>

namespace kfac {

/// A window that slides over images {channels, height, width}, as convolutions and poolings do.
/// Arrays are {vertical, horizontal}. At window place o, the window's entry k lies on pixel
/// `o * stride - padding + k * dilation` of its axis; pixels outside the image are padding.
struct PatchGeometry {
  Index channels = 1;
  std::array<Index, 2> image = {1, 1};  ///< height and width
  std::array<Index, 2> kernel = {1, 1};
  std::array<Index, 2> stride = {1, 1};
  std::array<Index, 2> padding = {0, 0};
  std::array<Index, 2> dilation = {1, 1};

  /// The number of places of the window along an axis; 0 if it is larger than the padded image.
  Index places(std::size_t axis) const {
    const Index room = image[axis] + 2 * padding[axis] - dilation[axis] * (kernel[axis] - 1) - 1;
    return room < 0 ? 0 : room / stride[axis] + 1;
  }
  /// The number of places of the window: the pixels of an output channel.
  Index positions() const { return places(0) * places(1); }
  /// The number of entries of a channel's window.
  Index taps() const { return kernel[0] * kernel[1]; }
  /// The number of entries of a patch.
  Index features() const { return channels * taps(); }
  Index plane_size() const { return image[0] * image[1]; }
};

namespace detail {

struct PlaceRange {
  Index begin = 0;
  Index end = 0;
};

/// The places along an axis, out of `places`, at which the window's entry `offset` pixels from its
/// place's own pixel lies inside the image.
inline PlaceRange places_inside(Index places, Index image, Index stride, Index offset) {
  // Most entries are inside everywhere; the divisions are for those that are not.
  const Index end = (places - 1) * stride + offset < image
                        ? places
                        : std::max<Index>(image - offset + stride - 1, 0) / stride;
  const Index begin = offset >= 0 ? 0 : (stride - 1 - offset) / stride;
  return {std::min(begin, end), end};
}

}  // namespace detail

/// Calls `body(tap, place, pixel, count)` for every stretch of `count` places along a row, from
/// `place` on, where the window's entry `tap` (row-major in the kernel) lies inside the image: on
/// `pixel` and then every `stride[1]` pixels. `place` and `pixel` count row-major in one channel.
template <class Body>
void for_each_window_row(const PatchGeometry& geometry, Body&& body) {
  const Index rows = geometry.places(0);
  const Index columns = geometry.places(1);
  const auto offset = [&](std::size_t axis, Index entry) {
    return entry * geometry.dilation[axis] - geometry.padding[axis];
  };
  for (Index k1 = 0, tap = 0; k1 < geometry.kernel[0]; ++k1) {
    const auto [top, bottom] =
        detail::places_inside(rows, geometry.image[0], geometry.stride[0], offset(0, k1));
    for (Index k2 = 0; k2 < geometry.kernel[1]; ++k2, ++tap) {
      const auto [left, right] =
          detail::places_inside(columns, geometry.image[1], geometry.stride[1], offset(1, k2));
      if (left == right) continue;
      const Index first = left * geometry.stride[1] + offset(1, k2);
      for (Index row = top; row < bottom; ++row) {
        const Index image_row = row * geometry.stride[0] + offset(0, k1);
        body(tap, row * columns + left, image_row * geometry.image[1] + first, right - left);
      }
    }
  }
}

/// Writes the patches of a batch of images: `patches`, `(examples * positions) x features`, has one
/// row per window place, the places of an example together, and columns in the order (channel,
/// kernel row, kernel column), zero in the padding. A column is thus contiguous, and so are the
/// columns of a group of channels. `images` is `(channels * height * width) x examples`.
/// \source Chellapilla, Puri and Simard, High performance convolutional neural networks for
/// document
///         processing, 2006
template <RealScalar S>
void unfold_patches(const PatchGeometry& geometry,
                    const std::type_identity_t<ConstMatrixRef<S>>& images, MatrixMap<S> patches) {
  const Index examples = images.cols();
  const Index positions = geometry.positions();
  const Index stride = geometry.stride[1];
  const bool padded = geometry.padding != std::array<Index, 2>{0, 0};
  for (Index channel = 0; channel < geometry.channels; ++channel) {
    const Index first_feature = channel * geometry.taps();
    for (Index example = 0; example < examples; ++example) {
      const S* plane = images.col(example).data() + channel * geometry.plane_size();
      if (padded)
        patches.block(example * positions, first_feature, positions, geometry.taps()).setZero();
      for_each_window_row(geometry, [&](Index tap, Index place, Index pixel, Index count) {
        S* to = &patches(example * positions + place, first_feature + tap);
        const S* from = plane + pixel;
        if (stride == 1)
          std::copy_n(from, count, to);
        else
          for (Index i = 0; i < count; ++i) to[i] = from[i * stride];
      });
    }
  }
}

/// The adjoint of `unfold_patches`: every pixel of `images` becomes the sum of the entries of
/// `patches` that were copied from it.
template <RealScalar S>
void fold_patches(const PatchGeometry& geometry,
                  const std::type_identity_t<ConstMatrixRef<S>>& patches, MatrixMap<S> images) {
  const Index positions = geometry.positions();
  const Index stride = geometry.stride[1];
  images.setZero();
  for (Index channel = 0; channel < geometry.channels; ++channel) {
    const Index first_feature = channel * geometry.taps();
    for (Index example = 0; example < images.cols(); ++example) {
      S* plane = images.col(example).data() + channel * geometry.plane_size();
      for_each_window_row(geometry, [&](Index tap, Index place, Index pixel, Index count) {
        const S* from = patches.col(first_feature + tap).data() + example * positions + place;
        S* to = plane + pixel;
        for (Index i = 0; i < count; ++i) to[i * stride] += from[i];
      });
    }
  }
}

}  // namespace kfac
