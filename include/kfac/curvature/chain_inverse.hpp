#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include <kfac/core/buffer.hpp>
#include <kfac/linalg/factor_balance.hpp>
#include <kfac/linalg/matrix_product.hpp>
#include <kfac/linalg/symmetric_eigen.hpp>

namespace kfac {

/// How the sum over pairs of steps of a sequence is taken, where inputs a_t and output gradients
/// g_t are each a linear chain, E[a_{t+d} a_t^T] = Psi_A^d A_0 and the same for g with Psi_G.
/// \source Martens, Ba and Johnson, Kronecker-factored curvature approximations for recurrent
///         neural networks, ICLR 2018
enum class ChainStructure {
  /// The paper's option 1: exact for the number of steps there is, if Psi_A and Psi_G are symmetric
  /// where A_0 and G_0 are the identity; they are taken for their symmetric parts.
  Symmetric,
  /// Option 2: any Psi_A and Psi_G, but the sum over all lags, as if a sequence had no ends. The
  /// error falls as 1 / steps.
  LongSequence,
};

/// What a chain-structured block is made of.
struct ChainMoments {
  Matrix<double> a, a_lag;  ///< means of a_t a_t^T over steps, of a_{t+1} a_t^T over pairs
  /// The same of g, times the mean number of steps of an example and the scale of the loss.
  Matrix<double> g, g_lag;
  /// Entry d: the mean number of pairs of steps (t, t + d) in an example.
  Vector<double> pairs;

  /// The steps of a sequence; where lengths differ, the mean of their squares over their mean.
  double steps() const { return 2 * pairs.sum() / pairs(0) - 1; }
};

namespace detail {

/// One of the factors in a basis in which its lag 0 moment is the identity: A_0 = M M^T, and the
/// lag 1 moment is M Psi M^T.
struct ChainFactor {
  Matrix<double> from_basis;  ///< M
  Matrix<double> to_basis;    ///< K, its transposed inverse
  /// Of the symmetric part of Psi, which is diagonal here; or the squares of Psi's singular values,
  /// where Psi Psi^T is diagonal here.
  Vector<double> values;
  Matrix<double> psi;  ///< for long sequences
  double log_determinant = 0;
  bool singular = false;

  /// `bound` is the largest that Psi may be, by its spectral norm: larger singular values, which no
  /// stationary sequence has, become that. Returns false if a moment is not finite.
  bool compute(const Matrix<double>& moment, const Matrix<double>& lag, ChainStructure structure,
               double bound) {
    linalg::SymmetricEigen<double> whitening, rotation;
    if (!lag.allFinite() || !whitening.compute(moment)) return false;
    const Index size = moment.rows();
    const double least = whitening.values(size - 1) * static_cast<double>(size) *
                         std::numeric_limits<double>::epsilon();
    const Vector<double> roots = whitening.values.cwiseSqrt();
    Vector<double> inverse_roots(size);
    for (Index i = 0; i < size; ++i)
      inverse_roots(i) = whitening.values(i) > least ? 1 / roots(i) : 0.0;
    singular = !(whitening.values(0) > least);
    log_determinant = whitening.values.array().log().sum();

    to_basis = whitening.vectors * inverse_roots.asDiagonal();
    Matrix<double> half = lag * to_basis;
    Matrix<double> whitened = to_basis.transpose() * half;
    if (structure == ChainStructure::Symmetric) {
      half = (whitened + whitened.transpose()) / 2;
      half.diagonal().array() += 1;  // positive semi-definite
      if (!rotation.compute(half)) return false;
      values = (rotation.values.array() - 1).max(-bound).min(bound);
    } else {
      half.noalias() = whitened * whitened.transpose();
      if (!rotation.compute(half)) return false;
      Vector<double> kept(size);  // of each singular value
      for (Index i = 0; i < size; ++i) {
        const double singular_value = std::sqrt(rotation.values(i));
        kept(i) = singular_value > bound ? bound / singular_value : 1.0;
      }
      values = kept.array().square() * rotation.values.array();
      half.noalias() = whitened * rotation.vectors;
      psi.noalias() = rotation.vectors.transpose() * half;
      psi = kept.asDiagonal() * psi;
    }
    half.noalias() = to_basis * rotation.vectors;
    to_basis.swap(half);
    half.noalias() = whitening.vectors * roots.asDiagonal();
    from_basis.noalias() = half * rotation.vectors;
    return true;
  }
};

}  // namespace detail

/// A chain-structured block, damped, in a basis of its own: with V of `outputs x columns` there,
/// - symmetric: C V = f o V, where f_ij = sum_d pairs_d x^|d| / pairs_0 at x = psi_G,i psi_A,j;
/// - long sequences: C = (I - Psi)^-1 (I - Psi Psi^T) (I - Psi^T)^-1, Psi V = Psi_G V Psi_A^T.
///
/// The damping is noise in each step, independent of all others: it is split over the lag 0 moments
/// as K-FAC's, and those of lag 1 stay as they are, which makes Psi smaller. Whatever the estimates
/// are, C is at most steps times what independent steps have, as that of any sequence; and at least
/// a hundredth of it where the terms of a symmetric chain cancel out, 1/steps of it for long ones.
struct ChainDecomposition {
  static constexpr double kLeast = 0.01;  ///< of f

