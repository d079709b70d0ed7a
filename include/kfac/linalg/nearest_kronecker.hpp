#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include <kfac/linalg/kronecker_term.hpp>

namespace kfac::linalg {

template <RealScalar S>
struct NearestKronecker {
  Matrix<S> a;           ///< A, `inputs x inputs`
  Matrix<S> g;           ///< G, `outputs x outputs`
  S residual = 0;        ///< the Frobenius norm of sum_t A_t (x) G_t - A (x) G
  S relative_error = 0;  ///< the residual over the norm of the sum
};

namespace detail {

/// The inner products of matrices of unit norm, given by `matrix(t)` with norms `norms`.
template <class MatrixOfTerm>
Matrix<double> unit_gram(Index count, const Vector<double>& norms, MatrixOfTerm&& matrix) {
  Matrix<double> gram = Matrix<double>::Identity(count, count);
  for (Index t = 0; t < count; ++t) {
    if (norms(t) == 0) continue;
    const Matrix<double> right = matrix(t).template cast<double>() / norms(t);
    for (Index s = 0; s < t; ++s) {
      if (norms(s) == 0) continue;
      const Matrix<double> left = matrix(s).template cast<double>() / norms(s);
      const double product = left.cwiseProduct(right).sum();
      // What is zero but for round-off must not become a negative coefficient.
      const double round_off =
          static_cast<double>(left.rows()) * std::numeric_limits<double>::epsilon();
      gram(s, t) = gram(t, s) = std::abs(product) > round_off ? product : 0;
    }
  }
  return gram;
}

/// A dominant eigenvector of a matrix with real eigenvalues >= 0, none of them defective: the
/// largest column of its 2^k-th power. What is not negative in the matrix stays so in the vector,
/// and of equal eigenvalues it takes any vector, also a non-negative one.
inline Vector<double> dominant_vector(Matrix<double> power) {
  constexpr int kDoublings = 60;
  for (int doubling = 0; doubling < kDoublings; ++doubling) {
    const double largest = power.cwiseAbs().maxCoeff();
    if (largest == 0) break;
    power /= largest;
    const Matrix<double> square = power * power;
    power = square;
  }
  Index column = 0;
  power.colwise().norm().maxCoeff(&column);
  return power.col(column);
}

}  // namespace detail

/// The Kronecker product A (x) G that is nearest, in the Frobenius norm, to
/// \f$ \sum_t A_t \otimes G_t \f$, without forming that: as its rearrangement
/// \f$ \sum_t \mathrm{vec}(G_t) \mathrm{vec}(A_t)^T \f$ has the terms' span for its range, A and G
/// are combinations of the A_t and the G_t whose coefficients come from the T x T matrices of inner
/// products.
///
/// If the terms are symmetric positive semi-definite, so are A and G: inner products of such
/// matrices are not negative, and the coefficients are found by multiplying and adding those alone.
/// For other terms the product is as near, without that guarantee. The scale is split so that the
/// means of the diagonals of A and G are equal (as K-FAC's balance pi of the damping is 1 then), or
/// their norms, if a trace is not positive. The residual is known to about 1e-8 of the sum.
/// \throws ShapeError; ValueError (not finite)
/// \source Van Loan and Pitsianis, Approximation with Kronecker products, 1993
template <RealScalar S>
NearestKronecker<S> nearest_kronecker(std::span<const KroneckerTerm<S>> terms) {
  detail::check_terms<S>("kfac::linalg::nearest_kronecker", terms);
  const auto count = static_cast<Index>(terms.size());
  const auto a_of = [&](Index t) -> const Matrix<S>& {
    return terms[static_cast<std::size_t>(t)].a;
  };
  const auto g_of = [&](Index t) -> const Matrix<S>& {
    return terms[static_cast<std::size_t>(t)].g;
  };
  // Terms of unit norm, with the weights apart, so that their units do not matter.
  Vector<double> a_norms(count), g_norms(count);
  for (Index t = 0; t < count; ++t) {
    a_norms(t) = a_of(t).template cast<double>().stableNorm();
    g_norms(t) = g_of(t).template cast<double>().stableNorm();
  }
  const double scale = a_norms.cwiseProduct(g_norms).maxCoeff();
  NearestKronecker<S> nearest;
  nearest.a = Matrix<S>::Zero(terms[0].inputs(), terms[0].inputs());
  nearest.g = Matrix<S>::Zero(terms[0].outputs(), terms[0].outputs());
  if (scale == 0) return nearest;
  const Vector<double> weights = a_norms.cwiseProduct(g_norms) / scale;
  const Matrix<double> a_gram = detail::unit_gram(count, a_norms, a_of);
  const Matrix<double> g_gram = detail::unit_gram(count, g_norms, g_of);

  // G = sum_t u_t G_t and A = sum_t v_t A_t are a singular pair: u ~ W a_gram v, v ~ W g_gram u.
  const Matrix<double> to_u = weights.asDiagonal() * a_gram;
  const Matrix<double> to_v = weights.asDiagonal() * g_gram;
  Vector<double> u = detail::dominant_vector(to_u * to_v);
  u /= std::sqrt(u.dot(g_gram * u));
  // With G of unit norm, the best A is the contraction of the sum with it.
  Vector<double> v = to_v * u;
  const double norm = std::sqrt(v.dot(a_gram * v));

  Matrix<double> left = -u * v.transpose();
  left.diagonal() += weights;
  const auto squared_norm = [&](const Matrix<double>& coefficients) {
    const Matrix<double> half = g_gram * coefficients;
    return std::max(0.0, coefficients.cwiseProduct(half * a_gram).sum());
  };
  const double residual = std::sqrt(squared_norm(left));
  nearest.residual = static_cast<S>(scale * residual);
  nearest.relative_error = static_cast<S>(residual / std::sqrt(squared_norm(weights.asDiagonal())));

  v /= norm;
  Matrix<double> a = Matrix<double>::Zero(nearest.a.rows(), nearest.a.cols());
  Matrix<double> g = Matrix<double>::Zero(nearest.g.rows(), nearest.g.cols());
  for (Index t = 0; t < count; ++t) {
    if (v(t) != 0) a += (v(t) / a_norms(t)) * a_of(t).template cast<double>();
    if (u(t) != 0) g += (u(t) / g_norms(t)) * g_of(t).template cast<double>();
  }
  const double a_mean = a.trace() / static_cast<double>(a.rows());
  const double g_mean = g.trace() / static_cast<double>(g.rows());
  const double balance = a_mean > 0 && g_mean > 0 ? std::sqrt(g_mean / a_mean) : 1;
  const double root = std::sqrt(scale * norm);
  nearest.a = (root * balance * a).template cast<S>();
  nearest.g = (root / balance * g).template cast<S>();
  return nearest;
}

}  // namespace kfac::linalg
