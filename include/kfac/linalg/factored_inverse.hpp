#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <utility>

#include <kfac/core/buffer.hpp>
#include <kfac/core/errors.hpp>
#include <kfac/core/state.hpp>
#include <kfac/linalg/factor_balance.hpp>
#include <kfac/linalg/packed_inverse.hpp>

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
    if (!invert(a, next_a_form_) || !invert(g, next_g_form_)) return false;
    use(a, g);
    return true;
  }

  /// How many numbers of scratch the thread keeps that inverts factors of these sizes and applies
  /// the inverse.
  static Index scratch_size(Index inputs, Index outputs) {
    return std::max({linalg::detail::inversion_scratch_size(inputs),
                     linalg::detail::inversion_scratch_size(outputs), inputs * outputs});
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
    computed_ = invert(next_a_, next_a_form_) && invert(next_g_, next_g_form_);
    return computed_;
  }

  /// Puts what was computed in the place of the inverse in use.
  /// \throws StateError if nothing new was computed
  void adopt() {
    if (!computed_)
      raise<StateError>(
          "kfac::FactoredInverse::adopt: nothing to adopt, expected a compute that returned true");
    use(next_a_, next_g_);
    computed_ = false;
  }

  /// Whether a computed inverse is yet to be adopted.
  bool computed() const { return computed_; }
  bool empty() const { return a_.empty(); }

  /// Multiplies `v` (`outputs x inputs`) with the inverse, in place. Returns the inner product of
  /// what it was and what it is then.
  S apply(MatrixRef<S> v) {
    ++uses_;
    if (v.rows() >= v.cols() || v.size() > kFew) return apply(g_, v, a_);
    // Of what is small, products are the faster the longer their columns are.
    alignas(64) S copy[static_cast<std::size_t>(kFew)];
    MatrixMap<S> transposed(copy, v.cols(), v.rows());
    transposed = v.transpose();
    const S dot = apply(a_, transposed, g_);
    v = transposed.transpose();
    return dot;
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
    visitor.visit("uses", uses_);
    visitor.visit("last_uses", last_uses_);
    visitor.visit_optional("next_a", next_a_, inputs, inputs);
    visitor.visit_optional("next_g", next_g_, outputs, outputs);
    visit_form(visitor, "next_a_form", next_a_form_);
    visit_form(visitor, "next_g_form", next_g_form_);
    computed_ = next_a_.size() > 0;
  }

 private:
  using Inverse = linalg::PackedInverse<S>;
  using Form = linalg::InverseForm;

  /// Up to so many entries a copy of a matrix does not matter.
  static constexpr Index kFew = 1024;

  /// By half of the smaller one, all of the other, and the other half, to and fro between `v` and
  /// scratch memory: what comes in between has the inner product that is wanted.
  static S apply(const Inverse& left, MatrixRef<S> v, const Inverse& right) {
    MatrixMap<S> w = linalg::detail::triangle_memory<S>().map(v.rows(), v.cols());
    S dot = 0;
    if (v.rows() <= v.cols()) {
      left.multiply_half_left(v, false, w);
      if (right.form() == Form::Triangle) {
        right.multiply_half_right(w, true, v);
        dot = v.squaredNorm();
        right.multiply_half_right(v, false, w);
        left.multiply_half_left(w, true, v);
      } else {
        right.multiply_right(w, v);
        dot = v.cwiseProduct(w).sum();
        left.multiply_half_left(v, true, w);
        v = w;
      }
      return dot;
    }
    right.multiply_half_right(v, true, w);
    if (left.form() == Form::Triangle) {
      left.multiply_half_left(w, false, v);
      dot = v.squaredNorm();
      left.multiply_half_left(v, true, w);
      right.multiply_half_right(w, false, v);
    } else {
      left.multiply_left(w, v);
      dot = v.cwiseProduct(w).sum();
      right.multiply_half_right(v, false, w);
      v = w;
    }
    return dot;
  }
  static void visit_form(StateVisitor& visitor, const char* name, Form& form) {
    auto number = static_cast<Index>(form);
    visitor.visit(name, number);
    form = static_cast<Form>(number);
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
    // They will be used as often as the last ones, or are the first.
    constexpr Index kOften = 1000;
    const Index uses = std::max(uses_, last_uses_);
    const Index times = uses == 0 ? kOften : uses;
    next_a_form_ = next_g_form_ = Form::Triangle;
    if (g.rows() <= a.rows())
      next_a_form_ = Inverse::cheaper_form(a.rows(), times * g.rows());
    else
      next_g_form_ = Inverse::cheaper_form(g.rows(), times * a.rows());
  }

  void use(const ConstMatrixRef<S>& a, const ConstMatrixRef<S>& g) {
    a_.assign(a, next_a_form_);
    g_.assign(g, next_g_form_);
    last_uses_ = std::exchange(uses_, 0);
  }

  bool invert(MatrixRef<S> damped_factor, Form form) const {
    const S ratio = Inverse::invert(damped_factor, form);
    if (damped_) return ratio > 0;
    return ratio > static_cast<S>(damped_factor.rows()) * std::numeric_limits<S>::epsilon();
  }

  Inverse a_, g_;
  Index uses_ = 0;             // of these
  Index last_uses_ = 0;        // of those before
  Matrix<S> next_a_, next_g_;  // lower triangles; a failed refresh must leave those in use alone
  Form next_a_form_ = Form::Triangle, next_g_form_ = Form::Triangle;
  bool damped_ = false;    // next_a_ and next_g_
  bool computed_ = false;  // next_a_ and next_g_ are inverses
  Buffer<S> balance_scratch_;
};

}  // namespace kfac
