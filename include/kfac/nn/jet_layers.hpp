#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include <kfac/nn/dynamic_sequential.hpp>
#include <kfac/nn/jet_activation.hpp>
#include <kfac/nn/jet_linear.hpp>
#include <kfac/nn/residual.hpp>
#include <kfac/nn/static_sequential.hpp>

namespace kfac {

// What a layer is on jets: a Layer on examples of shape `{slots, features}` that shares the given
// layer's parameters. For a layer of one's own, overload `jet_layer` in its namespace.

template <RealScalar S, int In, int Out>
JetLinear<S, In, Out> jet_layer(Linear<S, In, Out>& layer, const JetSlots<S>& slots) {
  return {layer, slots};
}

template <RealScalar S, class Function>
JetActivation<S, Function> jet_layer(Activation<S, Function>&, const JetSlots<S>& slots) {
  static_assert(detail::ThriceDifferentiableFunction<Function, S>,
                "derivatives with respect to inputs need an activation with three derivatives "
                "(Tanh, Sine, Sigmoid, Softplus, GELU): this one has no third_derivative");
  return JetActivation<S, Function>(slots);
}

template <Layer... Layers>
auto jet_layer(Residual<Layers...>& residual,
               const JetSlots<typename Residual<Layers...>::Scalar>& slots);
template <Layer First, Layer... Rest>
auto jet_layer(Sequential<First, Rest...>& model, const JetSlots<typename First::Scalar>& slots);
template <Index MaxBatch, SizedLayer... Layers>
auto jet_layer(StaticSequential<MaxBatch, Layers...>& model,
               const JetSlots<typename StaticSequential<MaxBatch, Layers...>::Scalar>& slots);
template <RealScalar S>
DynamicSequential<S> jet_layer(DynamicSequential<S>& model, const JetSlots<S>& slots);

/// Whether a layer has a rule for jets.
template <class L>
concept JetCapable = requires(L& layer, const JetSlots<typename L::Scalar>& slots) {
  jet_layer(layer, slots);
};

namespace detail {

/// The layers of a chain on jets, as the arguments of a `Target<...>`.
template <template <class...> class Target, class Chain, Layer... Layers>
auto jet_chain(Chain& chain, const JetSlots<typename Chain::Scalar>& slots) {
  static_assert((JetCapable<Layers> && ...),
                "a layer has no rule for derivatives with respect to inputs: there are Linear, "
                "activations with three derivatives, Residual and Sequential; for others overload "
                "jet_layer(layer, slots)");
  return [&]<std::size_t... I>(std::index_sequence<I...>) {
    return Target<decltype(jet_layer(std::declval<Layers&>(), slots))...>{
        jet_layer(chain.template layer<I>(), slots)...};
  }
  (std::index_sequence_for<Layers...>{});
}

/// Appends what the layer held is on jets if it is one of the given types.
template <class... Types, RealScalar S>
bool append_jet_layer(AnyLayer<S>& layer, const JetSlots<S>& slots,
                      std::vector<AnyLayer<S>>& layers) {
  const auto append = [&](auto* held) {
    if (held) layers.push_back(jet_layer(*held, slots));
    return held != nullptr;
  };
  return (append(layer.template target<Types>()) || ...);
}

}  // namespace detail

template <Layer... Layers>
auto jet_layer(Residual<Layers...>& residual,
               const JetSlots<typename Residual<Layers...>::Scalar>& slots) {
  return detail::jet_chain<Residual, Sequential<Layers...>, Layers...>(residual.block(), slots);
}

template <Layer First, Layer... Rest>
auto jet_layer(Sequential<First, Rest...>& model, const JetSlots<typename First::Scalar>& slots) {
  return detail::jet_chain<Sequential, Sequential<First, Rest...>, First, Rest...>(model, slots);
}

template <Index MaxBatch, SizedLayer... Layers>
auto jet_layer(StaticSequential<MaxBatch, Layers...>& model,
               const JetSlots<typename StaticSequential<MaxBatch, Layers...>::Scalar>& slots) {
  return detail::jet_chain<Sequential, StaticSequential<MaxBatch, Layers...>, Layers...>(model,
                                                                                         slots);
}

/// Its layers may be Linear, the activations with three derivatives, a DynamicSequential, and a
/// Residual of that. \throws StateError, naming the layer, for another
template <RealScalar S>
DynamicSequential<S> jet_layer(DynamicSequential<S>& model, const JetSlots<S>& slots) {
  std::vector<AnyLayer<S>> layers;
  model.visit_slots([&](AnyLayer<S>& layer, std::size_t i) {
    if (detail::append_jet_layer<Linear<S>, Tanh<S>, Sine<S>, Sigmoid<S>, Softplus<S>, GELU<S>,
                                 Identity<S>, DynamicSequential<S>, Residual<DynamicSequential<S>>>(
            layer, slots, layers))
      return;
    raise<StateError>(
        "kfac::jet_layer: a layer has no rule for derivatives with respect to inputs, expected "
        "Linear, an activation with three derivatives, DynamicSequential or a Residual of that "
        "(layer '" +
        std::to_string(i) + "')");
  });
  return DynamicSequential<S>(std::move(layers));
}

}  // namespace kfac
