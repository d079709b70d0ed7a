#pragma once

#include <concepts>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include <kfac/nn/input_jets.hpp>
#include <kfac/nn/layer.hpp>

namespace kfac {

/// Of a `JetNetwork` that puts out the jets themselves.
struct NoResidual {};

namespace detail {

/// The one layer of a JetNetwork: from coordinates to jets, through the network on jets, to a
/// residual of what it puts out.
template <class Body, class Residual, class Features>
class JetPass {
  static constexpr bool kHasResidual = !std::same_as<Residual, NoResidual>;

 public:
  using Scalar = typename Body::Scalar;
  using S = Scalar;
  struct Scratch {
    typename Body::Scratch body;
    Matrix<S> input, output;
    Matrix<S> gradient;  ///< or tangent, of the output
    Shape input_shape, output_shape;
    /// Of the residuals with respect to the output, `residuals x entries` for each example.
    Matrix<S> derivatives;
    bool has_derivatives = false;
  };

  JetPass(Body body, JetSlots<S> slots, Residual residual, Features features)
      : body_(std::move(body)),
        slots_(std::move(slots)),
        residual_(std::move(residual)),
        features_(std::move(features)) {}

  const JetSlots<S>& slots() const { return slots_; }
  Index parameter_count() const { return body_.parameter_count(); }
  static constexpr MemoryUse memory_use() { return {InPlace::Never, !kHasResidual}; }

  /// Of residuals their number; of jets {slots, outputs}.
  Shape output_shape(const Shape& shape) const {
    if (shape.rank() != 1 || shape.back() != slots_.inputs())
      raise<ShapeError>("kfac::JetNetwork: 'input' has shape " + shape.to_string() + ", expected " +
                        std::to_string(slots_.inputs()) + " coordinates");
    const Shape jets = body_.output_shape(input_shape());
    if constexpr (kHasResidual) {
      const Vector<S> zero = Vector<S>::Zero(slots_.inputs());
      const Vector<S> output = Vector<S>::Zero(jets.size());
      return {count_of<S>(residual_(zero, JetValues<S>(output.data(), jets.back(), firsts())))};
    } else {
      return jets;
    }
  }

  WorkspaceSize scratch_size(const Shape&, Index examples, const Mode& mode) const {
    const Shape input = input_shape();
    WorkspaceSize size = body_.scratch_size(input, examples, mode);
    size.activations += input.size() * examples;
    if (kHasResidual) {
      const Index outputs = body_.output_shape(input).size() * examples;
      size.activations += outputs;
      size.gradients += outputs;
      size.scratch += outputs * output_shape({slots_.inputs()}).size();
    }
    return size;
  }

  void forward(const ConstBatchView<S>& x, BatchView<S> y, Scratch& scratch,
               const Mode& mode) const {
    scratch.input = input_jets<S>(slots_, x.values, features_);
    scratch.input_shape = {slots_.count(), scratch.input.rows() / slots_.count()};
    scratch.output_shape = body_.output_shape(scratch.input_shape);
    scratch.has_derivatives = false;
    if constexpr (kHasResidual) {
      scratch.output.resize(scratch.output_shape.size(), x.examples());
      body_.forward(input(scratch), view(scratch.output, scratch.output_shape), scratch.body, mode);
      for (Index n = 0; n < x.examples(); ++n) {
        const auto result =
            residual_(x.values.col(n), values(scratch.output.col(n).data(), scratch));
        for (Index k = 0; k < y.values.rows(); ++k) y.values(k, n) = entry_of<S>(result, k);
      }
    } else {
      body_.forward(input(scratch), y, scratch.body, mode);
    }
  }

  void backward(const ConstBatchView<S>& x, const ConstBatchView<S>& y,
                const ConstBatchView<S>& grad_output, BatchView<S>* grad_input,
                VectorMap<S>* grad_parameters, Scratch& scratch, const Mode& mode) const {
    if (grad_input)
      raise<StateError>(
          "kfac::JetNetwork::backward: a gradient with respect to coordinates was asked for, "
          "expected the first derivatives of a forward pass to be used");
    if constexpr (kHasResidual) {
      find_derivatives(x, y.values.rows(), scratch);
      scratch.gradient.resize(scratch.output.rows(), scratch.output.cols());
      for (Index n = 0; n < x.examples(); ++n)
        scratch.gradient.col(n).noalias() =
            derivatives(n, scratch).transpose() * grad_output.values.col(n);
      body_.backward(input(scratch), view(scratch.output, scratch.output_shape),
                     view(scratch.gradient, scratch.output_shape), nullptr, grad_parameters,
                     scratch.body, mode);
    } else {
      body_.backward(input(scratch), y, grad_output, nullptr, grad_parameters, scratch.body, mode);
    }
  }

