#pragma once

#include <string>

#include <kfac/core/buffer.hpp>
#include <kfac/linalg/window_gradient.hpp>
#include <kfac/nn/conv_pass.hpp>
#include <kfac/nn/conv_transpose_options.hpp>
#include <kfac/nn/grouped_weights.hpp>
#include <kfac/nn/image_axes.hpp>
#include <kfac/nn/layer.hpp>
#include <kfac/nn/patch_source.hpp>

namespace kfac {

/// The transpose of a convolution, as torch.nn.ConvTranspose1d, ConvTranspose2d and
/// ConvTranspose3d: every pixel of an image `{in_channels, ...}` puts its multiple of the kernel on
/// the larger image `{out_channels, ...}`, where those of neighbours overlap and add up. With a
/// stride it is what decoders and generators enlarge images by:
///
///     // 16 channels of 7x7 pixels to 8 of 14x14.
///     kfac::ConvTranspose2d<float> up({.in_channels = 16, .out_channels = 8,
///                                      .kernel_size = {4, 4}, .stride = {2, 2},
///                                      .padding = {1, 1}}, rng);
///
/// Along an axis of n pixels the output has (n - 1) stride - 2 padding + dilation (kernel - 1) +
/// output_padding + 1.
///
/// It is a linear map too: each output pixel is W times the patch of input pixels that reach it,
/// zero where an entry of the kernel has none there, plus b. So it has the parameters, gradients
/// and Kronecker factors of `Conv`, positions being output pixels. Parameters, for each group:
/// "weight", `out_channels/groups x in_channels/groups*taps` with columns in the order (input
/// channel, then the kernel's axes), and "bias", `out_channels/groups`; uniform in
/// +-1/sqrt(out_channels/groups*taps) like PyTorch's default. PyTorch's kernel
/// `[in, out/groups, k1, ...]` has the same entries: `weight(o, (c, k))` is `[c, o, k]`.
/// \source Dumoulin and Visin, A guide to convolution arithmetic for deep learning, 2016
/// \source Grosse and Martens, A Kronecker-factored approximate Fisher matrix for convolution
///         layers, 2016
template <RealScalar S, std::size_t Axes>
class ConvTranspose : public detail::GroupedWeights<S> {
  using Base = detail::GroupedWeights<S>;

 public:
  using Scalar = S;
  using Options = ConvTransposeOptions<Axes>;

  struct Scratch {
    detail::ConvPass<S, Axes> outputs, inputs;
    linalg::detail::WindowGradient<S, Axes> gradient;
    Buffer<S> transposed;                  ///< the gradient of the weights as it is summed
    detail::PatchSource<S, Axes> patches;  ///< of the input, at output pixels
    detail::PlaceSource<S> pixels;         ///< of the output's gradient
  };

  static const char* kind() { return detail::kConvTransposeNames[Axes - 1].kind; }

  /// \throws OptionError if a field is outside its range
  ConvTranspose(const Options& options, Rng& rng) : options_(options) {
    options_.validate();
    const KroneckerStructure sizes = kronecker_structure();
    Base::begin(sizes, options_.kernel_size, sizes.outputs * options_.taps(), rng);
  }

  const Options& options() const { return options_; }

  static constexpr MemoryUse memory_use() { return {InPlace::Never, false}; }

  Shape output_shape(const Shape& shape) const {
    const char* const where = detail::kConvTransposeNames[Axes - 1].layer;
    if (shape.rank() != 1 + static_cast<int>(Axes) || shape[0] != options_.in_channels)
      raise<ShapeError>(std::string(where) + ": 'input' has shape " + shape.to_string() +
                        ", expected " + std::to_string(options_.in_channels) + " channels x " +
                        detail::axes_names<Axes>());
    const Geometry geometry = geometry_on(shape);
    Shape result{options_.out_channels};
    for (const Index pixels : geometry.image) {
      if (pixels < 1)
        raise<ShapeError>(std::string(where) + ": 'input' has shape " + shape.to_string() +
                          ", expected more pixels than the padding leaves out");
      result.push_back(pixels);
    }
    return result;
  }

  Index scratch_size(const Shape& shape, Index examples) const {
    Scratch scratch;
    const ConstBatchView<S> x({nullptr, shape.size(), examples}, shape);
    begin_sources(x, scratch);
    scratch.pixels.begin(options_.out_channels, {nullptr, output_shape(shape).size(), examples});
    return outputs(x, scratch).panel_size() + inputs(x, scratch).panel_size() + weight_count() +
           scratch.patches.size_at_once() + scratch.pixels.size_at_once();
  }

