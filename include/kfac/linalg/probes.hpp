#pragma once

#include <kfac/core/errors.hpp>
#include <kfac/core/random.hpp>

namespace kfac::linalg {

/// Distributions of random vectors with independent entries of mean 0 and variance 1.
enum class Probe { Rademacher, Gaussian };

/// How many random vectors an estimator may spend, and of which kind.
struct ProbeOptions {
  Index samples = 30;  ///< products with the operator, at least as many as the estimator says
  Probe probe = Probe::Rademacher;
};

namespace detail {

/// The estimators that need no basis multiply this many probes at a time, which bounds their
/// memory.
inline constexpr Index kProbeBlock = 16;

template <RealScalar S>
void fill_probes(Matrix<S>& probes, Probe probe, Rng& rng) {
  if (probe == Probe::Gaussian) {
    rng.fill_normal(probes);
    return;
  }
  for (Index column = 0; column < probes.cols(); ++column)
    for (Index row = 0; row < probes.rows(); ++row)
      probes(row, column) = rng.uniform() < 0.5 ? S(-1) : S(1);
}

}  // namespace detail
}  // namespace kfac::linalg
