#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <ostream>
#include <string>
#include <vector>

#include <kfac/nn/network.hpp>

namespace kfac {

/// What `describe` says of a layer.
struct LayerDescription {
  std::string name = {};  ///< its path in the network: "3.1"
  std::string kind = {};
  bool is_leaf = true;
  Shape input = {},
        output = {};     ///< of an example, in its first use; without axes if it was not seen
  Index parameters = 0;  ///< of a leaf
  /// Multiplications, each with an addition, of a pass forward with one example, all uses together:
  /// those of linear maps, and of what other layers say of themselves. FLOPs are twice as many.
  /// Places of a window in the padding count.
  double multiply_adds = 0;
  Index uses = 1;  ///< how often it is passed
};

/// A network, layer by layer: containers before what they are made of.
struct NetworkDescription {
  std::vector<LayerDescription> layers = {};
  Shape input = {}, output = {};

  Index parameters() const {
    Index sum = 0;
    for (const LayerDescription& layer : layers) sum += layer.parameters;
    return sum;
  }
  double multiply_adds() const {
    double sum = 0;
    for (const LayerDescription& layer : layers) sum += layer.multiply_adds;
    return sum;
  }
  /// The layer of that name, or null.
  const LayerDescription* find(const std::string& name) const {
    for (const LayerDescription& layer : layers)
      if (layer.name == name) return &layer;
    return nullptr;
  }

  /// A table with a line for each layer, inner ones indented, and one of totals.
  std::string to_string() const;
};

namespace detail {

/// Keeps what a network's passes say, a line for each layer.
class DescriptionTrace final : public PassTrace {
 public:
  std::vector<LayerDescription> layers;

  void on_forward(const LayerPass& pass) override {
    const double multiply_adds = pass.multiply_adds * static_cast<double>(pass.examples);
    for (LayerDescription& layer : layers)
      if (layer.name == pass.name && layer.kind == pass.kind) {
        layer.multiply_adds += multiply_adds;
        ++layer.uses;
        return;
      }
    layers.push_back({.name = pass.name,
                      .kind = pass.kind,
                      .is_leaf = pass.is_leaf,
                      .input = pass.input,
                      .output = pass.output,
                      .parameters = pass.parameters,
                      .multiply_adds = multiply_adds});
  }
};

/// Where a layer that made no pass itself belongs: behind what is `before` it and all inside that,
/// and behind the container that it is in.
inline std::size_t place_behind(const std::vector<LayerDescription>& layers,
                                const std::string& before, const std::string& name) {
  std::size_t place = 0;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const std::string& other = layers[i].name;
    if (other == before || name.starts_with(other + '.')) place = i + 1;
  }
  return place;
}

inline std::string number_text(double number) {
  return std::to_string(static_cast<long long>(number));
}

}  // namespace detail

inline std::string NetworkDescription::to_string() const {
  using Line = std::array<std::string, 6>;
  const auto shape_text = [](const Shape& shape) {
    return shape.rank() == 0 ? std::string("-") : shape.to_string();
  };
  std::vector<Line> lines{{"layer", "kind", "input", "output", "parameters", "multiply-adds"}};
  for (const LayerDescription& layer : layers) {
    const auto depth =
        static_cast<std::size_t>(std::count(layer.name.begin(), layer.name.end(), '.'));
    std::string kind = layer.kind;
    if (layer.uses > 1) kind += " (" + std::to_string(layer.uses) + " uses)";
    // What a container is made of has its own lines.
    const bool counts = layer.is_leaf || layer.multiply_adds > 0;
    lines.push_back({std::string(2 * depth, ' ') + layer.name, kind, shape_text(layer.input),
                     shape_text(layer.output),
                     layer.is_leaf ? std::to_string(layer.parameters) : "",
                     counts ? detail::number_text(layer.multiply_adds) : ""});
  }
  lines.push_back({"total", "", shape_text(input), shape_text(output), std::to_string(parameters()),
                   detail::number_text(multiply_adds())});
  std::array<std::size_t, 6> widths{};
  for (const Line& line : lines)
    for (std::size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], line[i].size());
  std::string text;
  for (const Line& line : lines) {
    std::string row;
    for (std::size_t i = 0; i < line.size(); ++i) {
      const std::string space(widths[i] - line[i].size(), ' ');
      row += i < 4 ? line[i] + space : space + line[i];  // numbers to the right
      if (i + 1 < line.size()) row += "  ";
    }
    row.erase(row.find_last_not_of(' ') + 1);
    text += row + '\n';
  }
  return text;
}

inline std::ostream& operator<<(std::ostream& out, const NetworkDescription& network) {
  return out << network.to_string();
}

/// A network for inputs of a shape: every layer with its shapes, parameters and operations. Takes a
/// pass forward with one example of zeros, in evaluation, in a workspace of its own.
///
///     std::cout << kfac::describe(model, {1, 28, 28});
///
/// \throws ShapeError if the network cannot take the shape
template <class Model>
NetworkDescription describe(Model& model, const Shape& shape) {
  using S = typename Model::Scalar;
  detail::DescriptionTrace trace;
  typename Model::Workspace workspace;
  workspace.mode = Mode{.training = false, .tracking = false};
  workspace.mode.trace = &trace;
  model.forward(Matrix<S>::Zero(shape.size(), 1), shape, workspace);
  NetworkDescription result{std::move(trace.layers), shape, workspace.output_shape};
  // Leaves whose container does their work itself.
  std::string before;
  for (const LayerView<S>& layer : model.layers()) {
    if (!result.find(layer.name))
      result.layers.insert(result.layers.begin() + static_cast<std::ptrdiff_t>(detail::place_behind(
                                                       result.layers, before, layer.name)),
                           {.name = layer.name,
                            .kind = layer.kind,
                            .is_leaf = true,
                            .input = {},
                            .output = {},
                            .parameters = layer.parameters.size()});
    before = layer.name;
  }
  return result;
}

/// For inputs of the shape that its last pass forward had. \throws StateError before any
template <class Model>
NetworkDescription describe(Model& model) {
  const Shape& shape = model.workspace().input_shape;
  if (shape.rank() == 0)
    raise<StateError>("kfac::describe: no forward pass before it, expected one, or a shape");
  return describe(model, Shape(shape));
}

}  // namespace kfac
