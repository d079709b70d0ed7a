#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>

#include <kfac/core/errors.hpp>
#include <kfac/linalg/linear_operator.hpp>

namespace kfac::linalg {

enum class KrylovStatus {
  Converged,
  MaxIterations,
  /// CG met a direction of zero or negative curvature, or the preconditioner is not positive
  /// definite; x is the iterate before.
  Indefinite,
  NotFinite,  ///< a product or the preconditioner gave NaN or infinity; x is the iterate before
  /// The residual cannot be made smaller: the tolerance is below what rounding allows or, in
  /// MINRES, the system is singular and inconsistent, and x is a least-squares solution.
  Stagnated,
};

/// For `conjugate_gradients` and `minres`, which solve (C + damping I) x = b.
template <RealScalar S>
struct KrylovOptions {
  S tolerance = S(1e-6);        ///< on |b - (C + damping I) x| / |b|, >= 0
  Index max_iterations = 1000;  ///< products with C, those for the true residual apart; >= 0
  S damping = 0;                ///< added to C, >= 0 and finite
  Vector<S> initial = {};       ///< where to start; empty: zero

  void validate(const char* where) const {
    kfac::detail::check_option(tolerance >= 0 && std::isfinite(tolerance), where, "tolerance",
                               tolerance, ">= 0 and finite");
    kfac::detail::check_option(max_iterations >= 0, where, "max_iterations", max_iterations,
                               ">= 0");
    kfac::detail::check_option(damping >= 0 && std::isfinite(damping), where, "damping", damping,
                               ">= 0 and finite");
  }
};

template <RealScalar S>
struct KrylovResult {
  Vector<S> x;
  KrylovStatus status = KrylovStatus::Converged;
  Index iterations = 0;
  S relative_residual = 0;  ///< of x itself, by a product, not what the recurrence believes
};

/// The preconditioner that does nothing.
struct NoPreconditioner {
  template <class Residual>
  void operator()(const Residual&) const {}
};

namespace detail {

/// z = M r, for a callable that works in place or returns what it made.
template <class Preconditioner, RealScalar S>
void precondition(Preconditioner& preconditioner, const Vector<S>& r, Vector<S>& z) {
  z = r;
  if constexpr (std::is_void_v<std::invoke_result_t<Preconditioner&, Vector<S>&>>)
    preconditioner(z);
  else
    z = preconditioner(z);
}

/// A solver's recurrence inside a loop that checks the true residual. `round` gets the residual and
/// the iterate, improves the iterate until its own residual is below the tolerance, and says how it
/// ended. Where rounding has driven the two residuals apart, the next round starts from the true
/// one. Everything is in units of |b|, which no scale of b can overflow.
template <class Op, class Round>
KrylovResult<ScalarOf<Op>> solve_in_rounds(const char* where, Op& op,
                                           const ConstVectorRef<ScalarOf<Op>>& b,
                                           const KrylovOptions<ScalarOf<Op>>& options,
                                           Round&& round) {
  using S = ScalarOf<Op>;
  options.validate(where);
  kfac::detail::check_size(where, "b", b.size(), op.rows(), "entries");
  kfac::detail::check_finite(where, "b", b);
  const bool warm = options.initial.size() > 0;
  if (warm) {
    kfac::detail::check_size(where, "initial", options.initial.size(), b.size(), "entries");
    kfac::detail::check_finite(where, "initial", options.initial);
  }

  KrylovResult<S> result;
  result.x = Vector<S>::Zero(b.size());
  const S scale = b.size() > 0 ? b.stableNorm() : S(0);
  if (scale == 0) return result;
  const Vector<S> target = b / scale;
  Vector<S> r = target;
  const auto set_residual = [&] {
    const Vector<S> product = op * result.x;
    r = target - product - options.damping * result.x;
    result.relative_residual = r.norm();
  };
  result.relative_residual = 1;
  if (warm) {
    result.x = options.initial / scale;
    set_residual();
  }
  while (result.relative_residual > options.tolerance && result.status == KrylovStatus::Converged) {
    const S before = result.relative_residual;
    result.status = round(r, result.x, result.iterations);
    set_residual();
    if (result.relative_residual <= options.tolerance)
      result.status = KrylovStatus::Converged;
    else if (!std::isfinite(result.relative_residual))
      result.status = KrylovStatus::NotFinite;
    else if (result.status == KrylovStatus::Converged && result.relative_residual > before / 2)
      result.status = KrylovStatus::Stagnated;
  }
  if (!std::isfinite(result.relative_residual)) result.status = KrylovStatus::NotFinite;
  result.x *= scale;
  return result;
}

template <class Op, class Preconditioner>
KrylovStatus conjugate_gradients_round(Op& op, const KrylovOptions<ScalarOf<Op>>& options,
                                       Preconditioner& preconditioner, Vector<ScalarOf<Op>>& r,
                                       Vector<ScalarOf<Op>>& x, Index& iterations) {
  using S = ScalarOf<Op>;
  Vector<S> z, product;
  precondition(preconditioner, r, z);
  Vector<S> direction = z;
  S rho = r.dot(z);
  for (; iterations < options.max_iterations; ++iterations) {
    if (!std::isfinite(rho)) return KrylovStatus::NotFinite;
    if (rho <= 0) return KrylovStatus::Indefinite;
    product = op * direction;
    product += options.damping * direction;
    const S curvature = direction.dot(product);
    if (!std::isfinite(curvature)) return KrylovStatus::NotFinite;
    if (curvature <= 0) return KrylovStatus::Indefinite;
    const S step = rho / curvature;
    if (!std::isfinite(step)) return KrylovStatus::NotFinite;
    x += step * direction;
    r -= step * product;
    if (r.norm() <= options.tolerance) return ++iterations, KrylovStatus::Converged;
    precondition(preconditioner, r, z);
    const S next_rho = r.dot(z);
    direction = z + (next_rho / rho) * direction;
    rho = next_rho;
  }
  return KrylovStatus::MaxIterations;
}

}  // namespace detail

/// Solves (C + damping I) x = b for a symmetric positive definite C + damping I (or a consistent
/// system with a semidefinite one) by preconditioned conjugate gradients: one product with C an
/// iteration, one more at the end, memory of five vectors.
///
///     kfac::Ggn ggn(model, loss, x);
///     const auto solution = kfac::linalg::conjugate_gradients(ggn, gradient, {.damping = 1e-3});
///
/// `preconditioner` approximates (C + damping I)^-1, symmetric positive definite: a callable that
/// is given a `Vector<S>&` and overwrites it (returning nothing), or returns the product.
/// \throws OptionError; ShapeError; ValueError (b or the start not finite). Numbers that go wrong
///         on the way are the result's status.
/// \source Hestenes and Stiefel, Methods of conjugate gradients for solving linear systems, 1952
template <LinearOperator Op, class Preconditioner = NoPreconditioner>
KrylovResult<ScalarOf<Op>> conjugate_gradients(Op&& op, const ConstVectorRef<ScalarOf<Op>>& b,
                                               const KrylovOptions<ScalarOf<Op>>& options = {},
                                               Preconditioner&& preconditioner = {}) {
  using S = ScalarOf<Op>;
  return detail::solve_in_rounds("kfac::linalg::conjugate_gradients", op, b, options,
                                 [&](Vector<S>& r, Vector<S>& x, Index& iterations) {
                                   return detail::conjugate_gradients_round(
                                       op, options, preconditioner, r, x, iterations);
                                 });
}

namespace detail {

/// Lanczos on the preconditioned operator, whose tridiagonal matrix is reduced to triangular form
/// by reflections as it grows; in the notation of the paper. With `u` a Lanczos vector before the
/// preconditioner and `v` after it, residuals live among the u and iterates among the v.
template <class Op, class Preconditioner>
KrylovStatus minres_round(Op& op, const KrylovOptions<ScalarOf<Op>>& options,
                          Preconditioner& preconditioner, Vector<ScalarOf<Op>>& r,
                          Vector<ScalarOf<Op>>& x, Index& iterations) {
  using S = ScalarOf<Op>;
  constexpr S kEpsilon = std::numeric_limits<S>::epsilon();
  const Index size = r.size();
  Vector<S> u = r, z, product, v;
  Vector<S> u_before = Vector<S>::Zero(size);
  Vector<S> w = Vector<S>::Zero(size), w_before = w;
  const auto squared_beta = [&] {
    precondition(preconditioner, u, z);
    const S square = u.dot(z);
    // A vanishing u may round to a negative square.
    return std::abs(square) <= kEpsilon * kEpsilon * u.norm() * z.norm() ? S(0) : square;
  };
  S square = squared_beta();
  if (!std::isfinite(square)) return KrylovStatus::NotFinite;
  if (square <= 0) return KrylovStatus::Indefinite;
  S beta = std::sqrt(square);
  S beta_before = 0, delta_bar = 0, epsilon = 0, phi_bar = beta, c = -1, s = 0;
  S norm = 0;  // of C + damping I, from below
  Vector<S> correction = Vector<S>::Zero(size);
  Vector<S> best = correction;  // the iterate nearest to a least-squares solution
  S best_residual = r.norm();
  S least_gradient = std::numeric_limits<S>::infinity();
  const auto finish = [&](KrylovStatus status) {
    x += correction;
    return status;
  };
  while (iterations < options.max_iterations) {
    v = z / beta;
    product = op * v;
    product += options.damping * v;
    norm = std::max(norm, product.norm() / v.norm());
    if (beta_before > 0) product -= (beta / beta_before) * u_before;
    const S alpha = v.dot(product);
    product -= (alpha / beta) * u;
    u_before.swap(u);
    u.swap(product);
    beta_before = beta;
    square = squared_beta();
    if (!std::isfinite(alpha) || !std::isfinite(square)) return finish(KrylovStatus::NotFinite);
    if (square < 0) return finish(KrylovStatus::Indefinite);
    beta = std::sqrt(square);

    const S delta = c * delta_bar + s * alpha;
    const S gamma_bar = s * delta_bar - c * alpha;
    const S epsilon_before = epsilon;
    epsilon = s * beta;
    delta_bar = -c * beta;
    // |C r| of the iterate before this step, which vanishes at a least-squares solution.
    const S gradient = phi_bar * std::hypot(gamma_bar, delta_bar);
    const S residual = r.norm();
    const S rounding = kEpsilon * norm * correction.norm();
    if (gradient < least_gradient && rounding < residual / 100) {
      least_gradient = gradient;
      best_residual = residual;
      best = correction;
    }
    // Past such a solution the iterate runs off along the null space of C, until rounding in its
    // product with C is all there is.
    if (gradient == 0 || (rounding > residual && residual > best_residual / 10)) {
      x += best;
      return KrylovStatus::Stagnated;
    }
    const S gamma = std::hypot(gamma_bar, beta);
    c = gamma_bar / gamma;
    s = beta / gamma;
    const S phi = c * phi_bar;
    phi_bar *= s;
    product = (v - epsilon_before * w_before - delta * w) / gamma;
    w_before.swap(w);
    w.swap(product);
    if (!std::isfinite(phi) || !w.allFinite()) return finish(KrylovStatus::NotFinite);
    correction += phi * w;
    ++iterations;
    r *= s * s;
    if (beta > 0) r -= (phi_bar * c / beta) * u;
    if (r.norm() <= options.tolerance) return finish(KrylovStatus::Converged);
  }
  return finish(KrylovStatus::MaxIterations);
}

}  // namespace detail

/// Solves (C + damping I) x = b for any symmetric C, indefinite or singular too, by the minimal
/// residual method: one product with C an iteration, one more at the end, memory of eleven vectors.
/// Of a singular inconsistent system it returns a least-squares solution (status `Stagnated`).
/// `preconditioner` is as for `conjugate_gradients`, and must be positive definite even if C is
/// not; the residual is then minimal in its norm.
/// \throws OptionError; ShapeError; ValueError (b or the start not finite). Numbers that go wrong
///         on the way are the result's status.
/// \source Paige and Saunders, Solution of sparse indefinite systems of linear equations, 1975
template <LinearOperator Op, class Preconditioner = NoPreconditioner>
KrylovResult<ScalarOf<Op>> minres(Op&& op, const ConstVectorRef<ScalarOf<Op>>& b,
                                  const KrylovOptions<ScalarOf<Op>>& options = {},
                                  Preconditioner&& preconditioner = {}) {
  using S = ScalarOf<Op>;
  return detail::solve_in_rounds(
      "kfac::linalg::minres", op, b, options, [&](Vector<S>& r, Vector<S>& x, Index& iterations) {
        return detail::minres_round(op, options, preconditioner, r, x, iterations);
      });
}

}  // namespace kfac::linalg
