#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include <kfac/curvature/layer_curvature.hpp>
#include <kfac/curvature/layer_group.hpp>

namespace kfac {
namespace detail {

/// Three significant digits and a prefix: "4.21 M".
inline std::string si_text(double value) {
  static constexpr std::array<const char*, 5> kPrefixes{"", " k", " M", " G", " T"};
  std::size_t prefix = 0;
  while (value >= 999.5 && prefix + 1 < kPrefixes.size()) {
    value /= 1000;
    ++prefix;
  }
  std::array<char, 32> text{};
  const int digits = value >= 99.95 || (prefix == 0 && value == std::floor(value)) ? 0
                     : value >= 9.995                                              ? 1
                                                                                   : 2;
  std::snprintf(text.data(), text.size(), "%.*f", digits, value);
  return text.data() + std::string(kPrefixes[prefix]);
}

/// Rows of cells as text, columns aligned.
inline std::string aligned(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths(rows.front().size(), 0);
  for (const auto& row : rows)
    for (std::size_t j = 0; j < row.size(); ++j) widths[j] = std::max(widths[j], row[j].size());
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t j = 0; j < row.size(); ++j)
      line += row[j] + std::string(widths[j] - row[j].size() + 2, ' ');
    text += line.substr(0, line.find_last_not_of(' ') + 1) + '\n';
  }
  return text;
}

/// The sizes of a layer's own parameters, such as "512x784 + 512".
template <RealScalar S>
std::string shape_text(const LayerView<S>& layer) {
  std::string text;
  for (const ParameterInfo& parameter : layer.parameter_info) {
    text += (text.empty() ? "" : " + ") + std::to_string(parameter.rows);
    if (parameter.columns != 1) text += 'x' + std::to_string(parameter.columns);
  }
  return text;
}

}  // namespace detail

/// What training keeps in memory from step to step, in bytes, and for which batch.
struct TrainingMemory {
  double parameters = 0;
  double gradient = 0;
  double optimizer = 0;  ///< momentum, and other vectors of the parameters' size
  double factors = 0;    ///< the curvature's statistics
  double inverses = 0;   ///< of these; where asynchronous, with the copies that are being inverted
  double activations = 0;  ///< of a batch: the network's copy of its input, and layers' outputs
  double flow = 0;         ///< gradients between layers
  double scratch = 0;      ///< what layers and products of matrices need meanwhile, on all threads

  double total() const {
    return parameters + gradient + optimizer + factors + inverses + activations + flow + scratch;
  }
};

/// "memory: parameters 2.68 MB, ..., all 12.3 MB"; without a batch, no activations.
inline std::string text_of(const TrainingMemory& memory) {
  const auto part = [](const char* name, double bytes) {
    const std::string number = detail::si_text(bytes);
    return std::string(name) + ' ' + number + (number.find(' ') == std::string::npos ? " B" : "B");
  };
  std::string text = "memory: " + part("parameters", memory.parameters) + ", " +
                     part("gradient", memory.gradient) + ", " +
                     part("optimizer", memory.optimizer) + ", " + part("factors", memory.factors) +
                     ", " + part("inverses", memory.inverses);
  if (memory.activations > 0)
    text += ", " + part("activations", memory.activations) + ", " + part("flow", memory.flow) +
            ", " + part("scratch", memory.scratch);
  return text + ", " + part("all", memory.total()) + '\n';
}

/// A table of the layers that have parameters: their sizes, how each is stepped, the memory of its
/// curvature in bytes, and its work in multiply-adds: to take in an example (used once, with one
/// output gradient), to make an inverse, and to precondition a gradient.
template <RealScalar S>
std::string summary(const std::vector<LayerView<S>>& layers,
                    const std::vector<std::unique_ptr<LayerCurvature<S>>>& curvatures,
                    const std::vector<const LayerGroup<S>*>& groups) {
  using detail::si_text;
  std::vector<std::vector<std::string>> rows{{"layer", "kind", "shape", "parameters", "block",
                                              "factors", "bytes", "update", "inverse",
                                              "precondition"}};
  Index parameters = 0;
  BlockCost total;
  const auto add_row = [&](std::vector<std::string> row, const BlockCost& cost) {
    for (const double value : {cost.bytes, cost.update, cost.inverse, cost.precondition})
      row.push_back(si_text(value));
    rows.push_back(std::move(row));
  };
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const LayerView<S>& layer = layers[i];
    if (layer.parameters.size() == 0) continue;
    parameters += layer.parameters.size();
    std::vector<std::string> row{layer.name, layer.kind, detail::shape_text(layer),
                                 std::to_string(layer.parameters.size())};
    const auto found = std::find_if(curvatures.begin(), curvatures.end(), [&](const auto& other) {
      return other->layer().name == layer.name;
    });
    if (found == curvatures.end()) {
      const bool left_out = groups[i] && !groups[i]->precondition;
      row.emplace_back(left_out ? "plain gradient (by its group)" : "plain gradient (no block)");
      rows.push_back(std::move(row));
      continue;
    }
    const auto& blocks = (*found)->blocks();
    BlockCost cost;
    for (const auto& block : blocks) {
      const BlockCost part = block->cost();
      cost.bytes += part.bytes;
      cost.update += part.update;
      cost.inverse += part.inverse;
      cost.precondition += part.precondition;
    }
    row.emplace_back(blocks.front()->kind());
    row.push_back((blocks.size() > 1 ? std::to_string(blocks.size()) + " of " : "") +
                  blocks.front()->cost().factors);
    add_row(std::move(row), cost);
    total.bytes += cost.bytes;
    total.update += cost.update;
    total.inverse += cost.inverse;
    total.precondition += cost.precondition;
  }
  add_row({"all", "", "", std::to_string(parameters), "", ""}, total);
  return detail::aligned(rows);
}

}  // namespace kfac