  ChainStructure structure = ChainStructure::Symmetric;
  detail::ChainFactor a, g;
  Matrix<double> values;  ///< f, or 1 - s_i^2 s_j^2: the diagonal of I - Psi Psi^T

  /// Returns false if a moment is not finite.
  bool compute(const ChainMoments& moments, double damping, FactorBalance balance,
               ChainStructure chosen) {
    structure = chosen;
    const double root = std::sqrt(damping);
    const auto pi = linalg::factor_balance<double>(balance, moments.a, moments.g);
    Matrix<double> a_damped = moments.a;
    Matrix<double> g_damped = moments.g;
    a_damped.diagonal().array() += root * pi;
    g_damped.diagonal().array() += root / pi;
    const double steps = moments.steps();
    const bool is_long = structure == ChainStructure::LongSequence;
    // A constant input, as that of the bias, is its own successor: the bound is for g to keep.
    if (!a.compute(a_damped, moments.a_lag, structure, 1) ||
        !g.compute(g_damped, moments.g_lag, structure, is_long ? (steps - 1) / (steps + 1) : 1))
      return false;
    values = g.values * a.values.transpose();
    if (is_long) {
      values = 1 - values.array();
      return true;
    }
    const Matrix<double> x = values;
    values.setZero();
    for (Index d = moments.pairs.size() - 1; d > 0; --d)
      values = (values.array() + 2 * moments.pairs(d) / moments.pairs(0)) * x.array();
    values = (values.array() + 1).max(kLeast);
    return true;
  }

  bool singular() const { return a.singular || g.singular; }
};

/// The inverse of a chain-structured block, in use, and the one that is being made.
template <RealScalar S>
class ChainInverse {
 public:
  bool empty() const { return to_g_.size() == 0; }

  /// Copies what it will be made of.
  void prepare(ChainMoments moments, S damping, FactorBalance balance, ChainStructure structure) {
    moments_ = std::move(moments);
    damping_ = static_cast<double>(damping);
    balance_ = balance;
    structure_ = structure;
  }
  /// False if it cannot be made.
  bool compute() {
    ChainDecomposition next;
    if (!next.compute(moments_, damping_, balance_, structure_) || next.singular()) return false;
    next_to_a_ = next.a.to_basis.template cast<S>();
    next_to_g_ = next.g.to_basis.template cast<S>();
    next_psi_a_ = next.a.psi.template cast<S>();
    next_psi_g_ = next.g.psi.template cast<S>();
    next_values_ = next.values.cwiseInverse().template cast<S>();
    return next_values_.allFinite();
  }
  void adopt() {
    to_a_.swap(next_to_a_);
    to_g_.swap(next_to_g_);
    psi_a_.swap(next_psi_a_);
    psi_g_.swap(next_psi_g_);
    values_.swap(next_values_);
  }

  /// V <- C^-1 V, in place, without allocation once it was called.
  void apply(MatrixRef<S> v) {
    MatrixMap<S> half = half_.map(v.rows(), v.cols());
    MatrixMap<S> z = inner_.map(v.rows(), v.cols());
    linalg::multiply(to_g_.transpose(), v, half);
    linalg::multiply(half, to_a_, z);
    if (psi_a_.size() > 0) {
      linalg::multiply(psi_g_, z, half);
      linalg::multiply_add(S(-1), half, psi_a_.transpose(), z);
    }
    z.array() *= values_.array();
    if (psi_a_.size() > 0) {
      linalg::multiply(psi_g_.transpose(), z, half);
      linalg::multiply_add(S(-1), half, psi_a_, z);
    }
    linalg::multiply(to_g_, z, half);
    linalg::multiply(half, to_a_.transpose(), v);
  }

  void visit_state(StateVisitor& visitor, Index columns, Index outputs) {
    visitor.visit_optional("to_a", to_a_, columns, columns);
    visitor.visit_optional("to_g", to_g_, outputs, outputs);
    visitor.visit_optional("psi_a", psi_a_, columns, columns);
    visitor.visit_optional("psi_g", psi_g_, outputs, outputs);
    visitor.visit_optional("values", values_, outputs, columns);
    visitor.visit_optional("next_to_a", next_to_a_, columns, columns);
    visitor.visit_optional("next_to_g", next_to_g_, outputs, outputs);
    visitor.visit_optional("next_psi_a", next_psi_a_, columns, columns);
    visitor.visit_optional("next_psi_g", next_psi_g_, outputs, outputs);
    visitor.visit_optional("next_values", next_values_, outputs, columns);
  }

 private:
  Matrix<S> to_a_, to_g_, psi_a_, psi_g_, values_;
  Matrix<S> next_to_a_, next_to_g_, next_psi_a_, next_psi_g_, next_values_;
  ChainMoments moments_;
  double damping_ = 0;
  FactorBalance balance_ = FactorBalance::Trace;
  ChainStructure structure_ = ChainStructure::Symmetric;
  Buffer<S> half_, inner_;
};

}  // namespace kfac
