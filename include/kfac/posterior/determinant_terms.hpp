#pragma once

#include <kfac/core/types.hpp>

namespace kfac {

/// log det of a posterior precision kappa K + delta, and how it changes with the logarithms of the
/// prior precisions delta, a group of parameters each. As log det changes by the number of
/// parameters times log c when kappa and all delta are multiplied by c, this also says how it
/// changes with log kappa.
struct DeterminantTerms {
  double log_determinant = 0;
  Vector<double> first;   ///< d log det / d log delta, a number from 0 to the group's size
  Matrix<double> second;  ///< the second derivatives; empty where they are not wanted

  DeterminantTerms(Index groups, bool with_second)
      : first(Vector<double>::Zero(groups)),
        second(Matrix<double>::Zero(with_second ? groups : 0, with_second ? groups : 0)) {}

  bool wants_second() const { return second.size() > 0; }
};

}  // namespace kfac
