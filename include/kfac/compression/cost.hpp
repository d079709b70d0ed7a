#pragma once

#include <string>
#include <utility>
#include <vector>

#include <kfac/nn/describe.hpp>

namespace kfac {

/// What a layer with parameters costs: to store, and to evaluate on one example.
struct LayerCost {
  std::string layer;
  std::string kind;
  Index parameters = 0;
  Index nonzeros = 0;  ///< of these
  /// Multiplications with weights, each with an addition: FLOPs are twice as many. Those of linear
  /// maps; of other layers 0. Places of a window in the padding count.
  double multiply_adds = 0;
  double nonzero_multiply_adds = 0;  ///< of these, with weights that are not zero
};

struct NetworkCost {
  std::vector<LayerCost> layers;

  Index parameters() const { return sum<Index>(&LayerCost::parameters); }
  Index nonzeros() const { return sum<Index>(&LayerCost::nonzeros); }
  double multiply_adds() const { return sum<double>(&LayerCost::multiply_adds); }
  double nonzero_multiply_adds() const { return sum<double>(&LayerCost::nonzero_multiply_adds); }

 private:
  template <class Number>
  Number sum(Number LayerCost::*field) const {
    Number total = 0;
    for (const LayerCost& layer : layers) total += layer.*field;
    return total;
  }
};

/// The cost of each layer with parameters, for examples of a shape, as dense layers and as their
/// weights that are not zero. Takes one forward pass.
///
///     const kfac::NetworkCost cost = kfac::network_cost(model, {1, 28, 28});
///     std::cout << cost.parameters() << ' ' << cost.multiply_adds() << '\n';
///
/// \throws ShapeError if the network cannot take the shape
template <class Model>
NetworkCost network_cost(Model& model, const Shape& shape) {
  using S = typename Model::Scalar;
  const NetworkDescription network = describe(model, shape);
  NetworkCost cost;
  for (const LayerView<S>& layer : model.layers()) {
    if (!layer.hooks) continue;
    LayerCost one{.layer = layer.name, .kind = layer.kind, .parameters = layer.parameters.size()};
    one.nonzeros = (layer.parameters.array() != S(0)).count();
    if (layer.kronecker) {
      const KroneckerStructure& map = *layer.kronecker;
      Index weights = 0;
      for (Index group = 0; group < map.groups; ++group)
        weights +=
            (layer.parameters.segment(group * map.outputs * map.columns(), map.outputs * map.inputs)
                 .array() != S(0))
                .count();
      one.multiply_adds = network.find(layer.name)->multiply_adds;
      one.nonzero_multiply_adds = one.multiply_adds * static_cast<double>(weights) /
                                  static_cast<double>(map.groups * map.outputs * map.inputs);
    }
    cost.layers.push_back(std::move(one));
  }
  return cost;
}

}  // namespace kfac
