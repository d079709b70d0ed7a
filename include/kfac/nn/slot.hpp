#pragma once

#include <string>
#include <utility>
#include <vector>

#include <kfac/core/state.hpp>
#include <kfac/nn/layer.hpp>

namespace kfac {

/// A layer that is made of others, down to slots: it can name them and list their leaves.
template <class L>
concept ContainerLayer = Layer<L> &&
    requires(L& layer, const L& constant, const std::string& name, typename L::Scalar* gradient,
             std::vector<LayerView<typename L::Scalar>>& views, std::vector<Index>& sizes) {
  layer.rename(name);
  layer.append_layers(gradient, views);
  constant.append_layer_sizes(sizes);
};

/// One layer's place in a network: its name, and where it is observed. A layer only says what there
/// is to announce; its slot announces it, if anybody listens.
template <Layer L>
class Slot {
  static_assert(LeafLayer<L> || ContainerLayer<L>, "a layer has parameters() or is a container");
  static_assert(detail::memory_use_of<L>().in_place == InPlace::Never ||
                    std::derived_from<L, ParameterFree<typename L::Scalar>>,
                "a layer that works in place has no parameters (ParameterFree)");

 public:
  using Scalar = typename L::Scalar;
  using Scratch = typename L::Scratch;

  explicit Slot(L layer) : layer_(std::move(layer)) {}

  L& layer() { return layer_; }
  const L& layer() const { return layer_; }

  Index parameter_count() const { return layer_.parameter_count(); }

  MemoryUse memory_use() const {
    if constexpr (requires { layer_.memory_use(); })
      return layer_.memory_use();
    else
      return {};
  }

  /// \throws ShapeError, naming this layer, if it cannot take `shape`
  Shape output_shape(const Shape& shape) const {
    if constexpr (ContainerLayer<L>) return layer_.output_shape(shape);
    return detail::naming_layer(name_, [&] { return layer_.output_shape(shape); });
  }

  /// What the layer's scratch takes for passes with examples of that shape.
  WorkspaceSize scratch_size(const Shape& shape, Index examples, const Mode& mode) const {
    if constexpr (requires { layer_.scratch_size(shape, examples, mode); })
      return layer_.scratch_size(shape, examples, mode);
    else if constexpr (requires { layer_.scratch_size(shape, examples); })
      return {.scratch = layer_.scratch_size(shape, examples)};
    else
      return {};
  }

  void forward(const ConstBatchView<Scalar>& x, BatchView<Scalar> y, Scratch& scratch,
               const Mode& mode) const {
    if constexpr (ContainerLayer<L> && !kTracesItself)
      if (mode.trace) trace(x, y.shape, *mode.trace);
    layer_.forward(x, y, scratch, mode);
    if constexpr (!ContainerLayer<L>)
      if (mode.trace) trace(x, y.shape, *mode.trace, &scratch);
    if constexpr (KroneckerLayer<L>)
      if (is_observed(mode)) announce_input(layer_.kronecker_input(x, scratch), mode);
    if constexpr (kAnnouncesExamples)
      if (is_observed(mode))
        hooks_.announce_forward(name_, of_network({nullptr, 1, x.examples(), 1,
                                                   SharedBatch<Scalar>::Order::ColumnMajor},
                                                  mode));
  }

  void backward(const ConstBatchView<Scalar>& x, const ConstBatchView<Scalar>& y,
                const ConstBatchView<Scalar>& grad_output, BatchView<Scalar>* grad_input,
                VectorMap<Scalar>* grad_parameters, Scratch& scratch, const Mode& mode) const {
    layer_.backward(x, y, grad_output, grad_input, grad_parameters, scratch, mode);
    if constexpr (KroneckerLayer<L>)
      if (is_observed(mode))
        announce_output_gradient(layer_.kronecker_output_gradient(grad_output, scratch), mode);
    if constexpr (kAnnouncesExamples)
      if (mode.tracking && parameter_count() > 0 && hooks_.wants_example_gradients())
        announce_example_gradients(x, y, grad_output, scratch, mode);
  }

  // For containers that apply a layer's parameters themselves (step by step in time, say).

