#pragma once

#include <array>
#include <string>

#include <kfac/core/shape.hpp>
#include <kfac/linalg/patches.hpp>

namespace kfac::detail {

/// The axes of images with 1, 2 or 3 of them, as messages name them.
template <std::size_t Axes>
constexpr const char* axes_names() {
  constexpr std::array<const char*, 3> kNames{"length", "height x width", "depth x height x width"};
  return kNames[Axes - 1];
}

/// The axes behind the channels. \pre shape.rank() == 1 + Axes
template <std::size_t Axes>
std::array<Index, Axes> image_of(const Shape& shape) {
  std::array<Index, Axes> image{};
  for (std::size_t axis = 0; axis < Axes; ++axis) image[axis] = shape[1 + static_cast<int>(axis)];
  return image;
}

/// Zeros at the end of each axis beyond those at its beginning, where options have `begin` there,
/// and `end`, or a negative number for as many as `begin`.
template <std::size_t Axes>
std::array<Index, Axes> extra_padding(const std::array<Index, Axes>& begin,
                                      const std::array<Index, Axes>& end) {
  std::array<Index, Axes> extra{};
  for (std::size_t axis = 0; axis < Axes; ++axis)
    extra[axis] = end[axis] < 0 ? 0 : end[axis] - begin[axis];
  return extra;
}

/// `{channels, places...}` of a window on `shape`. \throws ShapeError if it is larger than the
/// padded image
template <std::size_t Axes>
Shape window_output_shape(const char* where, const PatchGeometry<Axes>& geometry,
                          const Shape& shape, Index channels) {
  if (geometry.positions() == 0) {
    Shape kernel;
    for (const Index entries : geometry.kernel) kernel.push_back(entries);
    raise<ShapeError>(std::string(where) + ": 'input' has shape " + shape.to_string() +
                      ", expected room for the kernel, " + kernel.to_string() +
                      ", in the padded image");
  }
  Shape result{channels};
  for (std::size_t axis = 0; axis < Axes; ++axis) result.push_back(geometry.places(axis));
  return result;
}

}  // namespace kfac::detail
