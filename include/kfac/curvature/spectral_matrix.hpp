#pragma once

#include <limits>
#include <utility>

#include <kfac/curvature/curvature_matrix.hpp>
#include <kfac/linalg/kronecker_eigen.hpp>

namespace kfac {

/// A matrix that is diagonal in a Kronecker eigenbasis, damped exactly: K-FAC, EKFAC and the like.
template <RealScalar S>
class SpectralMatrix : public CurvatureMatrix<S> {
 public:
  SpectralMatrix(linalg::KroneckerEigen<S> eigen, S damping)
      : eigen_(std::move(eigen)), damping_(damping) {}

  Index rows() const override { return eigen_.outputs(); }
  Index columns() const override { return eigen_.inputs(); }
  S trace() const override { return eigen_.trace() + damping_ * static_cast<S>(this->size()); }
  Matrix<S> diagonal() const override { return (eigen_.diagonal().array() + damping_).matrix(); }
  bool singular() const override {
    if (damping_ > 0) return false;
    const S tolerance = static_cast<S>(this->size()) * std::numeric_limits<S>::epsilon();
    return !(eigen_.grid().minCoeff() > tolerance * eigen_.grid().maxCoeff());
  }

  /// The bases and undamped eigenvalues.
  const linalg::KroneckerEigen<S>& eigen() const { return eigen_; }

 private:
  using Function = linalg::MatrixFunction;

  void do_multiply(MatrixRef<S> v) const override { eigen_.apply(Function::Identity, damping_, v); }
  void do_solve(MatrixRef<S> v) const override { eigen_.apply(Function::Inverse, damping_, v); }
  void do_multiply_sqrt(MatrixRef<S> v) const override {
    eigen_.apply(Function::Sqrt, damping_, v);
  }
  void do_multiply_inverse_sqrt(MatrixRef<S> v) const override {
    eigen_.apply(Function::InverseSqrt, damping_, v);
  }
  S do_log_determinant() const override { return eigen_.log_determinant(damping_); }

  linalg::KroneckerEigen<S> eigen_;
  S damping_;
};

}  // namespace kfac
