#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <kfac/nn/conv.hpp>
#include <kfac/nn/dynamic_sequential.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/residual.hpp>

/// Networks taken apart: their linear maps as matrices, and back.
namespace kfac::detail {

/// A Linear or Conv layer without its type: [W b], `outputs x (inputs taps + bias)`.
template <RealScalar S>
struct UnitMap {
  Matrix<S> weight = {};
  Index inputs = 0;  ///< features, or channels
  Index taps = 1;    ///< of a convolution's kernel, side by side for each channel
  bool bias = true;
  Index groups = 1;
  bool is_image = false;  ///< units are on the slowest axis: a convolution
  bool padded = false;    ///< with zeros around the image
  bool pointwise = true;  ///< at each position by itself, as a Linear is: one tap and stride 1

  Index outputs() const { return weight.rows(); }
  Index columns() const { return inputs * taps; }  ///< without the bias
};

/// Calls `body` with the Linear or Conv that the layer holds and returns whether it is one.
template <RealScalar S, class Body>
bool visit_linear_map(const AnyLayer<S>& layer, Body&& body) {
  const auto visit = [&]<class L>(const L* held) {
    if (held) body(*held);
    return held != nullptr;
  };
  return visit(layer.template target<Linear<S>>()) || visit(layer.template target<Conv1d<S>>()) ||
         visit(layer.template target<Conv2d<S>>()) || visit(layer.template target<Conv3d<S>>());
}

/// Of a layer that is one linear map: of a grouped convolution without the weights.
template <RealScalar S>
std::optional<UnitMap<S>> unit_map(const AnyLayer<S>& layer) {
  std::optional<UnitMap<S>> result;
  visit_linear_map(layer, [&]<class L>(const L& held) {
    const KroneckerStructure structure = held.kronecker_structure();
    UnitMap<S> map{.inputs = structure.inputs, .bias = structure.bias, .groups = structure.groups};
    if constexpr (requires { held.options(); }) {
      map.is_image = true;
      map.inputs = held.options().in_channels;
      map.taps = structure.inputs * structure.groups / map.inputs;
      for (const Index zeros : held.options().padding) map.padded |= zeros > 0;
      for (const Index zeros : held.options().padding_end) map.padded |= zeros > 0;
      map.pointwise = map.taps == 1 && !map.padded;
      for (const Index pixels : held.options().stride) map.pointwise &= pixels == 1;
    }
    if (structure.groups == 1) {
      L copy = held;
      map.weight = copy.augmented_weight();
    }
    result = std::move(map);
  });
  return result;
}

/// A layer of the kind of `like` with the weights of `map`, and the kernel, strides and so on of
/// `like` unless the map is pointwise.
template <RealScalar S>
AnyLayer<S> layer_of(const UnitMap<S>& map, const AnyLayer<S>& like) {
  std::optional<AnyLayer<S>> result;
  Rng rng;
  visit_linear_map(like, [&]<class L>(const L& held) {
    const auto filled = [&](L layer) {
      layer.augmented_weight() = map.weight;
      result = std::move(layer);
    };
    if constexpr (requires { held.options(); }) {
      auto options = held.options();
      if (map.pointwise) {
        options.kernel_size.fill(1);
        options.stride.fill(1);
        options.padding.fill(0);
        options.padding_end.fill(-1);
        options.dilation.fill(1);
      }
      options.in_channels = map.inputs;
      options.out_channels = map.outputs();
      options.bias = map.bias;
      filled(L(options, rng));
    } else {
      filled(L(map.inputs, map.outputs(), rng, {.bias = map.bias}));
    }
  });
  return *std::move(result);
}

/// A network that its layers are in: `chain` itself if it is one, that of a Residual, or null.
template <RealScalar S>
const DynamicSequential<S>* inner_chain(const AnyLayer<S>& layer) {
  if (const auto* residual = layer.template target<Residual<DynamicSequential<S>>>())
    return &residual->block().template layer<0>();
  return layer.template target<DynamicSequential<S>>();
}

/// What the layers of an inner chain are called after.
template <RealScalar S>
std::string inner_prefix(const AnyLayer<S>& layer, const std::string& name) {
  return layer.template target<DynamicSequential<S>>() ? name + '.' : name + ".0.";
}

/// Calls `body(chain, prefix)` for a network and those within it; the i-th layer of a chain is
/// called `prefix + i`.
template <RealScalar S, class Body>
void for_each_chain(const DynamicSequential<S>& chain, Body&& body,
                    const std::string& prefix = "") {
  body(chain, prefix);
  for (std::size_t i = 0; i < chain.size(); ++i)
    if (const DynamicSequential<S>* inner = inner_chain(chain.layer(i)))
      for_each_chain(*inner, body, inner_prefix(chain.layer(i), prefix + std::to_string(i)));
}

/// A copy of a network in which the layers of each chain are those that `body(layers, prefix)`
/// leaves of copies, in its mode.
template <RealScalar S, class Body>
DynamicSequential<S> rewritten(const DynamicSequential<S>& chain, Body&& body,
                               const std::string& prefix = "") {
  std::vector<AnyLayer<S>> layers;
  for (std::size_t i = 0; i < chain.size(); ++i) {
    const AnyLayer<S>& layer = chain.layer(i);
    const DynamicSequential<S>* inner = inner_chain(layer);
    if (!inner) {
      layers.push_back(layer);
      continue;
    }
    DynamicSequential<S> next =
        rewritten(*inner, body, inner_prefix(layer, prefix + std::to_string(i)));
    if (layer.template target<DynamicSequential<S>>())
      layers.push_back(std::move(next));
    else
      layers.push_back(Residual(std::move(next)));
  }
  body(layers, prefix);
  DynamicSequential<S> result(std::move(layers));
  result.workspace().mode = chain.workspace().mode;
  return result;
}

}  // namespace kfac::detail
