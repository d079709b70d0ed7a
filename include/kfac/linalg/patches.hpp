#pragma once

#include <algorithm>
#include <array>
#include <type_traits>

#include <kfac/core/pieces.hpp>
#include <kfac/linalg/row_copies.hpp>

namespace kfac {
namespace detail {

/// The same number on every axis.
template <std::size_t Axes>
constexpr std::array<Index, Axes> on_all_axes(Index value) {
  std::array<Index, Axes> values{};
  for (Index& entry : values) entry = value;
  return values;
}

}  // namespace detail

/// A window that slides over images of 1, 2 or 3 axes, slowest first: {length}, {height, width} or
/// {depth, height, width}, as convolutions and poolings do. At window place o, the window's entry k
/// lies on pixel `o * stride - padding + k * dilation` of its axis; pixels outside the image are
/// padding. There are `padding` of them at the beginning of an axis and `padding + extra_padding`
/// at its end; as many fewer where that is negative, and less than nothing leaves pixels at the end
/// out.
template <std::size_t Axes>
struct PatchGeometry {
  static_assert(1 <= Axes && Axes <= 3, "images have 1, 2 or 3 axes");

  Index channels = 1;
  std::array<Index, Axes> image = detail::on_all_axes<Axes>(1);
  std::array<Index, Axes> kernel = detail::on_all_axes<Axes>(1);
  std::array<Index, Axes> stride = detail::on_all_axes<Axes>(1);
  std::array<Index, Axes> padding = detail::on_all_axes<Axes>(0);
  std::array<Index, Axes> extra_padding = detail::on_all_axes<Axes>(0);
  std::array<Index, Axes> dilation = detail::on_all_axes<Axes>(1);

  /// The number of places of the window along an axis; 0 if it is larger than the padded image.
  Index places(std::size_t axis) const {
    const Index room = image[axis] + 2 * padding[axis] + extra_padding[axis] -
                       dilation[axis] * (kernel[axis] - 1) - 1;
    return room < 0 ? 0 : room / stride[axis] + 1;
  }
  /// The number of places of the window: the pixels of an output channel.
  Index positions() const {
    Index count = 1;
    for (std::size_t axis = 0; axis < Axes; ++axis) count *= places(axis);
    return count;
  }
  /// The number of entries of a channel's window.
  Index taps() const { return product(kernel); }
  /// The number of entries of a patch.
  Index features() const { return channels * taps(); }
  /// The number of pixels of a channel.
  Index plane_size() const { return product(image); }
  /// Whether there are pixels outside the image.
  bool is_padded() const {
    bool padded = false;
    for (std::size_t axis = 0; axis < Axes; ++axis)
      padded |= padding[axis] > 0 || padding[axis] + extra_padding[axis] > 0;
    return padded;
  }

  bool operator==(const PatchGeometry&) const = default;

 private:
  static Index product(const std::array<Index, Axes>& sizes) {
    Index result = 1;
    for (const Index size : sizes) result *= size;
    return result;
  }
};

namespace linalg::detail {

/// A convolution goes from pixels to places, its adjoint back.
enum class WindowDirection { ToPlaces, ToPixels };

}  // namespace linalg::detail

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

/// The work of `for_each_window_row`: first a loop over the window's entries, axis by axis, then
/// one over the rows of places.
template <std::size_t Axes, class Body>
class WindowRows {
 public:
  WindowRows(const PatchGeometry<Axes>& geometry, Body& body) : geometry_(geometry), body_(body) {
    for (std::size_t axis = 0; axis < Axes; ++axis) places_[axis] = geometry.places(axis);
    place_step_.back() = 1;
    pixel_step_.back() = geometry.stride.back();
    Index plane = 1;
    for (std::size_t axis = Axes - 1; axis > 0; --axis) {
      plane *= geometry.image[axis];
      place_step_[axis - 1] = place_step_[axis] * places_[axis];
      pixel_step_[axis - 1] = geometry.stride[axis - 1] * plane;
    }
  }

  /// `tap`, `place` and `pixel` are numbers along the slower axes so far.
  template <std::size_t Axis = 0>
  void for_each_tap(Index tap = 0, Index place = 0, Index pixel = 0) {
    for (Index entry = 0; entry < geometry_.kernel[Axis]; ++entry) {
      const Index offset = entry * geometry_.dilation[Axis] - geometry_.padding[Axis];
      const auto [begin, end] =
          places_inside(places_[Axis], geometry_.image[Axis], geometry_.stride[Axis], offset);
      if (begin == end) continue;
      counts_[Axis] = end - begin;
      const Index next_tap = tap * geometry_.kernel[Axis] + entry;
      const Index next_place = place * places_[Axis] + begin;
      const Index next_pixel =
          pixel * geometry_.image[Axis] + begin * geometry_.stride[Axis] + offset;
      if constexpr (Axis + 1 < Axes)
        for_each_tap<Axis + 1>(next_tap, next_place, next_pixel);
      else
        for_each_row<0>(next_tap, next_place, next_pixel);
    }
  }

