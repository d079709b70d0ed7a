#pragma once

#include <vector>

#include <kfac/nn/chain_memory.hpp>
#include <kfac/nn/network.hpp>

namespace kfac {

/// Layers run one after another, whatever holds them. A layer that can work in place does so where
/// no other needs what it replaces. `Derived` holds the slots and offers `slot_count()`;
/// `placements()`, where the layers' outputs are; `visit_slots(f)`, which calls f(slot, index) for
/// each; `for_each_slot(scratches, f)`, which calls f(slot, its scratch, index) for each; and
/// `for_each_slot_reversed`, the same last first. `AllTwiceDifferentiable` is whether every layer
/// can be a TwiceDifferentiableLayer: one that is chosen at run time says so then.
template <class Derived, RealScalar S, class ScratchType, class Sizes, bool AllTwiceDifferentiable>
class Chain : public Network<Derived, S, ScratchType, Sizes> {
  using Base = Network<Derived, S, ScratchType, Sizes>;

 public:
  using Scalar = S;
  using Scratch = ScratchType;
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

  /// What passes forward and back take of the scratch, that of the layers included.
  WorkspaceSize scratch_size(const Shape& shape, Index examples, const Mode& mode) const {
    decltype(Scratch::places) places{};
    WorkspaceSize size;
    const Index outputs = place(shape, examples, places);
    size.activations = Buffer<S, Sizes::kActivations>::room_for(outputs);
    if (kSharesMemory && mode.once) {
      size.gradients = share(places, examples, outputs).size - outputs;
    } else {
      std::array<detail::FlowSize<S>, 2> buffers;
      detail::Flow<S, decltype(buffers)> flow(nullptr, buffers);
      for_each_gradient(places, examples,
                        [&](std::size_t i, Index gradient) { next(flow, i, gradient); });
      for (const detail::FlowSize<S>& buffer : buffers)
        size.gradients += Buffer<S, Sizes::kFlow>::room_for(buffer.size());
    }
    derived().visit_slots([&](const auto& slot, std::size_t i) {
      size += slot.scratch_size(i == 0 ? shape : places[i - 1].shape, examples, mode);
    });
    return size;
  }

  void forward(const ConstBatchView<S>& x, BatchView<S> y, Scratch& scratch,
               const Mode& mode) const {
    const Index outputs = place(x.shape, x.examples(), scratch.places);
    if (kSharesMemory && mode.once) {
      scratch.shared = share(scratch.places, x.examples(), outputs);
      scratch.activations.map(scratch.shared.size, 1);
    } else {
      scratch.shared = {};
      scratch.activations.map(outputs, 1);
    }
    const Batch batch(*this, x, y.values.data(), scratch);
    derived().for_each_slot(scratch.layers, [&](const auto& slot, auto& own, std::size_t i) {
      const Placement& placement = derived().placements()[i];
      if (placement.forward_in_place && placement.keeps) {
        if (mode.trace) slot.trace(batch.input(i), scratch.places[i].shape, *mode.trace);
        return;
      }
      S* data = placement.output == Memory::Output
                    ? y.values.data()
                    : scratch.activations.data() + scratch.places[i].offset;
      slot.forward(batch.input(i), writable(batch.output_like(i, data), data), own, mode);
    });
  }

  void backward(const ConstBatchView<S>& x, const ConstBatchView<S>& y,
                const ConstBatchView<S>& grad_output, BatchView<S>* grad_input,
                VectorMap<S>* grad_parameters, Scratch& scratch, const Mode& mode) const {
    const Batch batch(*this, x, y.values.data(), scratch);
    // Those of layers below the first that has parameters have no place there.
    const bool fits = !grad_input || first_with_parameters() == 0;
    if (kSharesMemory && mode.once && scratch.shared.size > 0 && fits) {
      detail::ReplacingFlow<S> flow(grad_output.values.data(), scratch.activations.data(),
                                    scratch.shared);
      return pull_back(batch, flow, grad_input, grad_parameters, scratch, mode);
    }
    detail::Flow flow(grad_output.values.data(), scratch.flow);
    pull_back(batch, flow, grad_input, grad_parameters, scratch, mode);
  }

