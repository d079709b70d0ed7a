#pragma once

#include <string>
#include <vector>

#include <kfac/nn/network.hpp>

namespace kfac {

/// A part of a network's flat parameters that has a curvature block of its own: the [W b] of a
/// linear map (of each group of a grouped layer), or all parameters of a layer that announces no
/// inputs and output gradients (`outputs` of them, 1 input, no bias). In the flat parameters it is
/// an `outputs x columns()` matrix, column by column.
struct ParameterBlock {
  std::string layer;     ///< as `LayerView::name`
  std::string kind;      ///< as `LayerView::kind`
  Index group = 0;       ///< of a grouped layer
  Index groups = 1;      ///< of the layer
  bool factored = true;  ///< whether it is a linear map's, which has Kronecker factors
  Index inputs = 0;
  Index outputs = 0;
  bool bias = true;  ///< the last column is the bias
  Index offset = 0;  ///< of its first entry in the flat parameters

  Index columns() const { return inputs + (bias ? 1 : 0); }
  Index size() const { return outputs * columns(); }
  /// "3.1"; of a group "3.1/2".
  std::string name() const { return groups > 1 ? layer + '/' + std::to_string(group) : layer; }

  /// The block of a flat vector of all parameters, or of anything like it.
  template <RealScalar S>
  MatrixMap<S> of(Vector<S>& flat) const {
    return {flat.data() + offset, outputs, columns()};
  }
  template <RealScalar S>
  ConstMatrixMap<S> of(const Vector<S>& flat) const {
    return {flat.data() + offset, outputs, columns()};
  }

  bool operator==(const ParameterBlock&) const = default;
};

/// All of a network's parameters as blocks, in the order of the flat parameters.
template <class Model>
std::vector<ParameterBlock> parameter_blocks(Model& model) {
  std::vector<ParameterBlock> blocks;
  Index offset = 0;
  for (const auto& layer : model.layers()) {
    if (!layer.hooks) continue;
    ParameterBlock block{.layer = layer.name, .kind = layer.kind};
    block.factored = layer.kronecker.has_value();
    const KroneckerStructure structure = layer.kronecker.value_or(
        KroneckerStructure{.inputs = 1, .outputs = layer.parameters.size(), .bias = false});
    block.groups = structure.groups;
    block.inputs = structure.inputs;
    block.outputs = structure.outputs;
    block.bias = structure.bias;
    for (; block.group < block.groups; ++block.group) {
      block.offset = offset;
      blocks.push_back(block);
      offset += block.size();
    }
  }
  return blocks;
}

/// A copy of a network's parameters, in the order of `model.layers()`.
template <class Model>
Vector<typename Model::Scalar> flat_parameters(Model& model) {
  Vector<typename Model::Scalar> flat(model.parameter_count());
  Index offset = 0;
  for (const auto& layer : model.layers()) {
    flat.segment(offset, layer.parameters.size()) = layer.parameters;
    offset += layer.parameters.size();
  }
  return flat;
}

/// Gives a network those parameters. \throws ShapeError
template <class Model>
void set_flat_parameters(Model& model, const ConstVectorRef<typename Model::Scalar>& flat) {
  detail::check_size("kfac::set_flat_parameters", "flat", flat.size(), model.parameter_count(),
                     "entries");
  Index offset = 0;
  for (auto& layer : model.layers()) {
    layer.parameters = flat.segment(offset, layer.parameters.size());
    offset += layer.parameters.size();
  }
}

}  // namespace kfac
