#pragma once

#include <deque>
#include <vector>

#include <kfac/curvature/estimate_curvature.hpp>
#include <kfac/merging/merge.hpp>

#include "support/parameter_block_networks.hpp"

/// Networks of one architecture that were "trained" on different data, and what they are merged to
/// by dense algebra.
namespace kfac::test {

using Estimates = CurvatureEstimate<double>;

/// Some models, the tasks whose curvature they have, and the estimates, which the models refer to.
struct Candidates {
  std::deque<AnyModel> networks;
  std::deque<Task> tasks;
  std::deque<Estimates> estimates;
  std::vector<MergeModel<double>> models;

  Candidates() = default;
  Candidates(const Candidates&) = delete;
  Candidates& operator=(const Candidates&) = delete;

  void add(const AnyModel& network, const Task& task, const EstimateOptions& options,
           double weight = 1) {
    networks.push_back(network);
    tasks.push_back(task);
    estimates.push_back(estimate_curvature(networks.back(), task.loss, one_slice(task), options));
    models.push_back(merge_model(networks.back(), &estimates.back(), weight));
  }
};

/// So many copies of a random network with other parameters, data of other sizes, other weights.
inline void add_random(Candidates& candidates, Index count, CurvatureStructure structure,
                       Rng& rng) {
  RandomNetwork network = rng.below(3) == 0 ? network_of_all_blocks(rng) : random_network(rng);
  const AnyLoss loss = all_losses(
      {.reduction = rng.below(2) == 0 ? Reduction::Mean
                                      : Reduction::Sum})[static_cast<std::size_t>(rng.below(3))];
  for (Index t = 0; t < count; ++t) {
    const Vector<double> change = random_matrix(network.model.parameter_count(), 1, rng);
    set_flat_parameters(network.model, flat_parameters(network.model) + 0.3 * change);
    const Task task(network.model, loss, network.shape, 2 + rng.below(7), rng);
    candidates.add(network.model, task, {.structure = structure}, rng.uniform(0.2, 2));
  }
}

/// The weighted curvature of a model's block, of the sum of criteria, as `method` takes it.
inline Matrix<double> dense_curvature(const MergeModel<double>& model, std::size_t i,
                                      const MergeOptions& options) {
  const ParameterBlock& block = model.blocks[i];
  const Matrix<double> identity = Matrix<double>::Identity(block.size(), block.size());
  if (options.method == MergeMethod::Average) return model.weight * identity;
  const BlockEstimate<double>& own = model.curvature->blocks[i];
  const double scale = model.weight / model.curvature->record.loss_scale;
  if (own.diagonal.size() > 0) {
    const Vector<double> diagonal =
        own.diagonal.reshaped().array() + options.damping * own.diagonal.mean();
    return scale * Matrix<double>(diagonal.asDiagonal());
  }
  const auto damped = [](const Matrix<double>& factor, double damping) {
    const Matrix<double> one = Matrix<double>::Identity(factor.rows(), factor.cols());
    return Matrix<double>(factor + damping * factor.diagonal().mean() * one);
  };
  Matrix<double> a = options.off_diagonal * own.factors.a;
  a.diagonal() = own.factors.a.diagonal();
  a = damped(a, options.damping);
  if (options.method == MergeMethod::Kronecker)
    return scale *
           linalg::kronecker_product<double>(a, damped(own.factors.g, options.output_damping));
  const auto examples = static_cast<double>(model.curvature->record.examples);
  return model.weight * examples *
         linalg::kronecker_product<double>(a,
                                           Matrix<double>::Identity(block.outputs, block.outputs));
}

/// The solution of sum_t F_t theta = sum_t F_t theta_t, block by block.
inline Vector<double> dense_merge(const std::vector<MergeModel<double>>& models,
                                  const MergeOptions& options) {
  Vector<double> merged = models[0].parameters;
  for (std::size_t i = 0; i < models[0].blocks.size(); ++i) {
    const ParameterBlock& block = models[0].blocks[i];
    Matrix<double> sum = Matrix<double>::Zero(block.size(), block.size());
    Vector<double> right = Vector<double>::Zero(block.size());
    for (const MergeModel<double>& model : models) {
      const Matrix<double> f = dense_curvature(model, i, options);
      sum += f;
      right += f * model.parameters.segment(block.offset, block.size());
    }
    merged.segment(block.offset, block.size()) = sum.ldlt().solve(right);
  }
  return merged;
}

}  // namespace kfac::test
