#pragma once

#include <type_traits>
#include <utility>
#include <vector>

#include <kfac/nn/dynamic_sequential.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/residual.hpp>

namespace kfac {

template <class Container>
DynamicSequential<typename Container::Scalar> dynamic_copy(const Container& network);

namespace detail {

/// A Residual whose block is made anew, of layers that are.
template <Layer... Layers>
AnyLayer<typename Residual<Layers...>::Scalar> dynamic_layer(const Residual<Layers...>& residual) {
  return Residual(dynamic_copy(residual.block()));
}

/// A Linear of sizes that are known at run time; any other layer as it is.
template <RealScalar S, int In, int Out>
AnyLayer<S> dynamic_layer(const Linear<S, In, Out>& linear) {
  Rng rng;
  Linear<S> result(linear.inputs(), linear.outputs(), rng, {.bias = linear.has_bias()});
  Linear<S, In, Out> copy = linear;
  result.parameters() = copy.parameters();
  return result;
}
template <class L>
AnyLayer<typename L::Scalar> dynamic_layer(const L& layer) {
  if constexpr (requires { layer.visit_slots([](const auto&, std::size_t) {}); })
    return dynamic_copy(layer);
  else
    return layer;
}

}  // namespace detail

/// A network of the same layers with the same parameters, in the same mode, whose layers are chosen
/// at run time: to be changed (`remove_units`), described and saved. `network` is a Sequential or
/// StaticSequential. A block of a Residual becomes one network within it, so that its layers have
/// one more number in their names.
template <class Container>
DynamicSequential<typename Container::Scalar> dynamic_copy(const Container& network) {
  using S = typename Container::Scalar;
  std::vector<AnyLayer<S>> layers;
  network.visit_slots([&](const auto& slot, std::size_t) {
    if constexpr (requires { slot.layer(); })
      layers.push_back(detail::dynamic_layer(slot.layer()));
    else
      layers.push_back(slot);
  });
  DynamicSequential<S> copy(std::move(layers));
  copy.workspace().mode = network.workspace().mode;
  return copy;
}

}  // namespace kfac
