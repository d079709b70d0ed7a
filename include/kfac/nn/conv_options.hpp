#pragma once

#include <array>

#include <kfac/core/errors.hpp>
#include <kfac/linalg/patches.hpp>

namespace kfac {
namespace detail {

/// What convolutions of 1, 2 and 3 axes are called.
struct ConvNames {
  const char* kind;
  const char* layer;
  const char* options;
};
inline constexpr std::array<ConvNames, 3> kConvNames{
    {{"Conv1d", "kfac::Conv1d", "kfac::Conv1dOptions"},
     {"Conv2d", "kfac::Conv2d", "kfac::Conv2dOptions"},
     {"Conv3d", "kfac::Conv3d", "kfac::Conv3dOptions"}}};

}  // namespace detail

/// As the arguments of torch.nn.Conv1d, Conv2d and Conv3d; arrays have one entry for each axis of
/// the image, slowest first: {length}, {height, width} or {depth, height, width}.
template <std::size_t Axes>
struct ConvOptions {
  Index in_channels = 1;                                               ///< >= 1
  Index out_channels = 1;                                              ///< >= 1
  std::array<Index, Axes> kernel_size = detail::on_all_axes<Axes>(3);  ///< >= 1
  /// Pixels between places of the kernel, >= 1.
  std::array<Index, Axes> stride = detail::on_all_axes<Axes>(1);
  /// Zeros on each side of the image, >= 0.
  std::array<Index, Axes> padding = detail::on_all_axes<Axes>(0);
  /// Zeros at the end of each axis, if others than at its beginning: >= 0, or -1: as `padding`.
  std::array<Index, Axes> padding_end = detail::on_all_axes<Axes>(-1);
  /// Pixels between entries of the kernel, >= 1.
  std::array<Index, Axes> dilation = detail::on_all_axes<Axes>(1);
  Index groups = 1;  ///< separate convolutions side by side; divides both numbers of channels
  bool bias = true;
  /// Bytes of patches in memory at once, at most, >= 0; but never less than those of one example.
  /// No pass needs patches: they are made for whoever observes the layer, as Kronecker factors do,
  /// for some 600 places at a time, which seldom takes as much as the default, 64 MiB.
  Index workspace = Index{64} << 20;

  /// The number of entries of the kernel.
  Index taps() const { return PatchGeometry<Axes>{.kernel = kernel_size}.taps(); }

  /// \throws OptionError if a field is outside its range
  void validate() const {
    const char* where = detail::kConvNames[Axes - 1].options;
    detail::check_option(in_channels >= 1, where, "in_channels", in_channels, ">= 1");
    detail::check_option(out_channels >= 1, where, "out_channels", out_channels, ">= 1");
    for (std::size_t axis = 0; axis < Axes; ++axis) {
      detail::check_option(kernel_size[axis] >= 1, where, "kernel_size", kernel_size[axis], ">= 1");
      detail::check_option(stride[axis] >= 1, where, "stride", stride[axis], ">= 1");
      detail::check_option(padding[axis] >= 0, where, "padding", padding[axis], ">= 0");
      detail::check_option(padding_end[axis] >= -1, where, "padding_end", padding_end[axis],
                           ">= 0, or -1");
      detail::check_option(dilation[axis] >= 1, where, "dilation", dilation[axis], ">= 1");
    }
    detail::check_option(groups >= 1 && in_channels % groups == 0 && out_channels % groups == 0,
                         where, "groups", groups, "a divisor of both numbers of channels");
    detail::check_option(workspace >= 0, where, "workspace", workspace, ">= 0");
  }
};
using Conv1dOptions = ConvOptions<1>;
using Conv2dOptions = ConvOptions<2>;
using Conv3dOptions = ConvOptions<3>;

}  // namespace kfac
