#pragma once

#include <limits>
#include <utility>

#include <Eigen/Eigenvalues>

#include <kfac/core/buffer.hpp>

namespace kfac {

/// The exactly damped inverse of A (x) G, by eigenbases A = U_A diag(a) U_A^T and G likewise:
/// \f$ V \mapsto U_G [ (U_G^T V U_A)_{ij} / (\gamma_i a_j + \lambda) ] U_A^T \f$, which is
/// \f$ (A \otimes G + \lambda I)^{-1} \f$. Pass one to a preconditioner, optimizer or block in
/// place of the default `FactoredInverse`:
///
///     kfac::KfacOptimizer optimizer(model, loss, {.damping = 1e-3f},
///     kfac::SpectralInverse<float>{});
///
/// It is in a header of its own because Eigen's eigensolver takes seconds to compile.
/// \source Martens and Grosse 2015, arXiv 1503.05671, appendix B
template <RealScalar S>
class SpectralInverse {
 public:
  using Scalar = S;

  /// Recomputes the eigenbases. Returns false, keeping what was there, if the eigensolver does not
  /// converge or, without damping, if a factor is singular to working precision. Nothing is
  /// split over the factors, so there is no pi to choose.
  bool refresh(const Matrix<S>& a, const Matrix<S>& g, S damping, bool = true) {
    if (!decompose(a, next_a_, a_solver_) || !decompose(g, next_g_, g_solver_)) return false;
    if (damping == 0 && (singular(next_a_.values) || singular(next_g_.values))) return false;
    std::swap(a_, next_a_);
    std::swap(g_, next_g_);
    damping_ = damping;
    return true;
  }

  bool empty() const { return a_.vectors.size() == 0; }

  /// Multiplies `v` (`outputs x inputs`) with the inverse, in place.
  void apply(MatrixRef<S> v) {
    MatrixMap<S> half = product_.map(v.rows(), v.cols());
    half.noalias() = g_.vectors.transpose() * v;
    v.noalias() = half * a_.vectors;
    for (Index j = 0; j < v.cols(); ++j)
      v.col(j).array() /= g_.values.array() * a_.values(j) + damping_;
    half.noalias() = g_.vectors * v;
    v.noalias() = half * a_.vectors.transpose();
  }

 private:
  using Solver = Eigen::SelfAdjointEigenSolver<Matrix<S>>;
  struct Eigenbasis {
    Matrix<S> vectors;
    Vector<S> values;
  };

  static bool decompose(const Matrix<S>& factor, Eigenbasis& basis, Solver& solver) {
    if (!factor.allFinite()) return false;
    solver.compute(factor);
    if (solver.info() != Eigen::Success) return false;
    basis.vectors = solver.eigenvectors();
    basis.values = solver.eigenvalues().cwiseMax(S(0));
    return true;
  }

  static bool singular(const Vector<S>& values) {
    return values.minCoeff() <=
           static_cast<S>(values.size()) * std::numeric_limits<S>::epsilon() * values.maxCoeff();
  }

  Eigenbasis a_, g_;
  Eigenbasis next_a_, next_g_;  // a failed refresh must leave the bases in use alone
  Solver a_solver_, g_solver_;
  S damping_ = 0;
  Buffer<S> product_;
};

}  // namespace kfac
