#pragma once

#include <cmath>
#include <limits>

#include <kfac/core/buffer.hpp>
#include <kfac/core/errors.hpp>
#include <kfac/core/state.hpp>
#include <kfac/linalg/factor_balance.hpp>
#include <kfac/linalg/spd_inverse.hpp>

namespace kfac {

/// The damped inverse of A (x) G with the damping split over the factors, by Cholesky:
/// \f$ V \mapsto (G + \sqrt\lambda/\pi\, I)^{-1} V (A + \pi\sqrt\lambda\, I)^{-1} \f$ with pi as
/// `FactorBalance` says. It damps somewhat more than lambda I added to the product (as an
/// eigenbasis allows) and is several times cheaper.
///
/// `refresh` can be taken apart, so that another thread has the work and `apply` goes on with the
/// inverse there is:
///
///     inverse.prepare(a, g, damping);  // copies: the factors may change from here on
///     inverse.compute();               // on any thread
///     inverse.adopt();                 // if it returned true
/// \source Martens and Grosse 2015, arXiv 1503.05671, section 6.3
template <RealScalar S>
class FactoredInverse {
 public:
  using Scalar = S;

  /// Recomputes the inverses from the factors' lower triangles. Returns false, keeping what was
  /// there, if a damped factor is not positive definite; without damping, if a factor is singular
  /// to working precision.
  bool refresh(const Matrix<S>& a, const Matrix<S>& g, S damping,
               FactorBalance balance = FactorBalance::Trace) {
    prepare(a, g, damping, balance);
    if (!compute()) return false;
    adopt();
    return true;
  }

  /// Copies the factors' lower triangles and damps the copies. An inverse that was computed but not
  /// adopted is lost.
  void prepare(const Matrix<S>& a, const Matrix<S>& g, S damping,
               FactorBalance balance = FactorBalance::Trace) {
    const S root = std::sqrt(damping);
    const S pi = linalg::factor_balance<S>(balance, a, g, product_);
    copy_damped(a, root * pi, next_a_);
    copy_damped(g, root / pi, next_g_);
    damped_ = damping > 0;
    computed_ = false;
  }

  /// Inverts the copies; touches nothing else, so that meanwhile another thread may `apply`.
  /// Returns false as `refresh`. \pre one call after each `prepare`
  bool compute() {
    computed_ = invert(next_a_) && invert(next_g_);
    return computed_;
  }

  /// Puts what was computed in the place of the inverse in use.
  /// \throws StateError if nothing new was computed
  void adopt() {
    if (!computed_)
      raise<StateError>(
          "kfac::FactoredInverse::adopt: nothing to adopt, expected a compute that returned true");
    a_.swap(next_a_);
    g_.swap(next_g_);
    computed_ = false;
  }

  /// Whether a computed inverse is yet to be adopted.
  bool computed() const { return computed_; }
  bool empty() const { return a_.size() == 0; }

  /// Multiplies `v` (`outputs x inputs`) with the inverse, in place.
  void apply(MatrixRef<S> v) {
    MatrixMap<S> half = product_.map(v.rows(), v.cols());
    half.noalias() = g_ * v;
    v.noalias() = half * a_;
  }

  /// The inverse in use and the one that is yet to be adopted, of factors A of size `inputs` and G
  /// of size `outputs`. \pre no `compute` is under way or outstanding
  void visit_state(StateVisitor& visitor, Index inputs, Index outputs) {
    if (!computed_) {  // what the last one left
      next_a_.resize(0, 0);
      next_g_.resize(0, 0);
    }
    visitor.visit_optional("a", a_, inputs, inputs);
    visitor.visit_optional("g", g_, outputs, outputs);
    visitor.visit_optional("next_a", next_a_, inputs, inputs);
    visitor.visit_optional("next_g", next_g_, outputs, outputs);
    computed_ = next_a_.size() > 0;
  }

 private:
  static void copy_damped(const Matrix<S>& factor, S shift, Matrix<S>& copy) {
    copy.resize(factor.rows(), factor.cols());
    copy.template triangularView<Eigen::Lower>() = factor;
    copy.diagonal().array() += shift;
  }

  bool invert(Matrix<S>& damped_factor) const {
    const S ratio = linalg::invert_spd<S>(damped_factor);
    if (damped_) return ratio > 0;
    return ratio > static_cast<S>(damped_factor.rows()) * std::numeric_limits<S>::epsilon();
  }

  Matrix<S> a_, g_;
  Matrix<S> next_a_, next_g_;  // a failed refresh must leave the inverses in use alone
  bool damped_ = false;        // next_a_ and next_g_
  bool computed_ = false;      // next_a_ and next_g_ are inverses
  Buffer<S> product_;
};

}  // namespace kfac
