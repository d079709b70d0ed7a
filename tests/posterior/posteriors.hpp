#pragma once

#include <cstdint>
#include <vector>

#include <kfac/nn/dynamic_sequential.hpp>
#include <kfac/posterior/laplace.hpp>

/// What the tests of predictions share: networks of all kinds with posteriors of all kinds, and
/// the exact covariance of their outputs, from dense matrices alone.
namespace kfac::test {

enum class PosteriorKind {
  Kronecker,
  Ekfac,
  Diagonal,
  DenseBlocks,
  Full,
  LastLayer,
  FullLastLayer
};
inline constexpr int kPosteriorKinds = 7;

enum class NetworkKind {
  Random,        ///< as `random_network`
  AllBlocks,     ///< as `network_of_all_blocks`
  Activated,     ///< a random one with an activation behind its last layer
  PerToken,      ///< the same last layer at each of three tokens
  MeanOfTokens,  ///< of those, the mean
  Mlp,           ///< 3-4-3
};

enum class LossKind { SquaredError, SoftmaxCrossEntropy, BinaryCrossEntropy };

struct PosteriorCase {
  DynamicSequential<double> model;
  Shape shape;
  Matrix<double> x;
  Matrix<double> targets;  ///< of cross-entropy labels, in a row
  Laplace<double> posterior;
  Matrix<double> outputs;
  Matrix<double> covariance;  ///< J P^-1 J^T of all outputs of all examples
};

/// With random data, of which the posterior's curvature is.
PosteriorCase posterior_case(NetworkKind network, PosteriorKind kind, LossKind loss, Index examples,
                             LaplaceOptions<double> options, std::uint64_t seed);

/// A posterior of diagonal curvature 1.
Laplace<double> unit_posterior(DynamicSequential<double>& model);

}  // namespace kfac::test