  /// Whether anybody hears what is announced in such a pass.
  bool is_observed(const Mode& mode) const { return mode.tracking && !hooks_.empty(); }
  /// \pre is_observed(mode)
  void announce_input(const SharedBatch<Scalar>& input, const Mode& mode) const {
    hooks_.announce_input(name_, of_network(input, mode));
  }
  void announce_output_gradient(const SharedBatch<Scalar>& gradient, const Mode& mode) const {
    hooks_.announce_output_gradient(name_, of_network(gradient, mode));
  }

  void tangent(const ConstBatchView<Scalar>& x, const ConstBatchView<Scalar>& y,
               const ConstBatchView<Scalar>* x_tangent,
               const ConstVectorMap<Scalar>* parameter_tangent, BatchView<Scalar> y_tangent,
               Scratch& scratch) const {
    layer_.tangent(x, y, x_tangent, parameter_tangent, y_tangent, scratch);
  }

  void backward_tangent(const ConstBatchView<Scalar>& x, const ConstBatchView<Scalar>& y,
                        const ConstBatchView<Scalar>& grad_output,
                        const ConstBatchView<Scalar>* x_tangent,
                        const ConstVectorMap<Scalar>* parameter_tangent,
                        const ConstBatchView<Scalar>& grad_output_tangent,
                        BatchView<Scalar>* grad_input_tangent,
                        VectorMap<Scalar>* grad_parameters_tangent, Scratch& scratch) const {
    if constexpr (TwiceDifferentiableLayer<L>)
      layer_.backward_tangent(x, y, grad_output, x_tangent, parameter_tangent, grad_output_tangent,
                              grad_input_tangent, grad_parameters_tangent, scratch);
    else
      raise<StateError>(
          "kfac::Network::backward_tangent: a layer has no second derivatives, "
          "expected a TwiceDifferentiableLayer (layer '" +
          name_ + "')");
  }

  /// Tells of a pass forward, of a leaf after it, of a container before. One that does not say what
  /// `kind()` it is is left out.
  void trace(const ConstBatchView<Scalar>& x, const Shape& output, PassTrace& trace,
             const Scratch* scratch = nullptr) const {
    if constexpr (kTracesItself) {
      layer_.trace(x, output, trace);
    } else if constexpr (LeafLayer<L> || requires { L::kind(); }) {
      LayerPass pass;
      pass.name = name_;
      pass.kind = "layer";
      if constexpr (requires { L::kind(); }) pass.kind = L::kind();
      pass.is_leaf = LeafLayer<L>;
      pass.input = x.shape;
      pass.output = output;
      pass.examples = x.examples();
      if constexpr (LeafLayer<L>) pass.parameters = parameter_count();
      if constexpr (requires { layer_.multiply_adds(x.shape); }) {
        pass.multiply_adds = layer_.multiply_adds(x.shape);
      } else if constexpr (KroneckerLayer<L>) {
        const KroneckerStructure map = layer_.kronecker_structure();
        if (scratch && !map.diagonal_input)
          pass.multiply_adds =
              static_cast<double>(layer_.kronecker_input(x, *scratch).positions()) *
              static_cast<double>(map.groups * map.outputs * map.inputs);
      }
      trace.on_forward(pass);
    }
  }

  /// Visits what the layer's next pass takes from `scratch`, if anything, after this layer's name.
  void visit_scratch(StateVisitor& visitor, Scratch& scratch) const {
    if constexpr (requires { layer_.visit_scratch(visitor, scratch); }) {
      if constexpr (ContainerLayer<L>)
        layer_.visit_scratch(visitor, scratch);
      else
        visitor.under(name_ + '.', [&] { layer_.visit_scratch(visitor, scratch); });
    }
  }

  /// Takes what the last training pass left in `scratch` into the layer, if it learns so.
  void absorb(Scratch& scratch) {
    if constexpr (requires { layer_.absorb(scratch); }) layer_.absorb(scratch);
  }
  /// Visits what it has learned so, after this layer's name.
  void visit_buffers(StateVisitor& visitor) {
    if constexpr (ContainerLayer<L>) {
      if constexpr (requires { layer_.visit_buffers(visitor); }) layer_.visit_buffers(visitor);
    } else if constexpr (requires { layer_.visit_state(visitor); }) {
      visitor.under(name_ + '.', [&] { layer_.visit_state(visitor); });
    }
  }

