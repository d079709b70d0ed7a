#include "posterior/posteriors.hpp"

#include <kfac/curvature/jacobian.hpp>
#include <kfac/posterior/fit_laplace.hpp>

#include "support/eigensolver.hpp"
#include "support/parameter_block_networks.hpp"

namespace kfac::test {

namespace posteriors {

RandomNetwork tokens(Rng& rng) {
  RandomNetwork network;
  network.shape = {3, 2};
  append_linear(network.model, {2, 3}, rng, true);
  network.model.push_back(Tanh<double>{});
  append_linear(network.model, {3, 2}, rng, true);
  return network;
}

RandomNetwork network_of(NetworkKind kind, Rng& rng) {
  RandomNetwork network;
  switch (kind) {
    case NetworkKind::AllBlocks:
      return network_of_all_blocks(rng);
    case NetworkKind::Activated:
      network = random_network(rng);
      network.model.push_back(Tanh<double>{});
      return network;
    case NetworkKind::PerToken:
      return tokens(rng);
    case NetworkKind::MeanOfTokens:
      network = tokens(rng);
      network.model.push_back(MeanTokens<double>{});
      return network;
    case NetworkKind::Mlp:
      network.shape = {3};
      append_linear(network.model, {3, 4}, rng, true);
      network.model.push_back(Tanh<double>{});
      append_linear(network.model, {4, 3}, rng, true);
      return network;
    case NetworkKind::Random:
      break;
  }
  return random_network(rng);
}

Laplace<double> posterior_of(PosteriorKind kind, AnyModel& model, const Task& task,
                             LaplaceOptions<double> options) {
  using Kind = PosteriorKind;
  options.last_layer = kind == Kind::LastLayer || kind == Kind::FullLastLayer;
  if (kind == Kind::Full || kind == Kind::FullLastLayer)
    return fit_full_laplace(model, task.loss, growing_slices(task), options);
  EstimateOptions estimate;
  if (kind == Kind::Ekfac) estimate.structure = CurvatureStructure::Ekfac;
  if (kind == Kind::Diagonal) estimate.structure = CurvatureStructure::Diagonal;
  if (kind == Kind::DenseBlocks) estimate.structure = CurvatureStructure::Full;
  return fit_laplace(model, task.loss, growing_slices(task), options, estimate);
}

/// P of a block, by the definition.
Matrix<double> dense_precision(const Laplace<double>& posterior, std::size_t i) {
  const BlockEstimate<double>& of = posterior.blocks()[i].curvature();
  const double kappa = posterior.likelihood_precision();
  if (posterior.options().prior_damping == PriorDamping::Multiplicative && of.has_factors()) {
    const double damping = std::sqrt(posterior.prior().precision()(0));
    Matrix<double> a = of.factors.a.selfadjointView<Eigen::Lower>();
    Matrix<double> g = of.factors.g.selfadjointView<Eigen::Lower>();
    a = std::sqrt(kappa) * a + damping * Matrix<double>::Identity(a.rows(), a.rows());
    g = std::sqrt(kappa) * g + damping * Matrix<double>::Identity(g.rows(), g.rows());
    return linalg::kronecker_product<double>(a, g);
  }
  Matrix<double> precision;
  if (of.full.size() > 0)
    precision = of.full.selfadjointView<Eigen::Lower>();
  else if (!of.eigen.empty())
    precision = of.eigen.dense();
  else
    precision = of.diagonal.reshaped().asDiagonal();
  precision *= kappa;
  precision.diagonal() += posterior.prior().precision_of(i).reshaped();
  return precision;
}

/// P^-1 of all parameters; 0 of those that are not random.
Matrix<double> dense_covariance(const Laplace<double>& posterior) {
  Matrix<double> covariance = Matrix<double>::Zero(posterior.parameters(), posterior.parameters());
  std::vector<Index> random;
  for (std::size_t i = 0; i < posterior.blocks().size(); ++i) {
    const PosteriorBlock<double>& block = posterior.blocks()[i];
    if (!block.random()) continue;
    const Index first = block.block().offset;
    const Index size = block.block().size();
    for (Index k = 0; k < size; ++k) random.push_back(first + k);
    if (!posterior.is_full())
      covariance.block(first, first, size, size) = dense_precision(posterior, i).inverse();
  }
  if (!posterior.is_full()) return covariance;
  Matrix<double> precision = posterior.joint_curvature().selfadjointView<Eigen::Lower>();
  precision *= posterior.likelihood_precision();
  const Vector<double> delta = posterior.prior().flat_precision();
  precision.diagonal() += delta(random);
  const Matrix<double> inverse = precision.inverse();
  covariance(random, random) = inverse;
  return covariance;
}

}  // namespace posteriors

PosteriorCase posterior_case(NetworkKind network, PosteriorKind kind, LossKind loss, Index examples,
                             LaplaceOptions<double> options, std::uint64_t seed) {
  Rng rng(seed);
  RandomNetwork made = posteriors::network_of(network, rng);
  const AnyLoss criterion = all_losses({})[static_cast<std::size_t>(loss)];
  options.likelihood =
      loss == LossKind::SquaredError ? Likelihood::Regression : Likelihood::Classification;
  if (loss != LossKind::SquaredError) options.observation_noise = 1;
  const Task task(made.model, criterion, made.shape, examples, rng);
  Laplace<double> posterior = posteriors::posterior_of(kind, made.model, task, options);
  const Jacobian<AnyModel> jacobian(made.model, task.x, task.shape);
  const Matrix<double> dense = jacobian.dense();
  Matrix<double> outputs = jacobian.outputs();
  Matrix<double> covariance = dense * posteriors::dense_covariance(posterior) * dense.transpose();
  return {std::move(made.model), task.shape,           task.x, task.y, std::move(posterior),
          std::move(outputs),    std::move(covariance)};
}

Laplace<double> unit_posterior(DynamicSequential<double>& model) {
  CurvatureEstimate<double> estimate;
  for (const ParameterBlock& block : parameter_blocks(model)) {
    BlockEstimate<double>& of = estimate.blocks.emplace_back();
    of.block = block;
    of.diagonal = Matrix<double>::Ones(block.outputs, block.columns());
  }
  return {std::move(estimate), flat_parameters(model)};
}

}  // namespace kfac::test
