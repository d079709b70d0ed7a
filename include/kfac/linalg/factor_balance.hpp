#pragma once

#include <algorithm>
#include <cmath>

#include <kfac/core/buffer.hpp>
#include <kfac/core/random.hpp>

namespace kfac {

/// How damping is split over the factors A and G of a Kronecker product: by
/// \f$ \pi = \sqrt{n(A) / n(G)} \f$, A gets pi sqrt(damping) and G sqrt(damping) / pi. The norms n
/// are divided such that an identity has 1, whatever its size.
/// \source Martens and Grosse 2015, arXiv 1503.05671, section 6.3
enum class FactorBalance {
  None,       ///< pi = 1
  Trace,      ///< n is the mean eigenvalue: the paper's choice, and the cheapest
  Frobenius,  ///< the root mean square of the eigenvalues
  OneNorm,    ///< the largest sum of absolute values in a column, an upper bound of `Spectral`
  Spectral,   ///< the largest eigenvalue, by 20 power iterations: low by a fifth at most
};

namespace linalg {
namespace detail {

/// Power iterations of `largest_eigenvalue`.
inline constexpr Index kBalanceIterations = 20;

template <RealScalar S>
S scaled_frobenius_norm(const ConstMatrixRef<S>& matrix) {
  const S largest = matrix.diagonal().maxCoeff();  // of all entries, if positive semi-definite
  if (!(largest > 0)) return 0;
  S sum = 0;
  for (Index j = 0; j < matrix.cols(); ++j) {
    const S diagonal = matrix(j, j) / largest;
    sum += diagonal * diagonal;
    sum += S(2) * (matrix.col(j).tail(matrix.rows() - j - 1) / largest).squaredNorm();
  }
  return largest * std::sqrt(sum / static_cast<S>(matrix.rows()));
}

template <RealScalar S>
S one_norm(const ConstMatrixRef<S>& matrix) {
  S largest = 0;
  for (Index j = 0; j < matrix.cols(); ++j) {
    const S sum = matrix.col(j).tail(matrix.rows() - j).template lpNorm<1>() +
                  matrix.row(j).head(j).template lpNorm<1>();
    if (!std::isfinite(sum)) return sum;
    largest = std::max(largest, sum);
  }
  return largest;
}

/// From below, from a start that is always the same. The relative error is below 1e-8 where no
/// other eigenvalue exceeds half the largest, and a fifth at most where the spectrum has no gap.
template <RealScalar S>
S largest_eigenvalue(const ConstMatrixRef<S>& matrix, Buffer<S>& scratch) {
  const Index size = matrix.rows();
  const S largest = matrix.diagonal().maxCoeff();
  if (!(largest > 0)) return 0;
  MatrixMap<S> vectors = scratch.map(size, 2);
  VectorMap<S> v(vectors.data(), size);
  VectorMap<S> product(vectors.data() + size, size);
  Rng(1).fill_normal(v);
  v.normalize();
  S norm = 0;
  for (Index i = 0; i < kBalanceIterations; ++i) {
    product.noalias() = matrix.template selfadjointView<Eigen::Lower>() * v;
    product /= largest;  // squares of what is very large or small would not be representable
    norm = product.norm();
    if (!(norm > 0)) break;
    v = product / norm;
  }
  return largest * norm;
}

template <RealScalar S>
S balancing_norm(FactorBalance balance, const ConstMatrixRef<S>& matrix, Buffer<S>& scratch) {
  switch (balance) {
    case FactorBalance::None:
      return 1;
    case FactorBalance::Trace:
      return matrix.trace() / static_cast<S>(matrix.rows());
    case FactorBalance::Frobenius:
      return scaled_frobenius_norm<S>(matrix);
    case FactorBalance::OneNorm:
      return one_norm<S>(matrix);
    case FactorBalance::Spectral:
      return largest_eigenvalue<S>(matrix, scratch);
  }
  return 1;
}

}  // namespace detail

/// pi of two symmetric positive semi-definite factors, of which the lower triangles are read; 1
/// where a norm is zero (a dead layer) or not finite, or their ratio is not representable. The work
/// is at most that of 20 products with a vector. Allocates nothing once `scratch` is large enough.
template <RealScalar S>
S factor_balance(FactorBalance balance, const ConstMatrixRef<S>& a, const ConstMatrixRef<S>& g,
                 Buffer<S>& scratch) {
  const S norm_a = detail::balancing_norm<S>(balance, a, scratch);
  const S norm_g = detail::balancing_norm<S>(balance, g, scratch);
  if (!(norm_a > 0 && norm_g > 0)) return S(1);
  const S ratio = norm_a / norm_g;
  return ratio > 0 && std::isfinite(ratio) ? std::sqrt(ratio) : S(1);
}
template <RealScalar S>
S factor_balance(FactorBalance balance, const ConstMatrixRef<S>& a, const ConstMatrixRef<S>& g) {
  Buffer<S> scratch;
  return factor_balance<S>(balance, a, g, scratch);
}

}  // namespace linalg
}  // namespace kfac
