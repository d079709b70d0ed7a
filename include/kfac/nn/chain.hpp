#pragma once

#include <array>
#include <vector>

#include <kfac/nn/network.hpp>

namespace kfac {

/// The scratch of layers run one after another: theirs, and what flows between them.
template <RealScalar S, class LayerScratches>
struct ChainScratch {
  LayerScratches layers;
  std::vector<Buffer<S>> activations;  ///< of every layer but the last
  std::vector<Shape> shapes;           ///< of the output of every layer
  std::array<Buffer<S>, 2> flow;       ///< gradients (or tangents) between layers, in turn
  // Used by `backward_tangent` alone:
  std::vector<Buffer<S>> tangents;        ///< of the activations
  std::array<Buffer<S>, 2> tangent_flow;  ///< tangents of the gradients between layers, in turn
};

/// Layers run one after another, whatever holds them. `Derived` holds the slots and offers
/// `slot_count()`; `visit_slots(f)`, which calls f(slot, index) for each; `for_each_slot(scratches,
/// f)`, which calls f(slot, its scratch, index) for each; and `for_each_slot_reversed`, the same
/// last first. `AllTwiceDifferentiable` is whether every layer can be a TwiceDifferentiableLayer:
/// one that is chosen at run time says so then.
template <class Derived, RealScalar S, class LayerScratches, bool AllTwiceDifferentiable>
class Chain : public Network<Derived, S, ChainScratch<S, LayerScratches>> {
  using Base = Network<Derived, S, ChainScratch<S, LayerScratches>>;

 public:
  using Scalar = S;
  using Scratch = ChainScratch<S, LayerScratches>;
  static constexpr bool kTwiceDifferentiable = AllTwiceDifferentiable;
  using Base::backward;
  using Base::backward_tangent;
  using Base::forward;
  using Base::tangent;

  Index parameter_count() const {
    Index count = 0;
    derived().visit_slots([&](const auto& slot, std::size_t) { count += slot.parameter_count(); });
    return count;
  }

  Shape output_shape(Shape shape) const {
    derived().visit_slots([&](const auto& slot, std::size_t) { shape = slot.output_shape(shape); });
    return shape;
  }

  void forward(const ConstBatchView<S>& x, BatchView<S> y, Scratch& scratch,
               const Mode& mode) const {
    const std::size_t count = derived().slot_count();
    scratch.activations.resize(count - 1);
    scratch.shapes.resize(count);
    derived().for_each_slot(scratch.layers, [&](const auto& slot, auto& own, std::size_t i) {
      const ConstBatchView<S> input = input_of(i, x, scratch);
      scratch.shapes[i] = slot.output_shape(input.shape);
      if (i + 1 < count)
        slot.forward(input, activation(i, x.examples(), scratch), own, mode);
      else
        slot.forward(input, y, own, mode);
    });
  }

  void backward(const ConstBatchView<S>& x, const ConstBatchView<S>& y,
                const ConstBatchView<S>& grad_output, BatchView<S>* grad_input,
                VectorMap<S>* grad_parameters, Scratch& scratch, const Mode& mode) const {
    const std::size_t first = grad_input ? 0 : first_with_parameters();
    Index end = grad_parameters ? grad_parameters->size() : 0;
    derived().for_each_slot_reversed(scratch.layers, [&](const auto& slot, auto& own,
                                                         std::size_t i) {
      if (i < first) return;
      const bool last = i + 1 == derived().slot_count();
      const ConstBatchView<S> input = input_of(i, x, scratch);
      const ConstBatchView<S> output = last ? y : activation(i, x.examples(), scratch);
      const ConstBatchView<S> gradient = last ? grad_output : flow(i, output, scratch);

      const Index parameters = grad_parameters ? slot.parameter_count() : 0;
      end -= parameters;
      VectorMap<S> segment(grad_parameters ? grad_parameters->data() + end : nullptr, parameters);
      VectorMap<S>* wanted = grad_parameters ? &segment : nullptr;

      if (i > first) {
        BatchView<S> propagated = flow(i - 1, input, scratch);
        slot.backward(input, output, gradient, &propagated, wanted, own, mode);
      } else {
        slot.backward(input, output, gradient, grad_input, wanted, own, mode);
      }
    });
  }

