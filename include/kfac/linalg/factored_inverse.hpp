#pragma once

#include <cmath>
#include <cstddef>
#include <limits>

#include <kfac/core/buffer.hpp>
#include <kfac/core/errors.hpp>
#include <kfac/core/state.hpp>
#include <kfac/linalg/factor_balance.hpp>
#include <kfac/linalg/inverse_triangle.hpp>

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
  bool refresh(const ConstMatrixRef<S>& a, const ConstMatrixRef<S>& g, S damping,
               FactorBalance balance = FactorBalance::Trace) {
    prepare(a, g, damping, balance);
    if (!compute()) return false;
    adopt();
    return true;
  }
  /// The same in the memory of the lower triangles themselves, whose contents are lost; the upper
  /// triangles stay as they are. It needs no memory but that of the inverse.
  bool refresh_in_place(MatrixRef<S> a, MatrixRef<S> g, S damping,
                        FactorBalance balance = FactorBalance::Trace) {
    computed_ = false;
    damp(a, g, damping, balance);
    if (!invert(a) || !invert(g)) return false;
    a_.assign(a);
    g_.assign(g);
    return true;
  }

  /// Copies the factors' lower triangles and damps the copies. An inverse that was computed but not
  /// adopted is lost.
  void prepare(const ConstMatrixRef<S>& a, const ConstMatrixRef<S>& g, S damping,
               FactorBalance balance = FactorBalance::Trace) {
    copy_lower(a, next_a_);
    copy_lower(g, next_g_);
    damp(next_a_, next_g_, damping, balance);
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
    a_.assign(next_a_);
    g_.assign(next_g_);
    computed_ = false;
  }

  /// Whether a computed inverse is yet to be adopted.
  bool computed() const { return computed_; }
  bool empty() const { return a_.empty(); }

  /// Multiplies `v` (`outputs x inputs`) with the inverse, in place. Returns the inner product of
  /// what it was and what it is then.
  S apply(MatrixRef<S> v) const {
    if (v.rows() >= v.cols() || v.size() > Triangle::kFew) return apply(g_, v, a_);
    // Of what is small, products are the faster the longer their columns are.
    alignas(64) S copy[static_cast<std::size_t>(Triangle::kFew)];
    MatrixMap<S> transposed(copy, v.cols(), v.rows());
    transposed = v.transpose();
    const S product = apply(a_, transposed, g_);
    v = transposed.transpose();
    return product;
  }

  /// The inverse in use and the one that is yet to be adopted, of factors A of size `inputs` and G
  /// of size `outputs`. \pre no `compute` is under way or outstanding
  void visit_state(StateVisitor& visitor, Index inputs, Index outputs) {
    if (!computed_) {  // what the last one left
      next_a_.resize(0, 0);
      next_g_.resize(0, 0);
    }
    visitor.in("a", a_, inputs);
    visitor.in("g", g_, outputs);
    visitor.visit_optional("next_a", next_a_, inputs, inputs);
    visitor.visit_optional("next_g", next_g_, outputs, outputs);
    computed_ = next_a_.size() > 0;
  }

 private:
  using Triangle = linalg::InverseTriangle<S>;

  static S apply(const Triangle& left, MatrixRef<S> v, const Triangle& right) {
    right.multiply_right(v, true);
    const S product = left.apply_left(v);
    right.multiply_right(v, false);
    return product;
  }
  static void copy_lower(const ConstMatrixRef<S>& factor, Matrix<S>& copy) {
    if (copy.rows() != factor.rows()) copy.setZero(factor.rows(), factor.cols());
    copy.template triangularView<Eigen::Lower>() = factor;
  }
  void damp(MatrixRef<S> a, MatrixRef<S> g, S damping, FactorBalance balance) {
    const S root = std::sqrt(damping);
    const S pi = linalg::factor_balance<S>(balance, a, g, balance_scratch_);
    a.diagonal().array() += root * pi;
    g.diagonal().array() += root / pi;
    damped_ = damping > 0;
  }

  bool invert(MatrixRef<S> damped_factor) const {
    const S ratio = Triangle::invert(damped_factor);
    if (damped_) return ratio > 0;
    return ratio > static_cast<S>(damped_factor.rows()) * std::numeric_limits<S>::epsilon();
  }

  Triangle a_, g_;
  Matrix<S> next_a_, next_g_;  // lower triangles; a failed refresh must leave those in use alone
  bool damped_ = false;        // next_a_ and next_g_
  bool computed_ = false;      // next_a_ and next_g_ are inverses
  Buffer<S> balance_scratch_;
};

}  // namespace kfac