  void tangent(const ConstBatchView<S>& x, const ConstBatchView<S>& y,
               const ConstBatchView<S>* x_tangent, const ConstVectorMap<S>* parameter_tangent,
               BatchView<S> y_tangent, Scratch& scratch) const {
    if (x_tangent)
      raise<StateError>(
          "kfac::JetNetwork::tangent: a tangent of coordinates was given, expected none");
    if constexpr (kHasResidual) {
      find_derivatives(x, y.values.rows(), scratch);
      scratch.gradient.resize(scratch.output.rows(), scratch.output.cols());
      body_.tangent(input(scratch), view(scratch.output, scratch.output_shape), nullptr,
                    parameter_tangent, view(scratch.gradient, scratch.output_shape), scratch.body);
      for (Index n = 0; n < x.examples(); ++n)
        y_tangent.values.col(n).noalias() = derivatives(n, scratch) * scratch.gradient.col(n);
    } else {
      body_.tangent(input(scratch), y, nullptr, parameter_tangent, y_tangent, scratch.body);
    }
  }

  /// The leaves keep the names that they have in the network they are from.
  void rename(const std::string&) { body_.rename(""); }
  void append_layers(S* gradient, std::vector<LayerView<S>>& views) {
    body_.append_layers(gradient, views);
  }
  void append_layer_sizes(std::vector<Index>& sizes) const { body_.append_layer_sizes(sizes); }

 private:
  Index firsts() const { return slots_.firsts(); }
  /// What the network is given, of one example.
  Shape input_shape() const {
    const Matrix<S> origin = Matrix<S>::Zero(slots_.inputs(), 1);
    if constexpr (std::same_as<Features, NoFeatures>)
      return {slots_.count(), slots_.inputs()};
    else
      return {slots_.count(), feature_values<S>(origin, features_).rows()};
  }
  static BatchView<S> view(Matrix<S>& values, const Shape& shape) {
    return {{values.data(), values.rows(), values.cols()}, shape};
  }
  static BatchView<S> input(Scratch& scratch) { return view(scratch.input, scratch.input_shape); }
  JetValues<S> values(const S* data, const Scratch& scratch) const {
    return {data, scratch.output_shape.back(), firsts()};
  }
  static ConstMatrixMap<S> derivatives(Index n, const Scratch& scratch) {
    const Index entries = scratch.output.rows();
    return {scratch.derivatives.col(n).data(), scratch.derivatives.rows() / entries, entries};
  }

  /// Of each residual with respect to all slots of all outputs.
  void find_derivatives(const ConstBatchView<S>& x, Index residuals, Scratch& scratch) const {
    if (scratch.has_derivatives) return;
    const Index entries = scratch.output.rows();
    scratch.derivatives.setZero(residuals * entries, x.examples());
    std::vector<Jet<S>> jets(static_cast<std::size_t>(entries));
    for (Index n = 0; n < x.examples(); ++n) {
      for (Index j = 0; j < entries; ++j) {
        typename Jet<S>::Array unit = Jet<S>::Array::Zero(entries);
        unit(j) = 1;
        jets[static_cast<std::size_t>(j)] = Jet<S>(scratch.output(j, n), std::move(unit));
      }
      const auto result = residual_(
          x.values.col(n), JetValues<Jet<S>>(jets.data(), scratch.output_shape.back(), firsts()));
      MatrixMap<S> rows(scratch.derivatives.col(n).data(), residuals, entries);
      for (Index k = 0; k < residuals; ++k) {
        const Jet<S> jet = entry_of<Jet<S>>(result, k);
        if (jet.firsts().size() > 0) rows.row(k) = jet.firsts().matrix().transpose();
      }
    }
    scratch.has_derivatives = true;
  }

  Body body_;
  JetSlots<S> slots_;
  Residual residual_;
  Features features_;
};

}  // namespace detail

}  // namespace kfac