  void tangent(const ConstBatchView<S>& x, const ConstBatchView<S>& y,
               const ConstBatchView<S>* x_tangent, const ConstVectorMap<S>* parameter_tangent,
               BatchView<S> y_tangent, Scratch& scratch) const {
    Index begin = 0;
    derived().for_each_slot(scratch.layers, [&](const auto& slot, auto& own, std::size_t i) {
      const bool last = i + 1 == derived().slot_count();
      const ConstBatchView<S> input = input_of(i, x, scratch);
      const ConstBatchView<S> output = last ? y : activation(i, x.examples(), scratch);
      const ConstVectorMap<S> segment(
          parameter_tangent ? parameter_tangent->data() + begin : nullptr,
          parameter_tangent ? slot.parameter_count() : 0);
      begin += segment.size();
      const ConstVectorMap<S>* direction = parameter_tangent ? &segment : nullptr;
      BatchView<S> result = last ? y_tangent : flow(i, output, scratch);
      if (i == 0) {
        slot.tangent(input, output, x_tangent, direction, result, own);
      } else {
        const ConstBatchView<S> incoming = flow(i - 1, input, scratch);
        slot.tangent(input, output, &incoming, direction, result, own);
      }
    });
  }

  /// Forwards with the tangents of all activations, which are kept, and back with the gradients and
  /// their tangents together.
  void backward_tangent(const ConstBatchView<S>& x, const ConstBatchView<S>& y,
                        const ConstBatchView<S>& grad_output, const ConstBatchView<S>* x_tangent,
                        const ConstVectorMap<S>* parameter_tangent,
                        const ConstBatchView<S>& grad_output_tangent,
                        BatchView<S>* grad_input_tangent, VectorMap<S>* grad_parameters_tangent,
                        Scratch& scratch) const requires AllTwiceDifferentiable {
    keep_tangents(x, x_tangent, parameter_tangent, scratch);
    const std::size_t first = grad_input_tangent ? 0 : first_with_parameters();
    Index end = parameter_count();
    derived().for_each_slot_reversed(scratch.layers, [&](const auto& slot, auto& own,
                                                         std::size_t i) {
      if (i < first) return;
      const bool last = i + 1 == derived().slot_count();
      const ConstBatchView<S> input = input_of(i, x, scratch);
      const ConstBatchView<S> output = last ? y : activation(i, x.examples(), scratch);
      const ConstBatchView<S> gradient = last ? grad_output : flow(i, output, scratch);
      const ConstBatchView<S> gradient_tangent =
          last ? grad_output_tangent : ConstBatchView<S>(view(scratch.tangent_flow[i % 2], output));

      const Index parameters = slot.parameter_count();
      end -= parameters;
      const ConstVectorMap<S> direction(
          parameter_tangent ? parameter_tangent->data() + end : nullptr,
          parameter_tangent ? parameters : 0);
      VectorMap<S> segment(
          grad_parameters_tangent ? grad_parameters_tangent->data() + end : nullptr,
          grad_parameters_tangent ? parameters : 0);
      const ConstVectorMap<S>* along = parameter_tangent ? &direction : nullptr;
      VectorMap<S>* wanted = grad_parameters_tangent ? &segment : nullptr;

      if (i == 0) {
        slot.backward_tangent(input, output, gradient, x_tangent, along, gradient_tangent,
                              grad_input_tangent, wanted, own);
        return;
      }
      const ConstBatchView<S> input_tangent = view(scratch.tangents[i - 1], input);
      if (i == first) {
        slot.backward_tangent(input, output, gradient, &input_tangent, along, gradient_tangent,
                              nullptr, wanted, own);
        return;
      }
      BatchView<S> propagated_tangent = view(scratch.tangent_flow[(i - 1) % 2], input);
      slot.backward_tangent(input, output, gradient, &input_tangent, along, gradient_tangent,
                            &propagated_tangent, wanted, own);
      BatchView<S> propagated = flow(i - 1, input, scratch);
      slot.backward(input, output, gradient, &propagated, nullptr, own, Mode{false, false});
    });
  }

