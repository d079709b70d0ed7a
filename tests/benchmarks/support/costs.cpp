#include "support/costs.hpp"

namespace benchmarks {

Operations operations(const std::vector<LayerSizes>& layers, kfac::Index batch) {
  Operations sum;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const LayerSizes& layer = layers[i];
    const auto groups = static_cast<double>(layer.groups);
    const auto in = static_cast<double>(layer.inputs);
    const auto a = static_cast<double>(layer.columns);
    const auto g = static_cast<double>(layer.outputs);
    const auto places = static_cast<double>(layer.positions * batch);
    const double product = 2 * groups * in * g * places;
    sum.forward += product;
    sum.backward += (i == 0 ? 1 : 2) * product;
    sum.factors += groups * (a * a + g * g) * places;
    sum.inverses += groups * (a * a * a + g * g * g);
    sum.precondition += groups * 2 * a * g * (a + g);
  }
  return sum;
}

Memory memory(const std::vector<LayerSizes>& layers, kfac::Index input_features, kfac::Index batch,
              std::size_t scalar_bytes) {
  Memory sum;
  double activations = static_cast<double>(input_features);
  for (const LayerSizes& layer : layers) {
    const auto groups = static_cast<double>(layer.groups);
    const auto a = static_cast<double>(layer.columns);
    const auto g = static_cast<double>(layer.outputs);
    sum.parameters += groups * a * g;
    sum.factors += groups * (a * a + g * g);
    activations += groups * g * static_cast<double>(layer.positions);
  }
  const auto bytes = static_cast<double>(scalar_bytes);
  sum.parameters *= bytes;
  sum.factors *= bytes;
  sum.inverses = sum.factors;
  sum.activations = activations * static_cast<double>(batch) * bytes;
  return sum;
}

}  // namespace benchmarks