 private:
  template <std::size_t Axis>
  void for_each_row(Index tap, Index place, Index pixel) {
    const Index count = counts_[Axis];
    if constexpr (Axis + 1 < Axes) {
      for (Index i = 0; i < count; ++i)
        for_each_row<Axis + 1>(tap, place + i * place_step_[Axis], pixel + i * pixel_step_[Axis]);
    } else {
      body_(tap, place, pixel, count);
    }
  }

  const PatchGeometry<Axes>& geometry_;
  Body& body_;
  std::array<Index, Axes> places_{};
  std::array<Index, Axes> place_step_{};
  std::array<Index, Axes> pixel_step_{};
  std::array<Index, Axes> counts_{};
};

}  // namespace detail

/// Calls `body(tap, place, pixel, count)` for every stretch of `count` places along a row, from
/// `place` on, where the window's entry `tap` (row-major in the kernel) lies inside the image: on
/// `pixel` and then every `stride.back()` pixels. `place` and `pixel` count row-major in one
/// channel.
template <std::size_t Axes, class Body>
void for_each_window_row(const PatchGeometry<Axes>& geometry, Body&& body) {
  detail::WindowRows<Axes, std::remove_reference_t<Body>>(geometry, body).for_each_tap();
}

/// Writes the patches of a batch of images: `patches`, `(examples * positions) x features`, has one
/// row per window place, the places of an example together, and columns in the order (channel,
/// then the kernel's axes, slowest first), zero in the padding. A column is thus contiguous, and so
/// are the columns of a group of channels. `images` is `(channels * plane_size) x examples`.
/// \source Chellapilla, Puri and Simard, High performance convolutional neural networks for
///         document processing, 2006
template <RealScalar S, std::size_t Axes>
void unfold_patches(const PatchGeometry<Axes>& geometry, const ConstMatrixRef<S>& images,
                    MatrixRef<S> patches) {
  const Index examples = images.cols();
  const Index positions = geometry.positions();
  const Index stride = geometry.stride.back();
  const bool padded = geometry.is_padded();
  const auto unfold_channel = [&](Index channel) {
    const Index first_feature = channel * geometry.taps();
    for (Index example = 0; example < examples; ++example) {
      const S* plane = images.col(example).data() + channel * geometry.plane_size();
      if (padded)
        patches.block(example * positions, first_feature, positions, geometry.taps()).setZero();
      for_each_window_row(geometry, [&](Index tap, Index place, Index pixel, Index count) {
        S* to = &patches(example * positions + place, first_feature + tap);
        const S* from = plane + pixel;
        if (stride == 1)
          linalg::detail::copy_row<1>(from, count, S(0), to);
        else if (stride == 2)
          linalg::detail::copy_row<2>(from, count, S(0), to);
        else
          for (Index i = 0; i < count; ++i) to[i] = from[i * stride];
      });
    }
  };
  // So many channels at once as are worth another thread.
  const Index channels = detail::kPieceSize / (examples * positions * geometry.taps()) + 1;
  detail::for_each_piece(geometry.channels, channels, [&](Index first, Index count) {
    for (Index i = 0; i < count; ++i) unfold_channel(first + i);
  });
}

/// Writes what each pixel of an image is made of where windows add up, as the adjoint of a
/// convolution does: `patches`, `(examples * plane_size) x features`, has one row per pixel and
/// columns as in `unfold_patches`. In that of an entry of the window is the number of the place at
/// which this entry lies on the pixel, or zero if there is none. `places` is `(channels *
/// positions) x examples`.
template <RealScalar S, std::size_t Axes>
void spread_places(const PatchGeometry<Axes>& geometry, const ConstMatrixRef<S>& places,
                   MatrixRef<S> patches) {
  const Index examples = places.cols();
  const Index pixels = geometry.plane_size();
  const Index stride = geometry.stride.back();
  const auto spread_channel = [&](Index channel) {
    const Index first_feature = channel * geometry.taps();
    for (Index example = 0; example < examples; ++example) {
      const S* plane = places.col(example).data() + channel * geometry.positions();
      patches.block(example * pixels, first_feature, pixels, geometry.taps()).setZero();
      for_each_window_row(geometry, [&](Index tap, Index place, Index pixel, Index count) {
        S* to = &patches(example * pixels + pixel, first_feature + tap);
        const S* from = plane + place;
        for (Index i = 0; i < count; ++i) to[i * stride] = from[i];
      });
    }
  };
  const Index channels = detail::kPieceSize / (examples * pixels * geometry.taps()) + 1;
  detail::for_each_piece(geometry.channels, channels, [&](Index first, Index count) {
    for (Index i = 0; i < count; ++i) spread_channel(first + i);
  });
}

/// The adjoint of `unfold_patches`: every pixel of `images` becomes the sum of the entries of
/// `patches` that were copied from it.
template <RealScalar S, std::size_t Axes>
void fold_patches(const PatchGeometry<Axes>& geometry, const ConstMatrixRef<S>& patches,
                  MatrixRef<S> images) {
  const Index positions = geometry.positions();
  const Index stride = geometry.stride.back();
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
