#pragma once

#include <limits>
#include <utility>

#include <Eigen/LU>

#include <kfac/curvature/curvature_matrix.hpp>
#include <kfac/linalg/kronecker.hpp>

namespace kfac {

/// (K K^T)^-1 (x) (C C^T)^-1 from its inverse's roots K and C.
template <RealScalar S>
class InverseFreeMatrix : public CurvatureMatrix<S> {
 public:
  InverseFreeMatrix(Matrix<S> k, Matrix<S> c) : a_(std::move(k)), g_(std::move(c)) {}

  Index rows() const override { return g_.root.rows(); }
  Index columns() const override { return a_.root.rows(); }
  S trace() const override { return a_.factor.trace() * g_.factor.trace(); }
  Matrix<S> diagonal() const override {
    return g_.factor.diagonal() * a_.factor.diagonal().transpose();
  }
  Matrix<S> dense() const override { return linalg::kronecker_product<S>(a_.factor, g_.factor); }
  bool singular() const override { return !a_.regular || !g_.regular; }

 private:
  /// One of the two, (root root^T)^-1.
  struct Factor {
    explicit Factor(Matrix<S> square_root) : root(std::move(square_root)) {
      const Eigen::PartialPivLU<Matrix<S>> lu(root);
      inverse_root = lu.inverse();
      factor.noalias() = inverse_root.transpose() * inverse_root;
      log_determinant = S(-2) * lu.matrixLU().diagonal().array().abs().log().sum();
      regular = lu.rcond() > static_cast<S>(root.rows()) * std::numeric_limits<S>::epsilon();
    }
    Matrix<S> root;
    Matrix<S> inverse_root;
    Matrix<S> factor;
    S log_determinant = 0;
    bool regular = false;
  };

  void do_multiply(MatrixRef<S> v) const override { multiply_by(v, g_.factor, a_.factor); }
  void do_solve(MatrixRef<S> v) const override {
    multiply_by(v, g_.root.transpose(), a_.root);
    multiply_by(v, g_.root, a_.root.transpose());
  }
  void do_multiply_sqrt(MatrixRef<S> v) const override {
    multiply_by(v, g_.inverse_root.transpose(), a_.inverse_root);
  }
  void do_multiply_inverse_sqrt(MatrixRef<S> v) const override {
    multiply_by(v, g_.root, a_.root.transpose());
  }
  S do_log_determinant() const override {
    return static_cast<S>(columns()) * g_.log_determinant +
           static_cast<S>(rows()) * a_.log_determinant;
  }

  template <class Left, class Right>
  static void multiply_by(MatrixRef<S> v, const Left& left, const Right& right) {
    const Matrix<S> half = left * v;
    v.noalias() = half * right;
  }

  Factor a_, g_;
};

}  // namespace kfac
