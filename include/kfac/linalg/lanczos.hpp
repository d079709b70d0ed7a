#pragma once

#include <algorithm>
#include <limits>
#include <string>

#include <kfac/core/errors.hpp>
#include <kfac/linalg/linear_operator.hpp>
#include <kfac/linalg/symmetric_eigen.hpp>

namespace kfac::linalg {

/// An orthonormal basis V of a Krylov space, in which the operator is tridiagonal:
/// C V = V T + residual * w e^T, with w orthogonal to V and e the last unit vector.
template <RealScalar S>
struct LanczosDecomposition {
  Matrix<S> basis;              ///< V, `rows x steps`
  Vector<double> diagonal;      ///< of T
  Vector<double> off_diagonal;  ///< of T, one entry fewer
  double residual = 0;          ///< 0 if the space is invariant

  Index steps() const { return diagonal.size(); }

  /// T, dense.
  Matrix<double> projected() const {
    Matrix<double> t = Matrix<double>::Zero(steps(), steps());
    t.diagonal() = diagonal;
    t.template diagonal<1>() = off_diagonal;
    t.template diagonal<-1>() = off_diagonal;
    return t;
  }
};

/// Runs Lanczos on a symmetric operator from `start`, with full reorthogonalisation (twice, so that
/// V is orthonormal to rounding): `steps` products, or fewer where the space becomes invariant.
/// \throws OptionError unless steps >= 1; ShapeError; ValueError if `start` is zero or not finite
/// \source Lanczos 1950; Paige 1972; Giraud, Langou and Rozloznik, The loss of orthogonality in the
///         Gram-Schmidt orthogonalization process, 2005
template <LinearOperator Op>
LanczosDecomposition<ScalarOf<Op>> lanczos(Op&& op, const ConstVectorRef<ScalarOf<Op>>& start,
                                           Index steps) {
  using S = ScalarOf<Op>;
  static constexpr const char* kWhere = "kfac::linalg::lanczos";
  kfac::detail::check_option(steps >= 1, kWhere, "steps", steps, ">= 1");
  kfac::detail::check_size(kWhere, "start", start.size(), op.rows(), "entries");
  kfac::detail::check_finite(kWhere, "start", start);
  if (start.isZero(S(0)))
    raise<ValueError>(std::string(kWhere) + ": 'start' is 0, expected a vector that is not");
  const Index most = std::min(steps, start.size());
  LanczosDecomposition<S> result;
  result.basis.resize(start.size(), most);
  result.diagonal.resize(most);
  result.off_diagonal.resize(most - 1);
  Vector<S> next = start;
  next.stableNormalize();
  S norm = 0;  // of the operator, from below
  Index step = 0;
  for (;;) {
    result.basis.col(step) = next;
    const Vector<S> product = op * next;
    norm = std::max(norm, product.norm());
    const S diagonal = next.dot(product);
    next = product;
    const ConstMatrixRef<S> basis = result.basis.leftCols(step + 1);
    for (int pass = 0; pass < 2; ++pass) {
      const Vector<S> along = basis.transpose() * next;
      next.noalias() -= basis * along;
    }
    const S left = next.norm();
    result.diagonal(step) = static_cast<double>(diagonal);
    ++step;
    // Also left when a product is not finite: then there is nothing to go on with.
    const bool goes_on = left > S(10) * std::numeric_limits<S>::epsilon() * norm;
    if (!goes_on || step == most) {
      result.residual = goes_on ? static_cast<double>(left) : 0.0;
      break;
    }
    result.off_diagonal(step - 1) = static_cast<double>(left);
    next /= left;
  }
  result.basis.conservativeResize(Eigen::NoChange, step);
  result.diagonal.conservativeResize(step);
  result.off_diagonal.conservativeResize(step - 1);
  return result;
}

}  // namespace kfac::linalg
