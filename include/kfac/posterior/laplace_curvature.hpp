#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <kfac/curvature/curvature_estimate.hpp>
#include <kfac/posterior/prior.hpp>

namespace kfac {

/// The dense curvature of all random parameters of a posterior together, with the terms between
/// blocks.
template <RealScalar S>
struct JointCurvature {
  CurvatureRecord record = {};
  std::vector<ParameterBlock> blocks = {};  ///< all of the network's
  Matrix<S> matrix = {};                    ///< of the random parameters, in their order
};

/// What is known of the data at a posterior's mean.
template <RealScalar S>
struct LaplaceData {
  double loss = 0;         ///< the sum of the examples' criteria, the half squared error's with 1/2
  Index observations = 0;  ///< numbers observed: examples times outputs of regression; > 0 if known
  Vector<S> gradient = {};  ///< of that sum with respect to the flat parameters; may be empty

  bool known() const { return observations > 0; }
};

namespace detail {

/// Times a factor: A (x) G carries its scale in G.
template <RealScalar S>
void scale_curvature(BlockEstimate<S>& block, double factor) {
  const S scale = static_cast<S>(factor);
  if (block.has_factors()) block.factors.g *= scale;
  if (!block.eigen.empty()) block.eigen.set_grid(Matrix<S>(scale * block.eigen.grid()));
  block.diagonal *= scale;
  block.full *= scale;
}

/// Checks a random block's curvature, makes eigenbases where there are none yet, and gives it the
/// scale of the sum of the criteria. \throws StateError, ValueError
template <RealScalar S>
void prepare_curvature(const char* where, BlockEstimate<S>& block, double loss_scale) {
  const std::string layer = " (layer '" + block.block.name() + "')";
  if (!block.has_factors() && block.eigen.empty() && block.diagonal.size() == 0 &&
      block.full.size() == 0)
    raise<StateError>(std::string(where) +
                      ": 'curvature' has none of a random block, expected one of each" + layer);
  if (!block.diagonal.allFinite() || !block.full.allFinite())
    raise<ValueError>(std::string(where) + ": 'curvature' is not finite" + layer);
  if (block.diagonal.size() > 0 && block.diagonal.minCoeff() < 0)
    raise<ValueError>(std::string(where) + ": 'curvature' has a diagonal entry " +
                      text(block.diagonal.minCoeff()) + ", expected >= 0" + layer);
  if (block.has_factors() && block.eigen.empty() &&
      !block.eigen.compute(block.factors.a, block.factors.g))
    raise<ValueError>(std::string(where) + ": 'curvature' has a factor that is not finite" + layer);
  if (loss_scale != 1) scale_curvature(block, 1 / loss_scale);
}

template <RealScalar S>
std::vector<ParameterBlock> shapes(const CurvatureEstimate<S>& curvature) {
  std::vector<ParameterBlock> shapes;
  for (const BlockEstimate<S>& block : curvature.blocks) shapes.push_back(block.block);
  return shapes;
}

/// Of the same blocks, with nothing of their own.
template <RealScalar S>
CurvatureEstimate<S> estimate_of(const JointCurvature<S>& joint) {
  CurvatureEstimate<S> estimate;
  estimate.record = joint.record;
  for (const ParameterBlock& block : joint.blocks) estimate.blocks.emplace_back().block = block;
  return estimate;
}

/// Raises an OptionError, naming the layer, if curvature of such a structure does not take the
/// prior that it is given.
template <RealScalar S>
void check_structure(const char* where, const CurvatureEstimate<S>& curvature,
                     const std::vector<bool>& random, const Prior<S>& prior, bool multiplicative) {
  for (std::size_t i = 0; i < random.size(); ++i) {
    const BlockEstimate<S>& block = curvature.blocks[i];
    if (!random[i] || (!block.has_factors() && block.eigen.empty())) continue;
    const std::string layer = " (layer '" + block.block.name() + "')";
    if (prior.per_parameter())
      raise<OptionError>(std::string(where) +
                         ": 'prior_grouping' is Parameter, expected diagonal or dense curvature "
                         "for it" +
                         layer);
    const bool apart = block.block.bias && prior.weight_group(i) != prior.bias_group(i);
    if (multiplicative && (block.has_moments || apart))
      raise<OptionError>(std::string(where) +
                         ": 'prior_damping' is Multiplicative, expected that for Kronecker factors "
                         "without moments, with one prior precision" +
                         layer);
  }
}

/// Which blocks are random. \throws OptionError if none is
template <RealScalar S>
std::vector<bool> random_blocks(const char* where, const std::vector<ParameterBlock>& blocks,
                                const LaplaceOptions<S>& options) {
  std::string last;
  for (const ParameterBlock& block : blocks)
    if (block.factored) last = block.layer;
  std::vector<bool> random;
  bool any = false;
  for (const ParameterBlock& block : blocks) {
    const bool chosen = options.last_layer ? block.factored && block.layer == last
                                           : !options.subset || options.subset(block);
    random.push_back(chosen);
    any = any || chosen;
  }
  if (!any)
    raise<OptionError>(std::string(where) + ": '" + (options.last_layer ? "last_layer" : "subset") +
                       "' chooses none of " + std::to_string(blocks.size()) +
                       " blocks, expected at least one");
  return random;
}

/// The layers of random blocks, as `EstimateOptions::layers` takes them.
inline std::function<bool(const std::string&)> random_layers(
    const std::vector<ParameterBlock>& blocks, const std::vector<bool>& random) {
  std::vector<std::string> names;
  for (std::size_t i = 0; i < blocks.size(); ++i)
    if (random[i]) names.push_back(blocks[i].layer);
  return [names = std::move(names)](const std::string& layer) {
    return std::find(names.begin(), names.end(), layer) != names.end();
  };
}

}  // namespace detail
}  // namespace kfac
