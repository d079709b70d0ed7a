#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <vector>

#include <kfac/core/buffer.hpp>
#include <kfac/core/random.hpp>
#include <kfac/linalg/patches.hpp>
#include <kfac/nn/layer.hpp>

namespace kfac {

/// As torch.nn.Conv2d's arguments; arrays are {vertical, horizontal}.
struct Conv2dOptions {
  Index in_channels = 1;                      ///< >= 1
  Index out_channels = 1;                     ///< >= 1
  std::array<Index, 2> kernel_size = {3, 3};  ///< >= 1
  std::array<Index, 2> stride = {1, 1};       ///< pixels between places of the kernel, >= 1
  std::array<Index, 2> padding = {0, 0};      ///< zeros on each side of the image, >= 0
  std::array<Index, 2> dilation = {1, 1};     ///< pixels between entries of the kernel, >= 1
  Index groups = 1;  ///< separate convolutions side by side; divides both numbers of channels
  bool bias = true;
};

/// A convolution (cross-correlation with zero padding) of images `{in_channels, height, width}` to
/// `{out_channels, out_height, out_width}`, as torch.nn.Conv2d:
///
///     kfac::Conv2d<float> conv({.in_channels = 1, .out_channels = 16, .padding = {1, 1}}, rng);
///
/// It is a linear map of patches. Parameters, for each group: "weight", `out_channels/groups x
/// in_channels/groups*k1*k2` with columns in the order (channel, kernel row, kernel column), and
/// "bias", `out_channels/groups`; uniform in +-1/sqrt(columns of the weight) like PyTorch's
/// default. PyTorch's kernel `[out, in, k1, k2]` is that weight row-major.
/// \source
/// Grosse and Martens, A Kronecker-factored approximate Fisher matrix for
///         convolution layers, 2016
template <RealScalar S>
class Conv2d {
 public:
  using Scalar = S;
  struct Scratch {
    Buffer<S> patches;        ///< of the whole batch, as `unfold_patches` writes them
    Buffer<S> grad_output;    ///< `(examples * positions) x out_channels`
    Buffer<S> block_patches;  ///< (gradients, tangents) of a few examples
    Buffer<S> block_outputs;
  };
  static const char* kind() { return "Conv2d"; }

  /// \throws OptionError if a field is outside its range
  Conv2d(Conv2dOptions options, Rng& rng) : options_(validated(options)) {
    parameters_.resize(options_.out_channels * kronecker_structure().columns());
    const double bound = 1.0 / std::sqrt(static_cast<double>(kronecker_structure().inputs));
    rng.fill_uniform(parameters_, -bound, bound);
  }

  const Conv2dOptions& options() const { return options_; }

  /// [W b] of a group, `outputs x (inputs + bias)` of `kronecker_structure()`.
  MatrixMap<S> augmented_weight(Index group = 0) {
    const KroneckerStructure sizes = kronecker_structure();
    return {parameters_.data() + group * sizes.outputs * sizes.columns(), sizes.outputs,
            sizes.columns()};
  }
  Index parameter_count() const { return parameters_.size(); }
  VectorMap<S> parameters() { return {parameters_.data(), parameters_.size()}; }
  /// Those of several groups are called "weight.0", "bias.0", "weight.1", ...
  std::vector<ParameterInfo> parameter_info() const {
    const KroneckerStructure sizes = kronecker_structure();
    std::vector<ParameterInfo> info;
    for (Index group = 0; group < sizes.groups; ++group) {
      const std::string suffix = sizes.groups == 1 ? "" : '.' + std::to_string(group);
      const Index offset = group * sizes.outputs * sizes.columns();
      info.push_back({"weight" + suffix, offset, sizes.outputs, sizes.inputs});
      if (sizes.bias)
        info.push_back({"bias" + suffix, offset + sizes.outputs * sizes.inputs, sizes.outputs, 1});
    }
    return info;
  }

  Shape output_shape(const Shape& shape) const {
    if (shape.rank() != 3 || shape[0] != options_.in_channels)
      raise<ShapeError>("kfac::Conv2d: 'input' has shape " + shape.to_string() + ", expected " +
                        std::to_string(options_.in_channels) + " channels x height x width");
    const PatchGeometry geometry = geometry_on(shape);
    if (geometry.positions() == 0)
      raise<ShapeError>("kfac::Conv2d: 'input' has shape " + shape.to_string() +
                        ", expected room for the kernel, " +
                        Shape{options_.kernel_size[0], options_.kernel_size[1]}.to_string() +
                        ", in the padded image");
    return {options_.out_channels, geometry.places(0), geometry.places(1)};
  }

