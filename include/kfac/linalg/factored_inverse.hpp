#pragma once

#include <cmath>
#include <limits>

#include <kfac/core/buffer.hpp>
#include <kfac/linalg/spd_inverse.hpp>

namespace kfac {
namespace linalg {

/// pi, which balances damping over A and G: the root of the ratio of their mean eigenvalues, or 1
/// where one is zero (a dead layer).
template <RealScalar S>
S trace_balance(const ConstMatrixRef<S>& a, const ConstMatrixRef<S>& g) {
  const S mean_a = a.trace() / static_cast<S>(a.rows());
  const S mean_g = g.trace() / static_cast<S>(g.rows());
  return mean_a > 0 && mean_g > 0 ? std::sqrt(mean_a / mean_g) : S(1);
}

}  // namespace linalg

/// The damped inverse of A (x) G with the damping split over the factors, by Cholesky:
/// \f$ V \mapsto (G + \sqrt\lambda/\pi\, I)^{-1} V (A + \pi\sqrt\lambda\, I)^{-1} \f$ with
/// \f$ \pi^2 = (\mathrm{tr} A / \dim A) / (\mathrm{tr} G / \dim G) \f$, or 1 where a trace is zero
/// (a dead layer); pi is 1 too where that balance is not wanted. It damps somewhat more than lambda
/// I added to the product (as an eigenbasis allows) and is several times cheaper.
/// \source Martens and Grosse 2015, arXiv 1503.05671, section 6.3
template <RealScalar S>
class FactoredInverse {
 public:
  using Scalar = S;

  /// Recomputes the inverses from the factors' lower triangles. Returns false, keeping what was
  /// there, if a damped factor is not positive definite; without damping, if a factor is singular
  /// to working precision.
  bool refresh(const Matrix<S>& a, const Matrix<S>& g, S damping, bool pi = true) {
    const S root = std::sqrt(damping);
    const S balance = pi ? linalg::trace_balance<S>(a, g) : S(1);
    if (!invert(a, root * balance, next_a_) || !invert(g, root / balance, next_g_)) return false;
    a_.swap(next_a_);
    g_.swap(next_g_);
    return true;
  }

  bool empty() const { return a_.size() == 0; }

  /// Multiplies `v` (`outputs x inputs`) with the inverse, in place.
  void apply(MatrixRef<S> v) {
    MatrixMap<S> half = product_.map(v.rows(), v.cols());
    half.noalias() = g_ * v;
    v.noalias() = half * a_;
  }

 private:
  static bool invert(const Matrix<S>& factor, S shift, Matrix<S>& inverse) {
    inverse = factor;
    inverse.diagonal().array() += shift;
    const S ratio = linalg::invert_spd<S>(inverse);
    if (shift > 0) return ratio > 0;
    return ratio > static_cast<S>(factor.rows()) * std::numeric_limits<S>::epsilon();
  }

  Matrix<S> a_, g_;
  Matrix<S> next_a_, next_g_;  // a failed refresh must leave the inverses in use alone
  Buffer<S> product_;
};

}  // namespace kfac
