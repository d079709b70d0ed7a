#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <vector>

#include <kfac/core/buffer.hpp>
#include <kfac/core/random.hpp>
#include <kfac/nn/conv_options.hpp>
#include <kfac/nn/grouped_products.hpp>
#include <kfac/nn/image_axes.hpp>
#include <kfac/nn/layer.hpp>
#include <kfac/nn/patch_memory.hpp>

namespace kfac {

/// A convolution (cross-correlation with zero padding) of images `{in_channels, ...}` with 1, 2 or
/// 3 further axes to `{out_channels, ...}`, as torch.nn.Conv1d, Conv2d and Conv3d:
///
///     kfac::Conv2d<float> conv({.in_channels = 1, .out_channels = 16, .padding = {1, 1}}, rng);
///
/// It is a linear map of patches. Parameters, for each group: "weight", `out_channels/groups x
/// in_channels/groups*taps` with columns in the order (channel, then the kernel's axes), and
/// "bias", `out_channels/groups`; uniform in +-1/sqrt(columns of the weight) like PyTorch's
/// default. PyTorch's kernel `[out, in, k1, ...]` is that weight row-major.
/// \source Grosse and Martens, A Kronecker-factored approximate Fisher matrix for convolution
///         layers, 2016
template <RealScalar S, std::size_t Axes>
class Conv {
 public:
  using Scalar = S;
  using Options = ConvOptions<Axes>;

  struct Scratch {
    detail::PatchMemory<S, Axes> patches;
    Buffer<S> grad_output;  ///< `(examples * positions) x out_channels`
    Buffer<S> block;        ///< likewise (outputs, gradients), for a few examples
  };

  static const char* kind() { return detail::kConvNames[Axes - 1].kind; }

  /// \throws OptionError if a field is outside its range
  Conv(const Options& options, Rng& rng) : options_(options) {
    options_.validate();
    parameters_.resize(options_.out_channels * kronecker_structure().columns());
    const double bound = 1.0 / std::sqrt(static_cast<double>(kronecker_structure().inputs));
    rng.fill_uniform(parameters_, -bound, bound);
  }

  const Options& options() const { return options_; }

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
    if (shape.rank() != 1 + static_cast<int>(Axes) || shape[0] != options_.in_channels)
      raise<ShapeError>(std::string(detail::kConvNames[Axes - 1].layer) + ": 'input' has shape " +
                        shape.to_string() + ", expected " + std::to_string(options_.in_channels) +
                        " channels x " + detail::axes_names<Axes>());
    return detail::window_output_shape(detail::kConvNames[Axes - 1].layer, geometry_on(shape),
                                       shape, options_.out_channels);
  }

  void forward(const ConstBatchView<S>& x, BatchView<S> y, Scratch& scratch, const Mode&) const {
    const Pass pass(*this, x, scratch);
    pass.for_each_block([&](Index first, Index count) {
      MatrixMap<S> outputs = scratch.block.map(count * pass.positions, options_.out_channels);
      outputs.setZero();
      pass.products.add_outputs(pass.patches.make(first, count), parameters_.data(), outputs);
      write_images(outputs, parameters_.data(), y.values.middleCols(first, count));
    });
  }

  void backward(const ConstBatchView<S>& x, const ConstBatchView<S>&,
                const ConstBatchView<S>& grad_output, BatchView<S>* grad_input,
                VectorMap<S>* grad_parameters, Scratch& scratch, const Mode&) const {
    const Pass pass(*this, x, scratch);
    MatrixMap<S> gradient =
        scratch.grad_output.map(x.examples() * pass.positions, options_.out_channels);
    read_images(grad_output.values, gradient);

    if (grad_parameters) {
      grad_parameters->setZero();
      const auto add = [&](Index first, Index count) {
        pass.products.add_weight_gradients(pass.rows(gradient, first, count),
                                           pass.patches.get(first, count), grad_parameters->data());
      };
      if (pass.patches.kept())
        add(0, x.examples());
      else
        pass.for_each_block(add);
      pass.products.add_bias_gradients(gradient, grad_parameters->data());
    }
    if (!grad_input) return;
    pass.for_each_block([&](Index first, Index count) {
      MatrixMap<S> grad_patches = pass.patches.block(count);
      grad_patches.setZero();
      pass.products.add_feature_gradients(pass.rows(gradient, first, count), parameters_.data(),
                                          grad_patches);
      fold_patches<S>(pass.patches.geometry(), grad_patches,
                      grad_input->values.middleCols(first, count));
    });
  }

  void tangent(const ConstBatchView<S>& x, const ConstBatchView<S>&,
               const ConstBatchView<S>* x_tangent, const ConstVectorMap<S>* parameter_tangent,
               BatchView<S> y_tangent, Scratch& scratch) const {
    const Pass pass(*this, x, scratch);
    pass.for_each_block([&](Index first, Index count) {
      MatrixMap<S> outputs = scratch.block.map(count * pass.positions, options_.out_channels);
      outputs.setZero();
      if (x_tangent)
        pass.products.add_outputs(pass.patches.of(x_tangent->values.data(), first, count),
                                  parameters_.data(), outputs);
      if (parameter_tangent)
        pass.products.add_outputs(pass.patches.get(first, count), parameter_tangent->data(),
                                  outputs);
      write_images(outputs, parameter_tangent ? parameter_tangent->data() : nullptr,
                   y_tangent.values.middleCols(first, count));
    });
  }

