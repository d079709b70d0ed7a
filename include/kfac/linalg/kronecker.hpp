#pragma once

#include <kfac/core/types.hpp>

namespace kfac::linalg {

/// A (x) G as a dense matrix, for small sizes and tests. With vec stacking columns,
/// (A (x) G) vec(V) = vec(G V A^T).
template <RealScalar S>
Matrix<S> kronecker_product(const ConstMatrixRef<S>& a, const ConstMatrixRef<S>& g) {
  Matrix<S> product(a.rows() * g.rows(), a.cols() * g.cols());
  for (Index j = 0; j < a.cols(); ++j)
    for (Index i = 0; i < a.rows(); ++i)
      product.block(i * g.rows(), j * g.cols(), g.rows(), g.cols()) = a(i, j) * g;
  return product;
}

}  // namespace kfac::linalg
