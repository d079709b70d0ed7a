#pragma once

#include <algorithm>
#include <cmath>

#include <Eigen/QR>

#include "support/random.hpp"

/// Symmetric matrices of which the spectrum is known.
namespace kfac::test {

inline Matrix<double> random_orthogonal(Index size, Rng& rng) {
  const Eigen::HouseholderQR<Matrix<double>> qr(normal<double>(size, size, rng));
  return qr.householderQ();
}

/// Q diag(values) Q^T, exactly symmetric.
inline Matrix<double> compose(const Matrix<double>& q, const Vector<double>& values) {
  const Matrix<double> product = q * values.asDiagonal() * q.transpose();
  return (product + product.transpose()) / 2;
}

/// The same with a random orthogonal Q.
inline Matrix<double> with_spectrum(const Vector<double>& values, Rng& rng) {
  return compose(random_orthogonal(values.size(), rng), values);
}

/// `size` values, evenly spaced in their logarithm, from 1 down to 1 / condition.
inline Vector<double> decaying(Index size, double condition) {
  Vector<double> values(size);
  const double steps = static_cast<double>(std::max<Index>(1, size - 1));
  for (Index i = 0; i < size; ++i) values(i) = std::pow(condition, -static_cast<double>(i) / steps);
  return values;
}

}  // namespace kfac::test
