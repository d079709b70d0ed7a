#pragma once

#include <vector>

#include <Eigen/Cholesky>

#include <kfac/curvature/estimate_curvature.hpp>
#include <kfac/linalg/kronecker.hpp>

#include "support/dense_blocks.hpp"
#include "support/eigensolver.hpp"

/// What the tests of compression share: estimates of any structure for any network, the same as
/// dense matrices, and what a removal costs by dense algebra alone.
namespace kfac::test::compression {

using Curvature = CurvatureEstimate<double>;

inline constexpr CurvatureStructure kStructures[] = {
    CurvatureStructure::Diagonal, CurvatureStructure::Kronecker, CurvatureStructure::Ekfac,
    CurvatureStructure::Full};

inline Matrix<double> random_spd(Index size, Rng& rng) {
  const Matrix<double> x = random_matrix(size, 3 * size, rng);
  return x * x.transpose() / static_cast<double>(size);
}

/// Random curvature of a structure, with a bias input of 1.
inline Curvature random_estimate(AnyModel& model, CurvatureStructure structure, Rng& rng) {
  Curvature estimate;
  estimate.record.structure = structure;
  for (const ParameterBlock& block : parameter_blocks(model)) {
    BlockEstimate<double> one;
    one.block = block;
    const bool factored = block.factored && (structure == CurvatureStructure::Kronecker ||
                                             structure == CurvatureStructure::Ekfac);
    if (factored)
      one.factors = {random_spd(block.columns(), rng), random_spd(block.outputs, rng)};
    else if (structure == CurvatureStructure::Full)
      one.full = random_spd(block.size(), rng);
    else
      one.diagonal = random_matrix(block.outputs, block.columns(), rng).cwiseAbs2();
    estimate.blocks.push_back(one);
  }
  if (structure == CurvatureStructure::Ekfac) {
    decompose(estimate);
    for (BlockEstimate<double>& block : estimate.blocks) {
      if (!block.has_factors()) continue;
      block.eigen.set_grid(
          random_matrix(block.block.outputs, block.block.columns(), rng).cwiseAbs2());
      block.has_moments = true;
    }
  }
  return estimate;
}

/// A block's curvature, damped as compression does it.
inline Matrix<double> dense_curvature(const BlockEstimate<double>& block, double damping = 0) {
  const auto damped = [damping](Matrix<double> m) {
    m.diagonal().array() += damping * m.trace() / static_cast<double>(m.rows());
    return m;
  };
  if (block.has_moments) return damped(block.eigen.dense());
  if (block.has_factors())
    return linalg::kronecker_product<double>(damped(block.factors.a), damped(block.factors.g));
  if (block.full.size() > 0) return damped(block.full);
  return damped(block.diagonal.reshaped().asDiagonal());
}

/// What is left of a vector when some entries are set to zero and the others make up for it.
struct Removal {
  Vector<double> left;
  double cost;
};
inline Removal removal(const Matrix<double>& c, const Vector<double>& w,
                       const std::vector<Index>& gone) {
  std::vector<Index> free;
  for (Index i = 0; i < w.size(); ++i)
    if (std::find(gone.begin(), gone.end(), i) == gone.end()) free.push_back(i);
  Vector<double> change = Vector<double>::Zero(w.size());
  for (const Index i : gone) change(i) = -w(i);
  if (!free.empty()) {
    const Vector<double> slope = c * change;
    const Matrix<double> among = c(free, free);
    const Vector<double> part = slope(free);
    const Vector<double> best = -among.ldlt().solve(part);
    change(free) = best;
  }
  return {w + change, 0.5 * change.dot(c * change)};
}

/// A network of fewer than 200 parameters with a convolution, a hidden layer and one without bias.
inline AnyModel small_network(Rng& rng) {
  AnyModel model;
  model.push_back(Unflatten<double>({1, 4, 4}));
  model.push_back(
      Conv2d<double>({.in_channels = 1, .out_channels = 3, .kernel_size = {2, 2}}, rng));
  model.push_back(Tanh<double>{});
  model.push_back(Flatten<double>{});
  model.push_back(Linear<double>(27, 4, rng));
  model.push_back(Tanh<double>{});
  model.push_back(Linear<double>(4, 3, rng, {.bias = false}));
  return model;
}

inline AnyModel small_mlp(Rng& rng) {
  return AnyModel({Linear<double>(4, 6, rng), Tanh<double>{}, Linear<double>(6, 5, rng),
                   ReLU<double>{}, Linear<double>(5, 3, rng)});
}

/// Labelled data, kept where slices can refer to them.
struct Data {
  Dataset<double> set;

  Data(Index inputs, Index classes, Index examples, Rng& rng) {
    set.inputs = random_matrix(inputs, examples, rng);
    set.targets = random_labels(classes, examples, rng);
  }
};

}  // namespace kfac::test::compression