  void forward(const ConstBatchView<S>& x, BatchView<S> y, Scratch& scratch, const Mode&) const {
    const PatchGeometry geometry = geometry_on(x.shape);
    const Index positions = geometry.positions();
    MatrixMap<S> patches = scratch.patches.map(x.examples() * positions, geometry.features());
    unfold_patches(geometry, x.values, patches);
    for_each_block(x.examples(), positions, [&](Index first, Index count) {
      MatrixMap<S> outputs = scratch.block_outputs.map(count * positions, options_.out_channels);
      outputs.setZero();
      add_products(patches.middleRows(first * positions, count * positions), parameters_.data(),
                   outputs);
      write_images(outputs, parameters_.data(), positions, y.values.middleCols(first, count));
    });
  }

  void backward(const ConstBatchView<S>& x, const ConstBatchView<S>&,
                const ConstBatchView<S>& grad_output, BatchView<S>* grad_input,
                VectorMap<S>* grad_parameters, Scratch& scratch, const Mode&) const {
    const PatchGeometry geometry = geometry_on(x.shape);
    const Index positions = geometry.positions();
    const Index examples = x.examples();
    const KroneckerStructure sizes = kronecker_structure();

    MatrixMap<S> gradient = scratch.grad_output.map(examples * positions, options_.out_channels);
    for (Index example = 0; example < examples; ++example)
      gradient.middleRows(example * positions, positions) = ConstMatrixMap<S>(
          grad_output.values.col(example).data(), positions, options_.out_channels);

    if (grad_parameters) {
      const ConstMatrixMap<S> patches(scratch.patches.data(), examples * positions,
                                      geometry.features());
      for (Index group = 0; group < sizes.groups; ++group) {
        const ConstMatrixRef<S> group_gradient =
            gradient.middleCols(group * sizes.outputs, sizes.outputs);
        MatrixMap<S> result(grad_parameters->data() + group * sizes.outputs * sizes.columns(),
                            sizes.outputs, sizes.columns());
        result.leftCols(sizes.inputs).noalias() =
            group_gradient.transpose() * patches.middleCols(group * sizes.inputs, sizes.inputs);
        if (sizes.bias) result.col(sizes.inputs) = group_gradient.colwise().sum().transpose();
      }
    }
    if (!grad_input) return;
    for_each_block(examples, positions, [&](Index first, Index count) {
      MatrixMap<S> grad_patches = scratch.block_patches.map(count * positions, geometry.features());
      for (Index group = 0; group < sizes.groups; ++group)
        grad_patches.middleCols(group * sizes.inputs, sizes.inputs).noalias() =
            gradient.block(first * positions, group * sizes.outputs, count * positions,
                           sizes.outputs) *
            weight(parameters_.data(), group);
      fold_patches(geometry, grad_patches,
                   MatrixMap<S>(grad_input->values.col(first).data(), x.values.rows(), count));
    });
  }

  void tangent(const ConstBatchView<S>& x, const ConstBatchView<S>&,
               const ConstBatchView<S>* x_tangent, const ConstVectorMap<S>* parameter_tangent,
               BatchView<S> y_tangent, Scratch& scratch) const {
    const PatchGeometry geometry = geometry_on(x.shape);
    const Index positions = geometry.positions();
    const ConstMatrixMap<S> patches(scratch.patches.data(), x.examples() * positions,
                                    geometry.features());
    for_each_block(x.examples(), positions, [&](Index first, Index count) {
      MatrixMap<S> outputs = scratch.block_outputs.map(count * positions, options_.out_channels);
      outputs.setZero();
      if (x_tangent) {
        MatrixMap<S> patches_tangent =
            scratch.block_patches.map(count * positions, geometry.features());
        unfold_patches(geometry, x_tangent->values.middleCols(first, count), patches_tangent);
        add_products(patches_tangent, parameters_.data(), outputs);
      }
      if (parameter_tangent)
        add_products(patches.middleRows(first * positions, count * positions),
                     parameter_tangent->data(), outputs);
      write_images(outputs, parameter_tangent ? parameter_tangent->data() : nullptr, positions,
                   y_tangent.values.middleCols(first, count));
    });
  }

