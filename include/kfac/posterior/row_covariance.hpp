#pragma once

#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include <kfac/linalg/kronecker_eigen.hpp>
#include <kfac/posterior/determinant_terms.hpp>

namespace kfac {

/// The posterior covariance of a matrix of parameters whose rows are independent in some basis: of
/// diagonal curvature the parameters themselves; of Kronecker factors their eigenbases U_A and U_G,
/// where row k, an eigenvector of G, has the covariance
///
///     C_k - tau_k (C_k b)(C_k b)^T,   C_k = diag(1 / (kappa E_k + delta)),
///
/// with the row E_k of the eigenvalues. tau is 0 unless the biases have a prior precision of their
/// own: the prior is then delta I + (delta_bias - delta) e e^T with the unit vector e = U_A b of
/// the bias, a change of rank one of each row's precision. So one eigendecomposition serves all
/// prior precisions, and nothing is approximated.
///
/// It refers to the eigenbasis that it is given.
template <RealScalar S>
class RowCovariance {
 public:
  /// Of diagonal curvature. False, and of no more use, if a precision is not > 0; so the next two.
  bool compute(const Matrix<S>& diagonal, double kappa, const Matrix<double>& delta) {
    return take((kappa * diagonal.template cast<double>() + delta).cwiseInverse());
  }

  /// Of Kronecker factors; `delta_bias` is the last column's, where that is a bias.
  bool compute(const linalg::KroneckerEigen<S>& eigen, double kappa, double delta,
               std::optional<double> delta_bias) {
    eigen_ = &eigen;
    const Matrix<double> curvature = kappa * eigen.grid().template cast<double>();
    constexpr auto kEpsilon = static_cast<double>(std::numeric_limits<S>::epsilon());
    const double tolerance = static_cast<double>(curvature.size()) * kEpsilon;
    if (!(curvature.minCoeff() + delta > (delta > 0 ? 0 : tolerance * curvature.maxCoeff())))
      return false;
    const Matrix<double> variances = (curvature.array() + delta).inverse();
    if (delta_bias) {
      b_ = eigen.input_basis().vectors.bottomRows(1).transpose();
      // 1 + (delta_bias - delta) b^T C_k b, without the cancellation of that form, as |b| = 1.
      q_ = (curvature.array() + *delta_bias).matrix().cwiseProduct(variances) *
           b_.template cast<double>().cwiseAbs2();
      if (!(q_.minCoeff() > (*delta_bias > 0 ? 0 : tolerance))) return false;
      change_ = *delta_bias - delta;
      tau_ = (change_ / q_.array()).template cast<S>();
      // (I - alpha u u^T)^2 = I - tau u u^T for u = C_k^1/2 b.
      alpha_ = (change_ / (q_.array() + q_.array().sqrt())).template cast<S>();
    }
    return take(variances);
  }

  /// Of factors that are damped by sqrt(delta) each.
  bool compute_multiplicative(const linalg::KroneckerEigen<S>& eigen, double kappa, double delta) {
    eigen_ = &eigen;
    Vector<double> a = eigen.input_basis().values.template cast<double>();
    Index largest = 0;
    const double scale = a.maxCoeff(&largest);
    // The grid has the scale of the curvature, whatever the bases' own values have.
    Vector<double> g = Vector<double>::Zero(eigen.outputs());
    if (scale > 0) g = eigen.grid().col(largest).template cast<double>() / scale;
    const double root = std::sqrt(delta);
    const Vector<double> damped_a = std::sqrt(kappa) * a.array() + root;
    const Vector<double> damped_g = std::sqrt(kappa) * g.array() + root;
    input_share_ = root / damped_a.array();
    output_share_ = root / damped_g.array();
    return take((damped_g * damped_a.transpose()).cwiseInverse());
  }

  /// 1 / (kappa E + delta), `outputs x columns`: the variances in the basis, but for the biases'.
  const Matrix<S>& variances() const { return variances_; }

  // To the basis and back:

