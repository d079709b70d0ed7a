#pragma once

#include <cmath>
#include <limits>

#include <Eigen/Cholesky>

#include <kfac/curvature/curvature_matrix.hpp>
#include <kfac/linalg/factor_balance.hpp>
#include <kfac/linalg/kronecker.hpp>

namespace kfac {

/// A (x) G with the damping split over the factors as `FactoredInverse` does,
/// C = (A + pi sqrt(damping) I) (x) (G + sqrt(damping)/pi I), by Cholesky factors.
template <RealScalar S>
class FactoredMatrix : public CurvatureMatrix<S> {
 public:
  FactoredMatrix(const Matrix<S>& a, const Matrix<S>& g, S damping, FactorBalance balance)
      : a_(a), g_(g) {
    const S root = std::sqrt(damping);
    const S pi = linalg::factor_balance<S>(balance, a, g);
    a_.diagonal().array() += root * pi;
    g_.diagonal().array() += root / pi;
    cholesky_a_.compute(a_);
    cholesky_g_.compute(g_);
    singular_ = !regular(cholesky_a_, damping) || !regular(cholesky_g_, damping);
  }

  Index rows() const override { return g_.rows(); }
  Index columns() const override { return a_.rows(); }
  S trace() const override { return a_.trace() * g_.trace(); }
  Matrix<S> diagonal() const override { return g_.diagonal() * a_.diagonal().transpose(); }
  Matrix<S> dense() const override { return linalg::kronecker_product<S>(a_, g_); }
  bool singular() const override { return singular_; }

 private:
  using Cholesky = Eigen::LLT<Matrix<S>>;

  void do_multiply(MatrixRef<S> v) const override {
    const Matrix<S> half = g_ * v;
    v.noalias() = half * a_;
  }
  void do_solve(MatrixRef<S> v) const override {
    cholesky_g_.solveInPlace(v);
    Matrix<S> transposed = v.transpose();
    cholesky_a_.solveInPlace(transposed);
    v = transposed.transpose();
  }
  void do_multiply_sqrt(MatrixRef<S> v) const override {
    // R = L_A (x) L_G; a singular factor has no Cholesky factor in working precision.
    if (singular_)
      raise<SingularError>(
          "kfac::CurvatureMatrix::multiply_sqrt: the block is singular, expected damping > 0");
    const Matrix<S> half = cholesky_g_.matrixL() * v;
    v.noalias() = half * cholesky_a_.matrixL().transpose();
  }
  void do_multiply_inverse_sqrt(MatrixRef<S> v) const override {
    cholesky_g_.matrixU().solveInPlace(v);
    Matrix<S> transposed = v.transpose();
    cholesky_a_.matrixU().solveInPlace(transposed);
    v = transposed.transpose();
  }
  S do_log_determinant() const override {
    return static_cast<S>(columns()) * log_determinant_of(cholesky_g_) +
           static_cast<S>(rows()) * log_determinant_of(cholesky_a_);
  }

  static bool regular(const Cholesky& cholesky, S damping) {
    if (cholesky.info() != Eigen::Success) return false;
    if (damping > 0) return true;
    const Vector<S> pivots = cholesky.matrixLLT().diagonal();
    const S ratio = pivots.minCoeff() / pivots.maxCoeff();
    return ratio * ratio > static_cast<S>(pivots.size()) * std::numeric_limits<S>::epsilon();
  }
  static S log_determinant_of(const Cholesky& cholesky) {
    return 2 * cholesky.matrixLLT().diagonal().array().log().sum();
  }

  Matrix<S> a_, g_;
  Cholesky cholesky_a_, cholesky_g_;
  bool singular_ = false;
};

}  // namespace kfac
