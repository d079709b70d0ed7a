#pragma once

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include <kfac/curvature/parameter_block.hpp>

namespace kfac {

/// What the criterion of a loss is the negative logarithm of.
enum class Likelihood {
  Classification,  ///< of labels: cross-entropy, softmax or Bernoulli
  Regression,      ///< of real outputs, each normal with the observation noise: squared error
};

/// Which parameters share a prior precision.
enum class PriorGrouping {
  Scalar,     ///< all
  Layer,      ///< those of a layer
  Tensor,     ///< the weights of a layer, and its biases apart
  Parameter,  ///< none: for the diagonal and dense structures
};

/// How the prior is added to Kronecker factors.
enum class PriorDamping {
  Additive,  ///< kappa A (x) G + delta I, which is the prior's
  /// (sqrt(kappa) A + sqrt(delta) I) (x) (sqrt(kappa) G + sqrt(delta) I), larger by cross terms:
  /// of the structure Kronecker, and a weight's prior precision is its bias's.
  Multiplicative,
};

template <RealScalar S>
struct LaplaceOptions {
  Likelihood likelihood = Likelihood::Classification;
  /// delta, of each group or one for all; >= 0, finite. 0 where the curvature alone is positive
  /// definite.
  std::vector<double> prior_precision = {1};
  PriorGrouping prior_grouping = PriorGrouping::Scalar;
  /// Groups of one's own instead, numbered from 0 without gaps: of the weights or (`true`) the
  /// biases of a block.
  std::function<Index(const ParameterBlock&, bool)> prior_group = {};
  /// Of all parameters; with one entry, of each. Empty: 0.
  Vector<S> prior_mean = {};
  double observation_noise = 1;  ///< sigma of regression, a standard deviation; > 0, finite
  double temperature = 1;        ///< T: the likelihood to the power 1 / T; > 0, finite
  /// Only the last block with Kronecker factors is random, all other parameters are held fixed.
  bool last_layer = false;
  /// Which blocks are random, in place of all of them.
  std::function<bool(const ParameterBlock&)> subset = {};
  PriorDamping prior_damping = PriorDamping::Additive;

  /// \throws OptionError
  void validate(const char* where) const {
    for (const double precision : prior_precision)
      detail::check_option(precision >= 0 && std::isfinite(precision), where, "prior_precision",
                           precision, ">= 0 and finite");
    const auto positive = [&](const char* field, double value) {
      detail::check_option(value > 0 && std::isfinite(value), where, field, value,
                           "> 0 and finite");
    };
    positive("observation_noise", observation_noise);
    positive("temperature", temperature);
    if (likelihood == Likelihood::Classification)
      detail::check_option(observation_noise == 1, where, "observation_noise", observation_noise,
                           "1 where the likelihood is that of labels");
    if (last_layer && subset)
      raise<OptionError>(std::string(where) +
                         ": 'last_layer' and 'subset' are both given, expected one of them");
    detail::check_finite(where, "prior_mean", prior_mean);
  }
};

}  // namespace kfac
