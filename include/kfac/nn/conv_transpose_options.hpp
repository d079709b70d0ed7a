#pragma once

#include <algorithm>
#include <array>

#include <kfac/core/errors.hpp>
#include <kfac/linalg/patches.hpp>

namespace kfac {
namespace detail {

/// What transposed convolutions of 1, 2 and 3 axes are called.
struct ConvTransposeNames {
  const char* kind;
  const char* layer;
  const char* options;
};
inline constexpr std::array<ConvTransposeNames, 3> kConvTransposeNames{
    {{"ConvTranspose1d", "kfac::ConvTranspose1d", "kfac::ConvTranspose1dOptions"},
     {"ConvTranspose2d", "kfac::ConvTranspose2d", "kfac::ConvTranspose2dOptions"},
     {"ConvTranspose3d", "kfac::ConvTranspose3d", "kfac::ConvTranspose3dOptions"}}};

}  // namespace detail

/// As the arguments of torch.nn.ConvTranspose1d, ConvTranspose2d and ConvTranspose3d; arrays have
/// one entry for each axis of the image, slowest first.
template <std::size_t Axes>
struct ConvTransposeOptions {
  Index in_channels = 1;                                               ///< >= 1
  Index out_channels = 1;                                              ///< >= 1
  std::array<Index, Axes> kernel_size = detail::on_all_axes<Axes>(3);  ///< >= 1
  /// Output pixels between places of the kernel, >= 1.
  std::array<Index, Axes> stride = detail::on_all_axes<Axes>(1);
  /// Pixels that are left out on each side of the output, >= 0: the padding of the convolution that
  /// this is the transpose of.
  std::array<Index, Axes> padding = detail::on_all_axes<Axes>(0);
  /// Pixels left out at the end of each axis, if others than at its beginning: >= 0, or -1: as
  /// `padding`.
  std::array<Index, Axes> padding_end = detail::on_all_axes<Axes>(-1);
  /// Pixels more at the end of each axis, >= 0 and below the stride or the dilation: with strides
  /// several sizes of outputs have the same input under a convolution.
  std::array<Index, Axes> output_padding = detail::on_all_axes<Axes>(0);
  /// Pixels between entries of the kernel, >= 1.
  std::array<Index, Axes> dilation = detail::on_all_axes<Axes>(1);
  Index groups = 1;  ///< separate maps side by side; divides both numbers of channels
  bool bias = true;
  /// Bytes of patches in memory at once, at most, >= 0; but never less than those of one example.
  /// As `ConvOptions::workspace`.
  Index workspace = Index{64} << 20;

  /// The number of entries of the kernel.
  Index taps() const { return PatchGeometry<Axes>{.kernel = kernel_size}.taps(); }

  /// \throws OptionError if a field is outside its range
  void validate() const {
    const char* where = detail::kConvTransposeNames[Axes - 1].options;
    detail::check_option(in_channels >= 1, where, "in_channels", in_channels, ">= 1");
    detail::check_option(out_channels >= 1, where, "out_channels", out_channels, ">= 1");
    for (std::size_t axis = 0; axis < Axes; ++axis) {
      detail::check_option(kernel_size[axis] >= 1, where, "kernel_size", kernel_size[axis], ">= 1");
      detail::check_option(stride[axis] >= 1, where, "stride", stride[axis], ">= 1");
      detail::check_option(padding[axis] >= 0, where, "padding", padding[axis], ">= 0");
      detail::check_option(padding_end[axis] >= -1, where, "padding_end", padding_end[axis],
                           ">= 0, or -1");
      detail::check_option(dilation[axis] >= 1, where, "dilation", dilation[axis], ">= 1");
      detail::check_option(output_padding[axis] >= 0 &&
                               output_padding[axis] < std::max(stride[axis], dilation[axis]),
                           where, "output_padding", output_padding[axis],
                           "0 <= output_padding < stride or dilation");
    }
    detail::check_option(groups >= 1 && in_channels % groups == 0 && out_channels % groups == 0,
                         where, "groups", groups, "a divisor of both numbers of channels");
    detail::check_option(workspace >= 0, where, "workspace", workspace, ">= 0");
  }
};
using ConvTranspose1dOptions = ConvTransposeOptions<1>;
using ConvTranspose2dOptions = ConvTransposeOptions<2>;
using ConvTranspose3dOptions = ConvTransposeOptions<3>;

}  // namespace kfac