  void rename(const std::string& name) {
    name_ = name;
    if constexpr (ContainerLayer<L>) layer_.rename(name);
  }

  /// Appends this layer, or the leaves it is made of; `gradient` points to its segment of the flat
  /// gradient.
  void append_layers(Scalar* gradient, std::vector<LayerView<Scalar>>& views) {
    if constexpr (ContainerLayer<L>) {
      layer_.append_layers(gradient, views);
    } else {
      LayerView<Scalar> view{name_, "layer", layer_.parameters(), {gradient, parameter_count()}, {},
                             {},    nullptr};
      if constexpr (requires { layer_.units(); }) view.units = layer_.units();
      if constexpr (requires { requires L::kRecurrent; }) view.recurrent = true;
      if constexpr (requires { L::kind(); }) view.kind = L::kind();
      if constexpr (requires { layer_.parameter_info(); })
        view.parameter_info = layer_.parameter_info();
      else if (parameter_count() > 0)
        view.parameter_info = {{"parameters", 0, parameter_count(), 1}};
      if constexpr (KroneckerLayer<L>) view.kronecker = layer_.kronecker_structure();
      if (parameter_count() > 0) view.hooks = &hooks_;
      view.twice_differentiable = TwiceDifferentiableLayer<L>;
      views.push_back(std::move(view));
    }
  }

  /// Appends the number of parameters of each leaf.
  void append_layer_sizes(std::vector<Index>& sizes) const {
    if constexpr (ContainerLayer<L>)
      layer_.append_layer_sizes(sizes);
    else
      sizes.push_back(parameter_count());
  }

 private:
  static constexpr bool kTracesItself =
      requires(const L& layer, const ConstBatchView<Scalar>& x, PassTrace& trace) {
    layer.trace(x, x.shape, trace);
  };
  static constexpr bool kAnnouncesExamples =
      LeafLayer<L> && !KroneckerLayer<L> && !std::derived_from<L, ParameterFree<Scalar>>;

  /// As positions of the network's examples.
  static SharedBatch<Scalar> of_network(const SharedBatch<Scalar>& batch, const Mode& mode) {
    const SharedBatch<Scalar> result =
        batch.as_use(mode.use, mode.uses).with_examples_joined(mode.joined);
    const bool fits = mode.mask && mode.mask->rows() == result.positions();
    return fits ? result.with_mask(mode.mask) : result;
  }

  void announce_example_gradients(const ConstBatchView<Scalar>& x, const ConstBatchView<Scalar>& y,
                                  const ConstBatchView<Scalar>& grad_output, Scratch& scratch,
                                  const Mode& mode) const {
    const MatrixMap<Scalar> into = hooks_.memory().map(parameter_count(), x.examples());
    if constexpr (requires { layer_.example_gradients(x, y, grad_output, into, scratch); })
      layer_.example_gradients(x, y, grad_output, into, scratch);
    else
      pass_examples(x, grad_output, into, mode);
    hooks_.announce_example_gradients(name_, of_network(SharedBatch<Scalar>(ConstMatrixMap<Scalar>(
                                                            into.data(), into.rows(), into.cols())),
                                                        mode));
  }
  /// Each example by itself, forward and backward.
  void pass_examples(const ConstBatchView<Scalar>& x, const ConstBatchView<Scalar>& grad_output,
                     MatrixMap<Scalar> into, const Mode& mode) const {
    Scratch scratch;
    Matrix<Scalar> output(grad_output.values.rows(), 1);
    for (Index n = 0; n < x.examples(); ++n) {
      const ConstBatchView<Scalar> example({x.values.col(n).data(), x.values.rows(), 1}, x.shape);
      const ConstBatchView<Scalar> gradient(
          {grad_output.values.col(n).data(), grad_output.values.rows(), 1}, grad_output.shape);
      const BatchView<Scalar> y{{output.data(), output.rows(), 1}, grad_output.shape};
      layer_.forward(example, y, scratch, mode);
      VectorMap<Scalar> column(into.col(n).data(), into.rows());
      layer_.backward(example, y, gradient, nullptr, &column, scratch, mode);
    }
  }

  L layer_;
  HookPoint<Scalar> hooks_;
  std::string name_;
};

}  // namespace kfac
