#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include <kfac/core/types.hpp>

namespace kfac::testing {

/// difference / scale, or infinity where that is not finite; 0 if there is no difference.
inline double relative_error(double difference, double scale) {
  if (difference == 0) return 0;
  const double error = difference / scale;
  return std::isfinite(error) ? error : std::numeric_limits<double>::infinity();
}

/// Between matrices, in the Frobenius norm of the larger one.
template <class A, class B>
double relative_error(const Eigen::MatrixBase<A>& a, const Eigen::MatrixBase<B>& b) {
  if (a.rows() != b.rows() || a.cols() != b.cols()) return std::numeric_limits<double>::infinity();
  return relative_error(static_cast<double>((a - b).norm()),
                        static_cast<double>(std::max(a.norm(), b.norm())));
}

}  // namespace kfac::testing
