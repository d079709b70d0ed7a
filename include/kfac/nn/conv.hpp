#pragma once

#include <string>

#include <kfac/linalg/window_gradient.hpp>
#include <kfac/nn/conv_options.hpp>
#include <kfac/nn/conv_pass.hpp>
#include <kfac/nn/grouped_weights.hpp>
#include <kfac/nn/image_axes.hpp>
#include <kfac/nn/layer.hpp>
#include <kfac/nn/patch_source.hpp>

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
class Conv : public detail::GroupedWeights<S> {
  using Base = detail::GroupedWeights<S>;

 public:
  using Scalar = S;
  using Options = ConvOptions<Axes>;

  struct Scratch {
    detail::ConvPass<S, Axes> outputs, inputs;
    linalg::detail::WindowGradient<S, Axes> gradient;
    detail::PatchSource<S, Axes> patches;  ///< of the input
    detail::PlaceSource<S> places;         ///< of the output's gradient
  };

  static const char* kind() { return detail::kConvNames[Axes - 1].kind; }

  /// \throws OptionError if a field is outside its range
  Conv(const Options& options, Rng& rng) : options_(options) {
    options_.validate();
    Base::begin(kronecker_structure(), options_.kernel_size, kronecker_structure().inputs, rng);
  }

  const Options& options() const { return options_; }

  static constexpr MemoryUse memory_use() { return {InPlace::Never, false}; }

  Shape output_shape(const Shape& shape) const {
    if (shape.rank() != 1 + static_cast<int>(Axes) || shape[0] != options_.in_channels)
      raise<ShapeError>(std::string(detail::kConvNames[Axes - 1].layer) + ": 'input' has shape " +
                        shape.to_string() + ", expected " + std::to_string(options_.in_channels) +
                        " channels x " + detail::axes_names<Axes>());
    return detail::window_output_shape(detail::kConvNames[Axes - 1].layer, geometry_on(shape),
                                       shape, options_.out_channels);
  }

  Index scratch_size(const Shape& shape, Index examples) const {
    Scratch scratch;
    const ConstBatchView<S> x({nullptr, shape.size(), examples}, shape);
    scratch.patches.begin(Pass::Direction::ToPlaces, geometry_on(shape), x.values,
                          options_.workspace);
    scratch.places.begin(options_.out_channels, {nullptr, output_shape(shape).size(), examples});
    return outputs(x, scratch).panel_size() + inputs(x, scratch).panel_size() +
           scratch.patches.size_at_once() + scratch.places.size_at_once();
  }

  void forward(const ConstBatchView<S>& x, BatchView<S> y, Scratch& scratch, const Mode&) const {
    scratch.patches.begin(Pass::Direction::ToPlaces, geometry_on(x.shape), x.values,
                          options_.workspace);
    outputs(x, scratch)
        .run({{x.values.data(), weights()}}, x.examples(), biases(Base::data()), y.values.data());
  }

  void backward(const ConstBatchView<S>& x, const ConstBatchView<S>&,
                const ConstBatchView<S>& grad_output, BatchView<S>* grad_input,
                VectorMap<S>* grad_parameters, Scratch& scratch, const Mode&) const {
    scratch.places.begin(options_.out_channels, grad_output.values);
    if (grad_parameters) {
      grad_parameters->setZero();
      gradient(x, scratch)
          .add(x.examples(), x.values.data(), grad_output.values.data(), options_.bias,
               grad_parameters->data());
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
      grad_parameters_tangent->setZero();
      S* const into = grad_parameters_tangent->data();
      const auto& sum = gradient(x, scratch);
      sum.add(x.examples(), x.values.data(), grad_output_tangent.values.data(), options_.bias,
              into);
      if (x_tangent)
        sum.add_weights(x.examples(), x_tangent->values.data(), grad_output.values.data(),
                        options_.bias, into);
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
    return scratch.places.shared();
  }

 private:
  using Geometry = PatchGeometry<Axes>;
  using Pass = detail::ConvPass<S, Axes>;
  using Term = typename Pass::Term;
  using Bias = typename Pass::Bias;
  using Gradient = linalg::detail::WindowGradient<S, Axes>;

  Geometry geometry_on(const Shape& shape) const {
    return {.channels = options_.in_channels,
            .image = detail::image_of<Axes>(shape),
            .kernel = options_.kernel_size,
            .stride = options_.stride,
            .padding = options_.padding,
            .extra_padding = detail::extra_padding(options_.padding, options_.padding_end),
            .dilation = options_.dilation};
  }
  linalg::detail::WindowChannels channels() const {
    const Index groups = options_.groups;
    return {options_.in_channels / groups, options_.out_channels / groups, groups};
  }

  Pass& outputs(const ConstBatchView<S>& x, Scratch& scratch) const {
    scratch.outputs.begin(Pass::Direction::ToPlaces, geometry_on(x.shape), channels());
    return scratch.outputs;
  }
  Pass& inputs(const ConstBatchView<S>& x, Scratch& scratch) const {
    scratch.inputs.begin(Pass::Direction::ToPixels, geometry_on(x.shape), channels());
    return scratch.inputs;
  }
  Gradient& gradient(const ConstBatchView<S>& x, Scratch& scratch) const {
    scratch.gradient.begin(geometry_on(x.shape), channels());
    return scratch.gradient;
  }

  /// Those in parameters or in a tangent of them.
  linalg::detail::WindowWeights<S> weights(const S* parameters) const {
    const KroneckerStructure sizes = kronecker_structure();
    const Index taps = sizes.inputs / channels().in;
    return {.data = parameters,
            .row_step = 1,
            .channel_step = sizes.outputs * taps,
            .tap_step = sizes.outputs,
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
using Conv1d = Conv<S, 1>;
/// On images `{channels, height, width}`.
template <RealScalar S>
using Conv2d = Conv<S, 2>;
/// On volumes `{channels, depth, height, width}`.
template <RealScalar S>
using Conv3d = Conv<S, 3>;

}  // namespace kfac