  /// V <- U_G^T V U_A
  void to_basis(MatrixRef<S> v) const {
    if (eigen_) eigen_->to_basis(v);
  }
  /// V <- U_G V U_A^T
  void from_basis(MatrixRef<S> v) const {
    if (eigen_) eigen_->from_basis(v);
  }
  /// U_A^T x of each column.
  Matrix<S> input_coordinates(const ConstMatrixRef<S>& x) const {
    if (!eigen_) return x;
    return eigen_->input_basis().vectors.transpose() * x;
  }
  /// U_G^T g of each column.
  Matrix<S> output_coordinates(const ConstMatrixRef<S>& g) const {
    if (!eigen_) return g;
    return eigen_->output_basis().vectors.transpose() * g;
  }

  // In coordinates of the basis:

  /// The variance of each row's product with each column, `outputs x examples`.
  Matrix<S> row_variances(const ConstMatrixRef<S>& coordinates) const {
    Matrix<S> result = variances_ * coordinates.cwiseAbs2();
    if (changed()) {
      const Matrix<S> shared = (variances_ * b_.asDiagonal()) * coordinates;
      result -= tau_.asDiagonal() * shared.cwiseAbs2();
    }
    return result;
  }
  /// The covariances of one row's products with the columns of either, `left x right` examples.
  Matrix<S> row_covariance(Index row, const ConstMatrixRef<S>& left,
                           const ConstMatrixRef<S>& right) const {
    const Vector<S> c = variances_.row(row).transpose();
    const Matrix<S> scaled = c.asDiagonal() * right;
    Matrix<S> result = left.transpose() * scaled;
    if (changed()) {
      const Vector<S> cb = c.cwiseProduct(b_);
      const Vector<S> l = left.transpose() * cb;
      const Vector<S> r = right.transpose() * cb;
      result -= tau_(row) * l * r.transpose();
    }
    return result;
  }

  /// V <- covariance V, row by row.
  void scale_by_covariance(MatrixRef<S> v) const {
    v.array() *= variances_.array();
    if (!changed()) return;
    const Vector<S> products = (v * b_).cwiseProduct(tau_);
    v -= (products * b_.transpose()).cwiseProduct(variances_);
  }
  /// Row k by L_k = C_k^1/2 (I - alpha_k u_k u_k^T): L_k L_k^T is its covariance.
  void scale_by_sqrt(MatrixRef<S> v) const {
    const Matrix<S> roots = variances_.cwiseSqrt();
    if (changed()) deflate(roots, v);
    v.array() *= roots.array();
  }
  /// Row k by L_k^T.
  void scale_by_sqrt_transposed(MatrixRef<S> v) const {
    const Matrix<S> roots = variances_.cwiseSqrt();
    v.array() *= roots.array();
    if (changed()) deflate(roots, v);
  }
  void scale_by_precision(MatrixRef<S> v) const {
    Vector<S> products;
    if (changed()) products = static_cast<S>(change_) * (v * b_);
    v.array() /= variances_.array();
    if (changed()) v += products * b_.transpose();
  }

  /// The variances of the parameters themselves.
  Matrix<S> parameter_variances() const {
    if (!eigen_) return variances_;
    const Matrix<S> half = eigen_->output_basis().vectors.cwiseAbs2() * variances_;
    Matrix<S> result = half * eigen_->input_basis().vectors.cwiseAbs2().transpose();
    if (changed()) {
      const Matrix<S> shared = eigen_->input_basis().vectors * b_.asDiagonal() *
                               variances_.transpose();  // columns x outputs
      const Matrix<S> squares = shared.cwiseAbs2() * tau_.asDiagonal();
      result -= eigen_->output_basis().vectors.cwiseAbs2() * squares.transpose();
    }
    return result;
  }

  double log_determinant() const {
    double sum = -variances_.template cast<double>().array().log().sum();
    if (changed()) sum += q_.array().log().sum();
    return sum;
  }