  void forward(const ConstBatchView<S>& x, BatchView<S> y, Scratch& scratch, const Mode&) const {
    begin_sources(x, scratch);
    outputs(x, scratch)
        .run({{x.values.data(), weights()}}, x.examples(), biases(Base::data()), y.values.data());
  }

  void backward(const ConstBatchView<S>& x, const ConstBatchView<S>&,
                const ConstBatchView<S>& grad_output, BatchView<S>* grad_input,
                VectorMap<S>* grad_parameters, Scratch& scratch, const Mode&) const {
    scratch.pixels.begin(options_.out_channels, grad_output.values);
    if (grad_parameters) {
      sum_gradient({{x.values.data(), grad_output.values.data()}}, x, scratch,
                   grad_parameters->data());
      sum_biases(grad_output, grad_parameters->data());
    }
    if (grad_input)
      inputs(x, scratch)
          .run({{grad_output.values.data(), weights()}}, x.examples(), {},
               grad_input->values.data());
  }

  void tangent(const ConstBatchView<S>& x, const ConstBatchView<S>&,
               const ConstBatchView<S>* x_tangent, const ConstVectorMap<S>* parameter_tangent,
               BatchView<S> y_tangent, Scratch& scratch) const {
    Pass& pass = outputs(x, scratch);
    S* const into = y_tangent.values.data();
    if (!parameter_tangent) {
      if (x_tangent)
        pass.run({{x_tangent->values.data(), weights()}}, x.examples(), {}, into);
      else
        y_tangent.values.setZero();
      return;
    }
    const Term term{x.values.data(), weights(parameter_tangent->data())};
    const Bias bias = biases(parameter_tangent->data());
    if (x_tangent)
      pass.run({term, {x_tangent->values.data(), weights()}}, x.examples(), bias, into);
    else
      pass.run({term}, x.examples(), bias, into);
  }

  void backward_tangent(const ConstBatchView<S>& x, const ConstBatchView<S>&,
                        const ConstBatchView<S>& grad_output, const ConstBatchView<S>* x_tangent,
                        const ConstVectorMap<S>* parameter_tangent,
                        const ConstBatchView<S>& grad_output_tangent,
                        BatchView<S>* grad_input_tangent, VectorMap<S>* grad_parameters_tangent,
                        Scratch& scratch) const {
    if (grad_parameters_tangent) {
      S* const into = grad_parameters_tangent->data();
      const Outer outer{x.values.data(), grad_output_tangent.values.data()};
      if (x_tangent)
        sum_gradient({outer, {x_tangent->values.data(), grad_output.values.data()}}, x, scratch,
                     into);
      else
        sum_gradient({outer}, x, scratch, into);
      sum_biases(grad_output_tangent, into);
    }
    if (!grad_input_tangent) return;
    Pass& pass = inputs(x, scratch);
    S* const into = grad_input_tangent->values.data();
    const Term term{grad_output_tangent.values.data(), weights()};
    if (parameter_tangent)
      pass.run({term, {grad_output.values.data(), weights(parameter_tangent->data())}},
               x.examples(), {}, into);
    else
      pass.run({term}, x.examples(), {}, into);
  }

  KroneckerStructure kronecker_structure() const {
    return {.inputs = options_.in_channels / options_.groups * options_.taps(),
            .outputs = options_.out_channels / options_.groups,
            .bias = options_.bias,
            .groups = options_.groups};
  }
  SharedBatch<S> kronecker_input(const ConstBatchView<S>&, const Scratch& scratch) const {
    return scratch.patches.shared();
  }
  SharedBatch<S> kronecker_output_gradient(const ConstBatchView<S>&, const Scratch& scratch) const {
    return scratch.pixels.shared();
  }

  /// Of a pass forward with one example: no patch's zeros are multiplied.
  double multiply_adds(const Shape& shape) const {
    const Index pixels = shape.size() / options_.in_channels;
    return static_cast<double>(pixels) * static_cast<double>(weight_count());
  }

 private:
  using Geometry = PatchGeometry<Axes>;
  using Pass = detail::ConvPass<S, Axes>;
  using Term = typename Pass::Term;
  using Bias = typename Pass::Bias;

  /// The images that outer products of pixels are summed of.
  struct Outer {
    const S* inputs;
    const S* outputs;
  };