  void backward_tangent(const ConstBatchView<S>& x, const ConstBatchView<S>&,
                        const ConstBatchView<S>& grad_output, const ConstBatchView<S>* x_tangent,
                        const ConstVectorMap<S>* parameter_tangent,
                        const ConstBatchView<S>& grad_output_tangent,
                        BatchView<S>* grad_input_tangent, VectorMap<S>* grad_parameters_tangent,
                        Scratch& scratch) const {
    const Pass pass(*this, x, scratch);
    if (grad_parameters_tangent) grad_parameters_tangent->setZero();
    pass.for_each_block([&](Index first, Index count) {
      const Index rows = count * pass.positions;
      const Index channels = options_.out_channels;
      MatrixMap<S> gradient(scratch.block.map(rows, 2 * channels).data(), rows, channels);
      MatrixMap<S> gradient_tangent(gradient.data() + gradient.size(), rows, channels);
      read_images(grad_output.values.middleCols(first, count), gradient);
      read_images(grad_output_tangent.values.middleCols(first, count), gradient_tangent);
      if (grad_parameters_tangent) {
        S* into = grad_parameters_tangent->data();
        pass.products.add_weight_gradients(gradient_tangent, pass.patches.get(first, count), into);
        if (x_tangent)
          pass.products.add_weight_gradients(
              gradient, pass.patches.of(x_tangent->values.data(), first, count), into);
        pass.products.add_bias_gradients(gradient_tangent, into);
      }
      if (!grad_input_tangent) return;
      MatrixMap<S> grad_patches = pass.patches.block(count);
      grad_patches.setZero();
      pass.products.add_feature_gradients(gradient_tangent, parameters_.data(), grad_patches);
      if (parameter_tangent)
        pass.products.add_feature_gradients(gradient, parameter_tangent->data(), grad_patches);
      fold_patches<S>(pass.patches.geometry(), grad_patches,
                      grad_input_tangent->values.middleCols(first, count));
    });
  }

  KroneckerStructure kronecker_structure() const {
    Index taps = 1;
    for (const Index entries : options_.kernel_size) taps *= entries;
    return {options_.in_channels / options_.groups * taps, options_.out_channels / options_.groups,
            options_.bias, options_.groups};
  }
  SharedBatch<S> kronecker_input(const ConstBatchView<S>&, const Scratch& scratch) const {
    return scratch.patches.shared();
  }
  SharedBatch<S> kronecker_output_gradient(const ConstBatchView<S>& grad_output,
                                           const Scratch& scratch) const {
    const Index positions = grad_output.shape.size() / options_.out_channels;
    return {scratch.grad_output.data(), options_.out_channels, grad_output.examples() * positions,
            positions, SharedBatch<S>::Order::RowMajor};
  }

 private:
  using Geometry = PatchGeometry<Axes>;

  /// What the passes over a batch share.
  struct Pass {
    Pass(const Conv& layer, const ConstBatchView<S>& x, Scratch& scratch)
        : products(layer.kronecker_structure()),
          patches(scratch.patches),
          positions(layer.geometry_on(x.shape).positions()),
          examples(x.examples()) {
      patches.begin(layer.geometry_on(x.shape), x.values, layer.options_.workspace);
    }

    /// Calls `body(first, count)` for consecutive examples, a few at a time.
    template <class Body>
    void for_each_block(Body&& body) const {
      const Index step = patches.examples_at_once();
      for (Index first = 0; first < examples; first += step)
        body(first, std::min(step, examples - first));
    }
    ConstMatrixRef<S> rows(const MatrixMap<S>& all, Index first, Index count) const {
      return all.middleRows(first * positions, count * positions);
    }

    detail::GroupedProducts<S> products;
    detail::PatchMemory<S, Axes>& patches;
    Index positions;
    Index examples;
  };

  Geometry geometry_on(const Shape& shape) const {
    return {options_.in_channels, detail::image_of<Axes>(shape),
            options_.kernel_size, options_.stride,
            options_.padding,     options_.dilation};
  }

  /// From images to `(examples * positions) x out_channels`.
  static void read_images(const ConstMatrixRef<S>& images, MatrixMap<S> into) {
    const Index positions = into.rows() / images.cols();
    for (Index example = 0; example < images.cols(); ++example)
      into.middleRows(example * positions, positions) =
          ConstMatrixMap<S>(images.col(example).data(), positions, into.cols());
  }
  /// And back, adding the bias in `parameters`, if any.
  void write_images(const MatrixMap<S>& outputs, const S* parameters, MatrixRef<S> images) const {
    const KroneckerStructure sizes = kronecker_structure();
    const detail::GroupedProducts<S> products(sizes);
    const Index positions = outputs.rows() / images.cols();
    for (Index example = 0; example < images.cols(); ++example)
      for (Index group = 0; group < sizes.groups; ++group) {
        const ConstMatrixRef<S> from =
            outputs.block(example * positions, group * sizes.outputs, positions, sizes.outputs);
        MatrixMap<S> to(images.col(example).data() + group * sizes.outputs * positions, positions,
                        sizes.outputs);
        if (sizes.bias && parameters)
          to = from.rowwise() + products.bias(group, parameters).transpose();
        else
          to = from;
      }
  }

  Options options_;
  Vector<S> parameters_;
};

/// On sequences `{channels, length}`.
template <RealScalar S>
using Conv1d = Conv<S, 1>;
/// On images `{channels, height, width}`.
template <RealScalar S>
using Conv2d = Conv<S, 2>;
/// On volumes `{channels, depth, height, width}`.
template <RealScalar S>
using Conv3d = Conv<S, 3>;

}  // namespace kfac
