#pragma once

#include <limits>

#include <Eigen/Cholesky>

#include <kfac/core/errors.hpp>
#include <kfac/posterior/determinant_terms.hpp>

namespace kfac {

/// The inverse of a dense posterior precision, by its Cholesky factorisation P = L L^T, in double
/// for either scalar.
template <RealScalar S>
class DensePrecision {
 public:
  /// Factorises kappa K + diag(delta), of K's lower triangle. Returns false, keeping what was
  /// there, if it is not positive definite to working precision.
  bool compute(const Matrix<S>& curvature, double kappa, const Vector<double>& delta) {
    Matrix<double> precision = kappa * curvature.template cast<double>();
    precision.diagonal() += delta;
    Eigen::LLT<Matrix<double>> next(precision);
    if (next.info() != Eigen::Success) return false;
    constexpr auto kEpsilon = static_cast<double>(std::numeric_limits<S>::epsilon());
    const double tolerance = static_cast<double>(delta.size()) * kEpsilon;
    const Vector<double> pivots = next.matrixLLT().diagonal().cwiseAbs2();
    if (!(pivots.array() > tolerance * precision.diagonal().array()).all() && delta.minCoeff() == 0)
      return false;
    cholesky_ = std::move(next);
    return true;
  }

  Index size() const { return cholesky_.rows(); }

  /// v <- P^-1 v
  void multiply_covariance(VectorRef<S> v) const {
    v = cholesky_.solve(v.template cast<double>()).template cast<S>();
  }
  /// v <- L^-T v, whose product with its transpose is P^-1.
  void multiply_covariance_sqrt(VectorRef<S> v) const {
    Vector<double> x = v.template cast<double>();
    cholesky_.matrixU().solveInPlace(x);
    v = x.template cast<S>();
  }
  /// v <- L^-1 v
  void multiply_covariance_sqrt_transposed(VectorRef<S> v) const {
    Vector<double> x = v.template cast<double>();
    cholesky_.matrixL().solveInPlace(x);
    v = x.template cast<S>();
  }
  /// v <- P v
  void multiply_precision(VectorRef<S> v) const {
    const Vector<double> x = cholesky_.matrixU() * v.template cast<double>();
    v = (cholesky_.matrixL() * x).template cast<S>();
  }

  /// P^-1
  Matrix<double> covariance() const {
    return cholesky_.solve(Matrix<double>::Identity(size(), size()));
  }
  /// The diagonal of P^-1.
  Vector<S> variances() const {
    Matrix<double> inverse = Matrix<double>::Identity(size(), size());
    cholesky_.matrixL().solveInPlace(inverse);
    return inverse.colwise().squaredNorm().transpose().template cast<S>();
  }
  double log_determinant() const {
    return 2 * cholesky_.matrixLLT().diagonal().array().log().sum();
  }

  /// Adds to the terms, parameter i being of group `group(i)` with precision `delta(i)`.
  template <class GroupOf>
  void add_to(DeterminantTerms& terms, const Vector<double>& delta, GroupOf&& group) const {
    terms.log_determinant += log_determinant();
    const Matrix<double> inverse = covariance();
    for (Index i = 0; i < size(); ++i) terms.first(group(i)) += delta(i) * inverse(i, i);
    if (!terms.wants_second()) return;
    for (Index j = 0; j < size(); ++j) {
      terms.second(group(j), group(j)) += delta(j) * inverse(j, j);
      for (Index i = 0; i < size(); ++i)
        terms.second(group(i), group(j)) -= delta(i) * delta(j) * inverse(i, j) * inverse(i, j);
    }
  }

 private:
  Eigen::LLT<Matrix<double>> cholesky_;
};

}  // namespace kfac
