#pragma once

#include <kfac/core/types.hpp>

namespace kfac {

/// exp(f_k) / sum_j exp(f_j) of each column f. Finite logits of any size are safe.
template <class Derived>
Matrix<typename Derived::Scalar> softmax(const Eigen::MatrixBase<Derived>& outputs) {
  Matrix<typename Derived::Scalar> result = outputs;
  if (result.size() == 0) return result;
  for (auto column : result.colwise()) {
    column.array() -= column.maxCoeff();
    column = column.array().exp();
    column /= column.sum();
  }
  return result;
}

}  // namespace kfac