  void tangent(const ConstBatchView<S>& x, const ConstBatchView<S>& y,
               const ConstBatchView<S>* x_tangent, const ConstVectorMap<S>* parameter_tangent,
               BatchView<S> y_tangent, Scratch& scratch) const {
    const Batch batch(*this, x, y.values.data(), scratch);
    detail::Flow flow(x_tangent ? x_tangent->values.data() : nullptr, scratch.flow);
    Index begin = 0;
    derived().for_each_slot(scratch.layers, [&](const auto& slot, auto& own, std::size_t i) {
      const Placement& placement = derived().placements()[i];
      const bool known = i > 0 || x_tangent;
      if (placement.keeps && known && !placement.tangent_to_output) return;
      const ConstBatchView<S> output = batch.output(i);
      const ConstBatchView<S> incoming = batch.input_like(i, flow.data());
      S* data = placement.tangent_to_output ? flow.next(y_tangent.values.data())
                                            : next(flow, i, output.values.size());
      const ConstVectorMap<S> segment(
          parameter_tangent ? parameter_tangent->data() + begin : nullptr,
          parameter_tangent ? slot.parameter_count() : 0);
      begin += segment.size();
      slot.tangent(batch.input(i), output, known ? &incoming : nullptr,
                   parameter_tangent ? &segment : nullptr, writable(output, data), own);
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
    const Batch batch(*this, x, y.values.data(), scratch);
    keep_tangents(batch, x_tangent, parameter_tangent, scratch);
    const std::size_t first = grad_input_tangent ? 0 : first_with_parameters();
    Index end = parameter_count();
    detail::Flow flow(grad_output.values.data(), scratch.flow);
    detail::Flow tangent_flow(grad_output_tangent.values.data(), scratch.tangent_flow);
    derived().for_each_slot_reversed(scratch.layers, [&](const auto& slot, auto& own,
                                                         std::size_t i) {
      if (i < first || (i > first && derived().placements()[i].keeps)) return;
      const ConstBatchView<S> input = batch.input(i);
      const ConstBatchView<S> output = batch.output(i);
      const ConstBatchView<S> gradient = batch.output_like(i, flow.data());
      const ConstBatchView<S> gradient_tangent = batch.output_like(i, tangent_flow.data());

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
      const ConstBatchView<S> input_tangent = batch.input_like(i, batch.output_tangent(i - 1));
      if (i == first) {
        slot.backward_tangent(input, output, gradient, &input_tangent, along, gradient_tangent,
                              nullptr, wanted, own);
        return;
      }
      BatchView<S> propagated_tangent = writable(input, next(tangent_flow, i, input.values.size()));
      slot.backward_tangent(input, output, gradient, &input_tangent, along, gradient_tangent,
                            &propagated_tangent, wanted, own);
      BatchView<S> propagated = writable(input, next(flow, i, input.values.size()));
      slot.backward(input, output, gradient, &propagated, nullptr, own, Mode{false, false});
    });
  }

  void visit_scratch(StateVisitor& visitor, Scratch& scratch) const {
    derived().for_each_slot(scratch.layers, [&](const auto& slot, auto& own, std::size_t) {
      slot.visit_scratch(visitor, own);
    });
  }

  void absorb(Scratch& scratch) {
    derived().for_each_slot(scratch.layers,
                            [](auto& slot, auto& own, std::size_t) { slot.absorb(own); });
  }
  void visit_buffers(StateVisitor& visitor) {
    derived().visit_slots([&](auto& slot, std::size_t) { slot.visit_buffers(visitor); });
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
  using Placement = detail::Placement;
  using Memory = Placement::Memory;
  static constexpr bool kSharesMemory = Sizes::kActivations == Eigen::Dynamic;

  /// The inputs and outputs of the layers in a pass.
  class Batch {
   public:
    Batch(const Chain& chain, const ConstBatchView<S>& x, const S* y, Scratch& scratch)
        : chain_(chain), x_(x), y_(y), scratch_(scratch) {}

    Index examples() const { return x_.examples(); }
    ConstBatchView<S> input(std::size_t i) const { return i == 0 ? x_ : output(i - 1); }
    ConstBatchView<S> output(std::size_t i) const { return output_like(i, output_data(i)); }

    /// Other data that look like them.
    ConstBatchView<S> input_like(std::size_t i, const S* data) const {
      return of_shape(i == 0 ? x_.shape : scratch_.places[i - 1].shape, data);
    }
    ConstBatchView<S> output_like(std::size_t i, const S* data) const {
      return of_shape(scratch_.places[i].shape, data);
    }

    /// For `backward_tangent`: the tangents of the layers but the last have memory of their own.
    S* output_tangent(std::size_t i) const {
      return scratch_.tangents.data() + scratch_.places[i].tangent_offset;
    }

   private:
    ConstBatchView<S> of_shape(const Shape& shape, const S* data) const {
      return {{data, shape.size(), x_.examples()}, shape};
    }
    const S* output_data(std::size_t i) const {
      switch (chain_.derived().placements()[i].output) {
        case Memory::Input:
          return x_.values.data();
        case Memory::Output:
          return y_;
        case Memory::Own:
          break;
      }
      return scratch_.activations.data() + scratch_.places[i].offset;
    }

    const Chain& chain_;
    const ConstBatchView<S>& x_;
    const S* y_;
    Scratch& scratch_;
  };

  Derived& derived() { return static_cast<Derived&>(*this); }
  const Derived& derived() const { return static_cast<const Derived&>(*this); }

  /// Finds a place for the output of every layer; returns how many numbers these take.
  template <class Places>
  Index place(const Shape& input_shape, Index examples, Places& places) const {
    const std::size_t count = derived().slot_count();
    if constexpr (requires { places.resize(count); }) places.resize(count);
    Index used = 0;
    Index before = 0;  // where the output of the layer below is
    Index used_by_tangents = 0;
    derived().visit_slots([&](const auto& slot, std::size_t i) {
      const Placement& placement = derived().placements()[i];
      const Shape shape = slot.output_shape(i == 0 ? input_shape : places[i - 1].shape);
      const Index size = detail::padded(shape.size() * examples);
      if (!placement.forward_in_place) before = used;
      places[i] = {shape, before, used_by_tangents};
      if (!placement.forward_in_place && placement.output == Memory::Own) used += size;
      used_by_tangents += size;
    });
    return used;
  }

  /// Backward, with what flows.
  template <class FlowType>
  void pull_back(const Batch& batch, FlowType& flow, BatchView<S>* grad_input,
                 VectorMap<S>* grad_parameters, Scratch& scratch, const Mode& mode) const {
    const std::size_t first = grad_input ? 0 : first_with_parameters();
    Index end = grad_parameters ? grad_parameters->size() : 0;
    derived().for_each_slot_reversed(scratch.layers, [&](const auto& slot, auto& own,
                                                         std::size_t i) {
      if (i < first || (i > first && derived().placements()[i].keeps)) return;
      const ConstBatchView<S> input = batch.input(i);
      const ConstBatchView<S> gradient = batch.output_like(i, flow.data());

      const Index parameters = grad_parameters ? slot.parameter_count() : 0;
      end -= parameters;
      VectorMap<S> segment(grad_parameters ? grad_parameters->data() + end : nullptr, parameters);
      VectorMap<S>* wanted = grad_parameters ? &segment : nullptr;

      if (i > first) {
        S* const data = next(flow, i, input.values.size(), scratch.places, batch.examples());
        BatchView<S> propagated = writable(input, data);
        slot.backward(input, batch.output(i), gradient, &propagated, wanted, own, mode);
      } else {
        slot.backward(input, batch.output(i), gradient, grad_input, wanted, own, mode);
      }
    });
  }

  /// The tangents of every activation but the last.
  void keep_tangents(const Batch& batch, const ConstBatchView<S>* x_tangent,
                     const ConstVectorMap<S>* parameter_tangent, Scratch& scratch) const {
    const std::size_t last = derived().slot_count() - 1;
    scratch.tangents.map(scratch.places[last].tangent_offset, 1);
    Index begin = 0;
    derived().for_each_slot(scratch.layers, [&](const auto& slot, auto& own, std::size_t i) {
      if (i == last) return;
      const ConstVectorMap<S> segment(
          parameter_tangent ? parameter_tangent->data() + begin : nullptr,
          parameter_tangent ? slot.parameter_count() : 0);
      begin += segment.size();
      const ConstVectorMap<S>* direction = parameter_tangent ? &segment : nullptr;
      const BatchView<S> result = writable(batch.output(i), batch.output_tangent(i));
      if (i == 0) {
        slot.tangent(batch.input(i), batch.output(i), x_tangent, direction, result, own);
      } else {
        const ConstBatchView<S> incoming = batch.input_like(i, batch.output_tangent(i - 1));
        slot.tangent(batch.input(i), batch.output(i), &incoming, direction, result, own);
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

  static BatchView<S> writable(const ConstBatchView<S>& like, S* data) {
    return {{data, like.values.rows(), like.values.cols()}, like.shape};
  }
  /// Calls body(i, size) for every gradient of a layer's input that a backward pass makes.
  template <class Places, class Body>
  void for_each_gradient(const Places& places, Index examples, Body&& body) const {
    const std::size_t first = first_with_parameters();
    for (std::size_t i = derived().slot_count(); i-- > 0;)
      if (i > first && !derived().placements()[i].keeps)
        body(i, places[i - 1].shape.size() * examples);
  }
  /// The memory of outputs, of so many numbers, with gradients in it, the smaller of two ways.
  template <class Places>
  detail::SharedMemory share(const Places& places, Index examples, Index outputs) const {
    const auto from = [&](bool end) {
      detail::ReplacingFlow<S> flow(nullptr, nullptr, {0, end});
      for_each_gradient(places, examples,
                        [&](std::size_t i, Index size) { next(flow, i, size, places, examples); });
      return detail::SharedMemory{std::max(outputs, flow.size()), end};
    };
    const detail::SharedMemory one = from(false);
    const detail::SharedMemory other = from(true);
    return one.size <= other.size ? one : other;
  }
  /// How many numbers, the first there are, layer i and those below need in their backward passes.
  template <class Places>
  Index needed(std::size_t i, const Places& places, Index examples) const {
    const auto end = [&](std::size_t k) {
      const bool is_own = derived().placements()[k].output == Memory::Own;
      return places[k].offset +
             (is_own ? detail::padded(places[k].shape.size() * examples) : Index{0});
    };
    const Index input = i > 0 ? end(i - 1) : 0;
    return derived().placements()[i].reads_output ? std::max(input, end(i)) : input;
  }

  template <class Places, class Buffers>
  S* next(detail::Flow<S, Buffers>& flow, std::size_t i, Index size, const Places&, Index) const {
    return next(flow, i, size);
  }
  template <class Places>
  S* next(detail::ReplacingFlow<S>& flow, std::size_t i, Index size, const Places& places,
          Index examples) const {
    return flow.next(size, derived().placements()[i].can_work_in_place,
                     needed(i, places, examples));
  }
  /// Where what flows through layer i goes next, of so many numbers.
  template <class FlowType>
  S* next(FlowType& flow, std::size_t i, Index size) const {
    return flow.next(size, derived().placements()[i].can_work_in_place);
  }
};

}  // namespace kfac