  // All passes are those of the convolution from outputs to inputs, the other way round: its image
  // is the output, its places are the pixels of the input.
  Geometry geometry_on(const Shape& shape) const {
    const std::array<Index, Axes> pixels = detail::image_of<Axes>(shape);
    Geometry geometry{
        .channels = options_.in_channels,
        .kernel = options_.kernel_size,
        .stride = options_.stride,
        .padding = options_.padding,
        .extra_padding = detail::extra_padding(options_.padding, options_.padding_end),
        .dilation = options_.dilation};
    for (std::size_t axis = 0; axis < Axes; ++axis) {
      geometry.extra_padding[axis] -= options_.output_padding[axis];
      geometry.image[axis] = (pixels[axis] - 1) * geometry.stride[axis] -
                             2 * geometry.padding[axis] - geometry.extra_padding[axis] +
                             geometry.dilation[axis] * (geometry.kernel[axis] - 1) + 1;
    }
    return geometry;
  }
  linalg::detail::WindowChannels channels() const {
    const Index groups = options_.groups;
    return {.in = options_.out_channels / groups,
            .out = options_.in_channels / groups,
            .groups = groups};
  }
  Index weight_count() const {
    const KroneckerStructure sizes = kronecker_structure();
    return sizes.groups * sizes.outputs * sizes.inputs;
  }

  void begin_sources(const ConstBatchView<S>& x, Scratch& scratch) const {
    scratch.patches.begin(Pass::Direction::ToPixels, geometry_on(x.shape), x.values,
                          options_.workspace);
  }
  Pass& outputs(const ConstBatchView<S>& x, Scratch& scratch) const {
    scratch.outputs.begin(Pass::Direction::ToPixels, geometry_on(x.shape), channels());
    return scratch.outputs;
  }
  Pass& inputs(const ConstBatchView<S>& x, Scratch& scratch) const {
    scratch.inputs.begin(Pass::Direction::ToPlaces, geometry_on(x.shape), channels());
    return scratch.inputs;
  }

  /// Writes the gradient of all weights.
  void sum_gradient(std::initializer_list<Outer> products, const ConstBatchView<S>& x,
                    Scratch& scratch, S* parameters) const {
    scratch.gradient.begin(geometry_on(x.shape), channels());
    const KroneckerStructure sizes = kronecker_structure();
    const Index taps = options_.taps(), inputs = channels().out;
    // In the order of the convolution: for each output channel and entry of the kernel the weights
    // of all input channels.
    MatrixMap<S> sums = scratch.transposed.map(inputs, sizes.groups * sizes.outputs * taps);
    sums.setZero();
    for (const Outer& product : products)
      scratch.gradient.add_weights(x.examples(), product.outputs, product.inputs, false,
                                   sums.data());
    for (Index group = 0; group < sizes.groups; ++group) {
      MatrixMap<S> gradient(parameters + group * Base::group_size(), sizes.outputs, sizes.inputs);
      for (Index output = 0; output < sizes.outputs; ++output)
        for (Index tap = 0; tap < taps; ++tap)
          for (Index input = 0; input < inputs; ++input)
            gradient(output, input * taps + tap) =
                sums(input, (group * sizes.outputs + output) * taps + tap);
    }
  }
  void sum_biases(const ConstBatchView<S>& grad_output, S* parameters) const {
    if (!options_.bias) return;
    const KroneckerStructure sizes = kronecker_structure();
    const Index pixels = grad_output.values.rows() / options_.out_channels;
    for (Index channel = 0; channel < options_.out_channels; ++channel)
      parameters[channel / sizes.outputs * Base::group_size() + sizes.outputs * sizes.inputs +
                 channel % sizes.outputs] =
          grad_output.values.middleRows(channel * pixels, pixels).sum();
  }

  /// Those in parameters or in a tangent of them.
  linalg::detail::WindowWeights<S> weights(const S* parameters) const {
    const Index outputs = channels().in;
    return {.data = parameters,
            .row_step = outputs * options_.taps(),
            .channel_step = 1,
            .tap_step = outputs,
            .group_step = Base::group_size()};
  }
  linalg::detail::WindowWeights<S> weights() const { return weights(Base::data()); }
  Bias biases(const S* parameters) const {
    if (!options_.bias) return {};
    const KroneckerStructure sizes = kronecker_structure();
    return {parameters + sizes.outputs * sizes.inputs, sizes.outputs, Base::group_size()};
  }

  Options options_;
};

/// On sequences `{channels, length}`.
template <RealScalar S>
using ConvTranspose1d = ConvTranspose<S, 1>;
/// On images `{channels, height, width}`.
template <RealScalar S>
using ConvTranspose2d = ConvTranspose<S, 2>;
/// On volumes `{channels, depth, height, width}`.
template <RealScalar S>
using ConvTranspose3d = ConvTranspose<S, 3>;

}  // namespace kfac
