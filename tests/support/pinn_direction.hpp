#pragma once

#include <cstddef>

#include <Eigen/Cholesky>

#include <kfac/linalg/kronecker.hpp>
#include <kfac/scientific/pinn_optimizer.hpp>

namespace kfac::test {

/// - (A1 (x) G1 + A2 (x) G2)^-1 gradient, layer by layer, dense.
template <class Optimizer>
Vector<double> direction(const Optimizer& optimizer, const Vector<double>& gradient,
                         double damping) {
  Vector<double> result = -gradient;
  Index offset = 0;
  for (std::size_t i = 0; i < optimizer.layers().size(); ++i) {
    const auto& layer = optimizer.layers()[i];
    if (layer.kronecker) {
      const auto [first, second] = optimizer.factors(i, damping);
      const Matrix<double> sum = linalg::kronecker_product<double>(first.a, first.g) +
                                 linalg::kronecker_product<double>(second.a, second.g);
      const Vector<double> part = result.segment(offset, sum.rows());
      result.segment(offset, sum.rows()) = sum.llt().solve(part);
    }
    offset += layer.parameters.size();
  }
  return result;
}

}  // namespace kfac::test
