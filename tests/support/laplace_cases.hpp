#pragma once

#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <kfac/posterior/fit_laplace.hpp>

#include "support/eigensolver.hpp"
#include "support/parameter_block_networks.hpp"

/// What the tests of posteriors share: the precision, dense, from an estimate and the options
/// alone.
namespace kfac::test {

/// K as an estimate has it (Layers: dense), or the dense matrix of all parameters.
enum class LaplaceKind { Diagonal, Kronecker, Ekfac, Layers, Full };

struct DensePosterior {
  std::vector<Index> random;  ///< which of the flat parameters
  Vector<double> delta;       ///< their prior precisions
  Matrix<double> curvature;   ///< K of them
  double kappa = 1;

  Matrix<double> precision() const {
    Matrix<double> result = kappa * curvature;
    result.diagonal() += delta;
    return result;
  }
  double log_determinant() const {
    const Eigen::LLT<Matrix<double>> cholesky(precision());
    return 2 * cholesky.matrixLLT().diagonal().array().log().sum();
  }
};

/// The group of each parameter of a block, by the definition of the groupings, and of one's own.
class Groups {
 public:
  explicit Groups(const LaplaceOptions<double>& options) : options_(options) {}

  Index of(const ParameterBlock& block, Index parameter) {
    const bool bias = block.bias && parameter >= block.outputs * block.inputs;
    if (options_.prior_group) return options_.prior_group(block, bias);
    std::string key;
    if (options_.prior_grouping != PriorGrouping::Scalar) key += block.layer;
    if (options_.prior_grouping == PriorGrouping::Tensor) key += bias ? " b" : " w";
    if (options_.prior_grouping == PriorGrouping::Parameter)
      key += ' ' + std::to_string(block.offset + parameter);
    return numbers_.try_emplace(key, static_cast<Index>(numbers_.size())).first->second;
  }

 private:
  const LaplaceOptions<double>& options_;
  std::map<std::string, Index> numbers_;
};

inline Matrix<double> dense_curvature(const BlockEstimate<double>& block) {
  if (block.full.size() > 0) return block.full.selfadjointView<Eigen::Lower>();
  if (block.diagonal.size() > 0) return block.diagonal.reshaped().asDiagonal();
  if (block.has_moments) return block.eigen.dense();
  return linalg::kronecker_product<double>(block.factors.a, block.factors.g);
}

inline EstimateOptions estimate_options(LaplaceKind kind) {
  switch (kind) {
    case LaplaceKind::Diagonal:
      return {.structure = CurvatureStructure::Diagonal};
    case LaplaceKind::Ekfac:
      return {.structure = CurvatureStructure::Ekfac};
    case LaplaceKind::Layers:
      return {.structure = CurvatureStructure::Full};
    default:
      return {};
  }
}

/// `precision` is that of each group there is.
inline DensePosterior dense_posterior(AnyModel& model, const Task& task, LaplaceKind kind,
                                      const LaplaceOptions<double>& options,
                                      const Vector<double>& precision) {
  const std::vector<ParameterBlock> blocks = parameter_blocks(model);
  const std::string last = blocks.back().layer;  // the last layer of the networks here is linear
  DensePosterior dense;
  dense.kappa = 1 / (options.observation_noise * options.observation_noise * options.temperature);
  Matrix<double> all = Matrix<double>::Zero(model.parameter_count(), model.parameter_count());
  double scale = 1;
  if (kind == LaplaceKind::Full) {
    const Ggn<AnyModel, AnyLoss> ggn(model, task.loss, task.x, task.shape);
    scale = task.loss.scale(ggn.outputs().rows(), task.examples());
    all = ggn.dense();
  } else {
    const auto estimate =
        estimate_curvature(model, task.loss, one_slice(task), estimate_options(kind));
    scale = estimate.record.loss_scale;
    for (const auto& block : estimate.blocks)
      all.block(block.block.offset, block.block.offset, block.block.size(), block.block.size()) =
          dense_curvature(block);
  }
  Groups groups(options);
  std::vector<double> delta;
  for (const ParameterBlock& block : blocks) {
    if (options.last_layer && block.layer != last) continue;
    if (options.subset && !options.subset(block)) continue;
    for (Index k = 0; k < block.size(); ++k) {
      dense.random.push_back(block.offset + k);
      delta.push_back(precision(groups.of(block, k)));
    }
  }
  dense.delta = Eigen::Map<Vector<double>>(delta.data(), static_cast<Index>(delta.size()));
  dense.curvature = all(dense.random, dense.random) / scale;
  return dense;
}

inline Laplace<double> laplace_of(AnyModel& model, const Task& task, LaplaceKind kind,
                                  const LaplaceOptions<double>& options) {
  if (kind == LaplaceKind::Full)
    return fit_full_laplace(model, task.loss, growing_slices(task), options);
  return fit_laplace(model, task.loss, growing_slices(task), options, estimate_options(kind));
}

/// Random precisions from 0.1 to 10.
inline Vector<double> random_precisions(Index count, Rng& rng) {
  Vector<double> precision(count);
  for (double& value : precision) value = std::pow(10.0, rng.uniform(-1, 1));
  return precision;
}

/// A network of any kind, with data: on most seeds a random one, on some all kinds of blocks.
struct LaplaceCase {
  explicit LaplaceCase(std::uint64_t seed)
      : rng(seed),
        network(seed % 3 == 0 ? network_of_all_blocks(rng) : random_network(rng)),
        regression(seed % 2 == 0),
        task(network.model, loss(seed), network.shape, 7, rng) {}

  static LossOptions reduction(std::uint64_t seed) {
    return {.reduction = seed % 4 < 2 ? Reduction::Mean : Reduction::Sum};
  }
  static AnyLoss loss(std::uint64_t seed) {
    if (seed % 2 == 0) return MeanSquaredError<double>(reduction(seed));
    if (seed % 4 == 1) return SoftmaxCrossEntropy<double>(reduction(seed / 2));
    return BinaryCrossEntropy<double>(reduction(seed / 2));
  }

  LaplaceOptions<double> options() const {
    LaplaceOptions<double> result;
    if (!regression) return result;
    result.likelihood = Likelihood::Regression;
    result.observation_noise = 0.7;
    return result;
  }

  Rng rng;
  RandomNetwork network;
  bool regression;
  Task task;
};

}  // namespace kfac::test
