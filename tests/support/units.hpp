#pragma once

#include <kfac/core/types.hpp>

namespace kfac::test {

/// The entries of a block of `units x size` parameters between parameters of one unit; zero else.
inline Matrix<double> between_own_units(const Matrix<double>& full, Index units) {
  Matrix<double> result = Matrix<double>::Zero(full.rows(), full.cols());
  for (Index j = 0; j < full.cols(); ++j)
    for (Index i = j % units; i < full.rows(); i += units) result(i, j) = full(i, j);
  return result;
}

}  // namespace kfac::test