  KroneckerStructure kronecker_structure() const {
    return {
        options_.in_channels / options_.groups * options_.kernel_size[0] * options_.kernel_size[1],
        options_.out_channels / options_.groups, options_.bias, options_.groups};
  }
  SharedBatch<S> kronecker_input(const ConstBatchView<S>& x, const Scratch& scratch) const {
    const PatchGeometry geometry = geometry_on(x.shape);
    return {scratch.patches.data(), geometry.features(), x.examples() * geometry.positions(),
            geometry.positions(), SharedBatch<S>::Order::RowMajor};
  }
  SharedBatch<S> kronecker_output_gradient(const ConstBatchView<S>& grad_output,
                                           const Scratch& scratch) const {
    const Index positions = grad_output.shape.size() / options_.out_channels;
    return {scratch.grad_output.data(), options_.out_channels, grad_output.examples() * positions,
            positions, SharedBatch<S>::Order::RowMajor};
  }

 private:
  static Conv2dOptions validated(const Conv2dOptions& options) {
    static constexpr const char* kWhere = "kfac::Conv2dOptions";
    detail::check_option(options.in_channels >= 1, kWhere, "in_channels", options.in_channels,
                         ">= 1");
    detail::check_option(options.out_channels >= 1, kWhere, "out_channels", options.out_channels,
                         ">= 1");
    detail::check_option(options.groups >= 1 && options.in_channels % options.groups == 0 &&
                             options.out_channels % options.groups == 0,
                         kWhere, "groups", options.groups, "a divisor of both numbers of channels");
    for (std::size_t axis = 0; axis < 2; ++axis) {
      detail::check_option(options.kernel_size[axis] >= 1, kWhere, "kernel_size",
                           options.kernel_size[axis], ">= 1");
      detail::check_option(options.stride[axis] >= 1, kWhere, "stride", options.stride[axis],
                           ">= 1");
      detail::check_option(options.padding[axis] >= 0, kWhere, "padding", options.padding[axis],
                           ">= 0");
      detail::check_option(options.dilation[axis] >= 1, kWhere, "dilation", options.dilation[axis],
                           ">= 1");
    }
    return options;
  }

  PatchGeometry geometry_on(const Shape& shape) const {
    return {options_.in_channels, {shape[1], shape[2]}, options_.kernel_size,
            options_.stride,      options_.padding,     options_.dilation};
  }

  /// W of a group in flat parameters (or a tangent of them).
  ConstMatrixMap<S> weight(const S* parameters, Index group) const {
    const KroneckerStructure sizes = kronecker_structure();
    return {parameters + group * sizes.outputs * sizes.columns(), sizes.outputs, sizes.inputs};
  }
  /// Its bias. \pre there is one
  ConstVectorMap<S> bias(const S* parameters, Index group) const {
    const KroneckerStructure sizes = kronecker_structure();
    return {parameters + group * sizes.outputs * sizes.columns() + sizes.outputs * sizes.inputs,
            sizes.outputs};
  }

  /// outputs += patches W^T, group by group.
  void add_products(const ConstMatrixRef<S>& patches, const S* parameters,
                    MatrixMap<S> outputs) const {
    const KroneckerStructure sizes = kronecker_structure();
    for (Index group = 0; group < sizes.groups; ++group)
      outputs.middleCols(group * sizes.outputs, sizes.outputs).noalias() +=
          patches.middleCols(group * sizes.inputs, sizes.inputs) *
          weight(parameters, group).transpose();
  }

  /// From `(examples * positions) x out_channels` to images, adding the bias in `parameters`, if
  /// any.
  void write_images(const MatrixMap<S>& outputs, const S* parameters, Index positions,
                    MatrixRef<S> images) const {
    const KroneckerStructure sizes = kronecker_structure();
    for (Index example = 0; example < images.cols(); ++example)
      for (Index group = 0; group < sizes.groups; ++group) {
        const ConstMatrixRef<S> from =
            outputs.block(example * positions, group * sizes.outputs, positions, sizes.outputs);
        MatrixMap<S> to(images.col(example).data() + group * sizes.outputs * positions, positions,
                        sizes.outputs);
        if (sizes.bias && parameters)
          to = from.rowwise() + bias(parameters, group).transpose();
        else
          to = from;
      }
  }

  /// Calls `body(first, count)` for consecutive examples, few enough that what is computed for them
  /// stays in cache, and enough that the products are efficient.
  template <class Body>
  static void for_each_block(Index examples, Index positions, Body&& body) {
    constexpr Index kRows = 512;
    const Index step = std::max<Index>(kRows / positions, 1);
    for (Index first = 0; first < examples; first += step)
      body(first, std::min(step, examples - first));
  }

  Conv2dOptions options_;
  Vector<S> parameters_;
};

}  // namespace kfac