  /// Adds the terms of Kronecker factors with these prior precisions and groups.
  void add_to(DeterminantTerms& terms, double delta, Index group, double delta_bias,
              Index bias_group) const {
    terms.log_determinant += log_determinant();
    if (input_share_.size() > 0) {  // log det is a sum over factors, each with delta's root
      const auto over_both = [&](const Vector<double>& input, const Vector<double>& output) {
        return static_cast<double>(output.size()) * input.sum() +
               static_cast<double>(input.size()) * output.sum();
      };
      const auto slope = [](const Vector<double>& share) -> Vector<double> {
        return share.array() * (1 - share.array());
      };
      terms.first(group) += over_both(input_share_, output_share_) / 2;
      if (terms.wants_second())
        terms.second(group, group) += over_both(slope(input_share_), slope(output_share_)) / 4;
      return;
    }
    const Matrix<double> c = variances_.template cast<double>();
    const Matrix<double> c2 = c.cwiseAbs2();
    if (b_.size() == 0) {
      const double first = delta * c.sum();
      terms.first(group) += first;
      if (terms.wants_second()) terms.second(group, group) += first - delta * delta * c2.sum();
      return;
    }
    // With covariances Sigma_k of the rows and the bias' unit vector e:
    const Vector<double> b2 = b_.template cast<double>().cwiseAbs2();
    const Vector<double> tau = change_ / q_.array();
    const Vector<double> s2 = c2 * b2;
    const Vector<double> bias = (c * b2).cwiseQuotient(q_);  // e^T Sigma_k e
    const double weights = c.sum() - tau.dot(s2) - bias.sum();
    terms.first(group) += delta * weights;
    terms.first(bias_group) += delta_bias * bias.sum();
    if (!terms.wants_second()) return;
    const Vector<double> s3 = c2.cwiseProduct(c) * b2;
    const double all =
        c2.sum() - 2 * tau.dot(s3) + tau.cwiseProduct(s2).squaredNorm();  // |Sigma|^2
    const double column = s2.cwiseQuotient(q_.cwiseAbs2()).sum();         // |Sigma e|^2
    const double corner = bias.squaredNorm();
    terms.second(group, group) += delta * weights - delta * delta * (all - 2 * column + corner);
    terms.second(bias_group, bias_group) +=
        delta_bias * bias.sum() - delta_bias * delta_bias * corner;
    const double mixed = -delta * delta_bias * (column - corner);
    terms.second(group, bias_group) += mixed;
    terms.second(bias_group, group) += mixed;
  }

  /// Adds the terms of diagonal curvature: entry (i, j) has `delta(i, j)` and `group(i, j)`.
  template <class GroupOf>
  void add_to(DeterminantTerms& terms, const Matrix<double>& delta, GroupOf&& group) const {
    terms.log_determinant += log_determinant();
    for (Index j = 0; j < variances_.cols(); ++j)
      for (Index i = 0; i < variances_.rows(); ++i) {
        const double share = delta(i, j) * static_cast<double>(variances_(i, j));
        const Index g = group(i, j);
        terms.first(g) += share;
        if (terms.wants_second()) terms.second(g, g) += share * (1 - share);
      }
  }

 private:
  bool changed() const { return change_ != 0; }

  bool take(const Matrix<double>& variances) {
    if (!(variances.minCoeff() > 0) || !variances.allFinite()) return false;
    variances_ = variances.template cast<S>();
    return true;
  }

  /// Row k by I - alpha_k u_k u_k^T.
  void deflate(const Matrix<S>& roots, MatrixRef<S> v) const {
    const Matrix<S> u = roots * b_.asDiagonal();
    const Vector<S> products = v.cwiseProduct(u).rowwise().sum().cwiseProduct(alpha_);
    v -= products.asDiagonal() * u;
  }

  const linalg::KroneckerEigen<S>* eigen_ = nullptr;
  Matrix<S> variances_;
  Vector<S> b_;
  Vector<double> q_;
  double change_ = 0;  // of the bias' prior precision
  Vector<S> tau_, alpha_;
  // Of multiplicative damping: the damping's share of each factor's damped eigenvalues.
  Vector<double> input_share_, output_share_;
};

}  // namespace kfac
