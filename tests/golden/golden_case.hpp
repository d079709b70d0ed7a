#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <kfac/io/safetensors.hpp>
#include <kfac/nn/dynamic_sequential.hpp>

#include "comparison.hpp"
#include "golden_loss.hpp"

namespace golden {

using Model = kfac::DynamicSequential<double>;

/// A case as it was read: its network has the case's weights.
struct Case {
  const Json& json;
  const kfac::io::SafeTensors& file;
  Model& model;
  const Loss& loss;
  kfac::Shape shape;  // of one example

  /// The targets of that name: a matrix like the outputs, or labels, one row for each position.
  Matrix targets(const std::string& name) const;
  /// The sampled targets of that name, `[samples, examples, ...]` in the file.
  std::vector<Matrix> samples(const std::string& name, Index examples) const;
};

/// The leaves that have curvature, in order: the case's `l{i}`.
std::vector<kfac::LayerView<double>> curved_layers(Model& model);

/// Of one of them, [W b] or what is stored like it.
Matrix augmented(const kfac::LayerView<double>& layer, const double* data);

/// One batch, and all there is about its curvature.
void run_curvature(const Case& golden, Comparison& comparison);
/// Several optimizer steps.
void run_steps(const Case& golden, Comparison& comparison);

}  // namespace golden
