#pragma once

#include <cmath>
#include <limits>

#include <Eigen/Cholesky>

#include <kfac/curvature/curvature_matrix.hpp>
#include <kfac/linalg/factor_balance.hpp>

namespace kfac {
namespace detail {

/// The norm of `linalg::detail::balancing_norm`, of a diagonal matrix >= 0.
template <RealScalar S>
S balancing_norm_of_diagonal(FactorBalance balance, const Vector<S>& diagonal) {
  switch (balance) {
    case FactorBalance::None:
      return 1;
    case FactorBalance::Trace:
      return diagonal.mean();
    case FactorBalance::Frobenius:
      return diagonal.stableNorm() / std::sqrt(static_cast<S>(diagonal.size()));
    case FactorBalance::OneNorm:
    case FactorBalance::Spectral:
      return diagonal.maxCoeff();
  }
  return 1;
}

/// Splits the damping over a diagonal factor A and G as `FactoredInverse` does, and adds it.
template <RealScalar S>
void damp_factors(FactorBalance balance, S damping, Vector<S>& a, Matrix<S>& g,
                  Buffer<S>& scratch) {
  const S norm_a = balancing_norm_of_diagonal<S>(balance, a);
  const S norm_g = linalg::detail::balancing_norm<S>(balance, g, scratch);
  const S ratio = norm_a > 0 && norm_g > 0 ? norm_a / norm_g : S(1);
  const S pi = ratio > 0 && std::isfinite(ratio) ? std::sqrt(ratio) : S(1);
  const S root = std::sqrt(damping);
  a.array() += root * pi;
  g.diagonal().array() += root / pi;
}

}  // namespace detail

/// A (x) G with a diagonal A and the damping split over the factors, C = (A + pi sqrt(damping) I)
/// (x) (G + sqrt(damping)/pi I), by a Cholesky factor of G.
template <RealScalar S>
class DiagonalInputMatrix : public CurvatureMatrix<S> {
 public:
  /// `a` is A's diagonal, >= 0.
  DiagonalInputMatrix(const Vector<S>& a, const Matrix<S>& g, S damping, FactorBalance balance)
      : a_(a), g_(g) {
    Buffer<S> scratch;
    detail::damp_factors<S>(balance, damping, a_, g_, scratch);
    cholesky_.compute(g_);
    singular_ = !is_regular(a_, damping) || cholesky_.info() != Eigen::Success ||
                !is_regular(cholesky_.matrixLLT().diagonal().array().square().matrix(), damping);
  }

  Index rows() const override { return g_.rows(); }
  Index columns() const override { return a_.size(); }
  S trace() const override { return a_.sum() * g_.trace(); }
  Matrix<S> diagonal() const override { return g_.diagonal() * a_.transpose(); }
  bool singular() const override { return singular_; }

 private:
  void do_multiply(MatrixRef<S> v) const override {
    const Matrix<S> half = g_ * v;
    v = half * a_.asDiagonal();
  }
  void do_solve(MatrixRef<S> v) const override {
    cholesky_.solveInPlace(v);
    v.array().rowwise() /= a_.array().transpose();
  }
  void do_multiply_sqrt(MatrixRef<S> v) const override {
    if (cholesky_.info() != Eigen::Success)
      raise<SingularError>(
          "kfac::CurvatureMatrix::multiply_sqrt: the block is singular, expected damping > 0");
    const Matrix<S> half = cholesky_.matrixL() * v;
    v = half * a_.cwiseSqrt().asDiagonal();
  }
  void do_multiply_inverse_sqrt(MatrixRef<S> v) const override {
    cholesky_.matrixU().solveInPlace(v);
    v.array().rowwise() /= a_.array().sqrt().transpose();
  }
  S do_log_determinant() const override {
    const S log_g = 2 * cholesky_.matrixLLT().diagonal().array().log().sum();
    return static_cast<S>(columns()) * log_g + static_cast<S>(rows()) * a_.array().log().sum();
  }

  /// Of eigenvalues, or squared pivots.
  static bool is_regular(const Vector<S>& values, S damping) {
    const S ratio = values.minCoeff() / values.maxCoeff();
    return ratio >
           (damping > 0 ? S(0) : static_cast<S>(values.size()) * std::numeric_limits<S>::epsilon());
  }

  Vector<S> a_;
  Matrix<S> g_;
  Eigen::LLT<Matrix<S>> cholesky_;
  bool singular_ = false;
};

}  // namespace kfac
