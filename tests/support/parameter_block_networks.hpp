#pragma once

#include <string>
#include <vector>

#include <kfac/curvature/curvature_estimate.hpp>
#include <kfac/data/slices.hpp>
#include <kfac/nn/conv.hpp>

#include "support/exponential_scale.hpp"
#include "support/random_networks.hpp"

/// Networks with all kinds of parameter blocks, and data for them in slices.
namespace kfac::test {

using AnySlice = Slice<double, Matrix<double>>;

/// A grouped convolution (2 blocks), a layer without Kronecker structure, and a linear layer.
inline RandomNetwork network_of_all_blocks(Rng& rng) {
  RandomNetwork result;
  result.shape = {4, 3, 3};
  result.model.push_back(Conv2d<double>(
      {.in_channels = 4, .out_channels = 4, .kernel_size = {2, 2}, .groups = 2}, rng));
  result.model.push_back(ExponentialScale(16, rng));
  result.model.push_back(Tanh<double>{});
  result.model.push_back(SpatialMean<double>{});
  result.model.push_back(Linear<double>(4, 3, rng));
  return result;
}

/// The task's examples in slices of 1, 2, 3, ...
inline std::vector<AnySlice> growing_slices(const Task& task) {
  std::vector<AnySlice> result;
  for (Index first = 0, size = 1; first < task.examples(); first += size++) {
    const Index count = std::min(size, task.examples() - first);
    result.emplace_back(ConstMatrixMap<double>(task.x.col(first).data(), task.x.rows(), count),
                        ConstMatrixMap<double>(task.y.col(first).data(), task.y.rows(), count),
                        task.shape);
  }
  return result;
}
/// All of them in one.
inline std::vector<AnySlice> one_slice(const Task& task) {
  return {AnySlice(task.x, task.y, task.shape)};
}

/// The matrix that a block is estimated to be.
inline Matrix<double> dense_of(const BlockEstimate<double>& block) {
  if (block.full.size() > 0) return block.full;
  if (block.diagonal.size() > 0) return block.diagonal.reshaped().asDiagonal();
  if (!block.eigen.empty()) return block.eigen.dense();
  return linalg::kronecker_product<double>(block.factors.a, block.factors.g);
}

/// The exact blocks, layers without Kronecker structure among them.
inline Blocks exact_blocks(AnyModel& model, const Matrix<double>& full) {
  Blocks blocks;
  for (const ParameterBlock& block : parameter_blocks(model))
    blocks.push_back(full.block(block.offset, block.offset, block.size(), block.size()));
  return blocks;
}

}  // namespace kfac::test