  void visit_scratch(StateVisitor& visitor, Scratch& scratch) const {
    derived().for_each_slot(scratch.layers, [&](const auto& slot, auto& own, std::size_t) {
      slot.visit_scratch(visitor, own);
    });
  }

  void rename(const std::string& name) {
    const std::string prefix = name.empty() ? "" : name + '.';
    derived().visit_slots(
        [&](auto& slot, std::size_t i) { slot.rename(prefix + std::to_string(i)); });
  }

  void append_layers(S* gradient, std::vector<LayerView<S>>& views) {
    derived().visit_slots([&](auto& slot, std::size_t) {
      slot.append_layers(gradient, views);
      gradient += slot.parameter_count();
    });
  }
  void append_layer_sizes(std::vector<Index>& sizes) const {
    derived().visit_slots([&](const auto& slot, std::size_t) { slot.append_layer_sizes(sizes); });
  }

 private:
  Derived& derived() { return static_cast<Derived&>(*this); }
  const Derived& derived() const { return static_cast<const Derived&>(*this); }

  /// The tangents of every activation but the last.
  void keep_tangents(const ConstBatchView<S>& x, const ConstBatchView<S>* x_tangent,
                     const ConstVectorMap<S>* parameter_tangent, Scratch& scratch) const {
    scratch.tangents.resize(scratch.activations.size());
    Index begin = 0;
    derived().for_each_slot(scratch.layers, [&](const auto& slot, auto& own, std::size_t i) {
      if (i + 1 == derived().slot_count()) return;
      const ConstBatchView<S> input = input_of(i, x, scratch);
      const BatchView<S> output = activation(i, x.examples(), scratch);
      const ConstVectorMap<S> segment(
          parameter_tangent ? parameter_tangent->data() + begin : nullptr,
          parameter_tangent ? slot.parameter_count() : 0);
      begin += segment.size();
      const ConstVectorMap<S>* direction = parameter_tangent ? &segment : nullptr;
      BatchView<S> result = view(scratch.tangents[i], output);
      if (i == 0) {
        slot.tangent(input, output, x_tangent, direction, result, own);
      } else {
        const ConstBatchView<S> incoming = view(scratch.tangents[i - 1], input);
        slot.tangent(input, output, &incoming, direction, result, own);
      }
    });
  }

  /// Nothing below it needs a gradient.
  std::size_t first_with_parameters() const {
    std::size_t first = derived().slot_count();
    derived().visit_slots([&](const auto& slot, std::size_t i) {
      if (slot.parameter_count() > 0 && i < first) first = i;
    });
    return first;
  }

  static BatchView<S> activation(std::size_t i, Index examples, Scratch& scratch) {
    return {scratch.activations[i].map(scratch.shapes[i].size(), examples), scratch.shapes[i]};
  }
  static ConstBatchView<S> input_of(std::size_t i, const ConstBatchView<S>& x, Scratch& scratch) {
    return i == 0 ? x : ConstBatchView<S>(activation(i - 1, x.examples(), scratch));
  }
  static BatchView<S> view(Buffer<S>& buffer, const ConstBatchView<S>& like) {
    return {buffer.map(like.values.rows(), like.values.cols()), like.shape};
  }
  /// What flows at the output of layer i, which looks like `like`.
  static BatchView<S> flow(std::size_t i, const ConstBatchView<S>& like, Scratch& scratch) {
    return view(scratch.flow[i % 2], like);
  }
};

}  // namespace kfac
