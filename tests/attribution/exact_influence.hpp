#pragma once

#include <Eigen/Cholesky>

#include <kfac/attribution/influence.hpp>
#include <kfac/curvature/estimate_curvature.hpp>

#include "support/eigensolver.hpp"
#include "support/parameter_block_networks.hpp"

/// Influence by dense algebra alone.
namespace kfac::test {

using AnyInfluence = Influence<AnyModel, AnyLoss>;

/// The structure of the estimate that a strategy wants.
inline CurvatureStructure structure_for(InfluenceStrategy strategy) {
  switch (strategy) {
    case InfluenceStrategy::Identity:
    case InfluenceStrategy::Diagonal:
      return CurvatureStructure::Diagonal;
    case InfluenceStrategy::Kfac:
      return CurvatureStructure::Kronecker;
    case InfluenceStrategy::Ekfac:
      return CurvatureStructure::Ekfac;
    case InfluenceStrategy::Full:
      break;
  }
  return CurvatureStructure::Full;
}
inline const std::vector<InfluenceStrategy> kStrategies{
    InfluenceStrategy::Identity, InfluenceStrategy::Diagonal, InfluenceStrategy::Kfac,
    InfluenceStrategy::Ekfac, InfluenceStrategy::Full};

/// The gradient of each example's measurement with respect to all parameters, a column each, from
/// the dense Jacobian of each example by itself.
template <class Gradient>
Matrix<double> measured_gradients(AnyModel& model, const Task& task, Gradient&& gradient) {
  Matrix<double> result(model.parameter_count(), task.examples());
  for (Index n = 0; n < task.examples(); ++n) {
    const Ggn<AnyModel, AnyLoss> at(model, task.loss, Matrix<double>(task.x.col(n)), task.shape);
    const Matrix<double> outputs = at.outputs();
    Matrix<double> v(outputs.rows(), 1);
    gradient(outputs, Matrix<double>(task.y.col(n)), MatrixRef<double>(v));
    result.col(n) = at.jacobian().transpose() * v;
  }
  return result;
}
inline Matrix<double> loss_gradients(AnyModel& model, const Task& task) {
  return measured_gradients(model, task,
                            [&](const auto& outputs, const auto& y, MatrixRef<double> into) {
                              task.loss.gradient(outputs, y, into);
                            });
}

/// (H + damping I)^-1, block by block, H the curvature of the mean loss; 0 in layers that do not
/// count.
inline Matrix<double> exact_inverse(AnyModel& model, const CurvatureEstimate<double>& estimate,
                                    const InfluenceOptions& options) {
  const Index size = model.parameter_count();
  Matrix<double> inverse = Matrix<double>::Zero(size, size);
  const std::vector<ParameterBlock> blocks = parameter_blocks(model);
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    const ParameterBlock& block = blocks[i];
    if (options.layers && !options.layers(block.layer)) continue;
    Matrix<double> h = Matrix<double>::Identity(block.size(), block.size());
    if (options.strategy != InfluenceStrategy::Identity) {
      h = dense_of(estimate.blocks[i]);
      if (!estimate.record.averages) h /= static_cast<double>(estimate.record.examples);
      if (h.diagonal().sum() + options.damping == 0) continue;  // a dead layer
      h.diagonal().array() += options.damping + options.relative_damping * h.diagonal().mean();
    }
    inverse.block(block.offset, block.offset, block.size(), block.size()) =
        h.ldlt().solve(Matrix<double>(Matrix<double>::Identity(block.size(), block.size())));
  }
  return inverse;
}

/// A random network of any kind, with training data and queries of it.
struct InfluenceCase {
  Rng rng;
  RandomNetwork network;
  AnyLoss loss;
  Task training, queries;

  explicit InfluenceCase(std::uint64_t seed)
      : rng(seed),
        network(seed % 4 == 0 ? network_of_all_blocks(rng) : random_network(rng)),
        loss(
            all_losses({.reduction = std::vector{Reduction::Mean, Reduction::Sum,
                                                 Reduction::ExampleMean}[seed / 3 % 3]})[seed % 3]),
        training(network.model, loss, network.shape, 2 + rng.below(6), rng),
        queries(network.model, loss, network.shape, 1 + rng.below(5), rng) {}

  AnyModel& model() { return network.model; }
  CurvatureEstimate<double> estimate(InfluenceStrategy strategy) {
    return estimate_curvature(model(), loss, growing_slices(training),
                              {.structure = structure_for(strategy)});
  }
};

}  // namespace kfac::test
