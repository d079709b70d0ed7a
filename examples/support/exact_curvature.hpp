#pragma once

#include <vector>

#include <kfac/curvature/fisher.hpp>

#include "support/small_images.hpp"

namespace examples {

/// What curvature is of.
struct CurvatureProblem {
  SmallNetwork& model;
  const kfac::SoftmaxCrossEntropy<double>& loss;
  const kfac::Dataset<double>& data;
  kfac::FisherType fisher;  ///< Type2, MonteCarlo or Empirical
  /// Monte-Carlo: the labels, which the exact matrix and its approximations are to share.
  std::vector<kfac::Labels> samples;
};

/// The matrix of all parameters, in the order of the layers: by products of the exact operator with
/// the unit vectors.
Eigen::MatrixXd exact_curvature(const CurvatureProblem& problem);

}  // namespace examples
