#pragma once

#include <cmath>
#include <utility>
#include <vector>

#include <kfac/curvature/chain_inverse.hpp>
#include <kfac/curvature/curvature_matrix.hpp>

namespace kfac {

/// A chain-structured block as a matrix. In double, whatever the scalar.
template <RealScalar S>
class ChainMatrix : public CurvatureMatrix<S> {
  using Dense = Matrix<double>;

 public:
  /// \pre `chain` was computed
  explicit ChainMatrix(ChainDecomposition chain) : chain_(std::move(chain)) {
    if (is_long()) find_powers();
  }

  Index rows() const override { return chain_.g.from_basis.rows(); }
  Index columns() const override { return chain_.a.from_basis.rows(); }
  S trace() const override { return diagonal().sum(); }
  Matrix<S> diagonal() const override {
    const detail::ChainFactor& a = chain_.a;
    const detail::ChainFactor& g = chain_.g;
    if (!is_long())
      return (g.from_basis.cwiseAbs2() * chain_.values * a.from_basis.cwiseAbs2().transpose())
          .template cast<S>();
    // The lags one by one: that of d is the Kronecker product of M Psi^d M^T of both.
    Dense a_lag = a.from_basis;
    Dense g_lag = g.from_basis;
    Dense sum = Dense::Zero(rows(), columns());
    double weight = 1;
    for_each_lag([&] {
      const Vector<double> a_diagonal = a_lag.cwiseProduct(a.from_basis).rowwise().sum();
      const Vector<double> g_diagonal = g_lag.cwiseProduct(g.from_basis).rowwise().sum();
      sum += weight * g_diagonal * a_diagonal.transpose();
      weight = 2;
      a_lag = Dense(a_lag * a.psi);
      g_lag = Dense(g_lag * g.psi);
    });
    return sum.template cast<S>();
  }
  bool singular() const override { return chain_.singular(); }

 private:
  bool is_long() const { return chain_.structure == ChainStructure::LongSequence; }

  /// V <- left V right^T.
  static void map(const Dense& left, Dense& v, const Dense& right) {
    const Dense half = left * v;
    v.noalias() = half * right.transpose();
  }
  static void map_transposed(const Dense& left, Dense& v, const Dense& right) {
    const Dense half = left.transpose() * v;
    v.noalias() = half * right;
  }

  /// V <- body(V) in double.
  template <class Body>
  static void in_double(MatrixRef<S> v, Body&& body) {
    Dense z = v.template cast<double>();
    body(z);
    v = z.template cast<S>();
  }

  /// Psi_A, Psi_A^2, Psi_A^4, ... and those of Psi_G, up to where their product is rounding.
  void find_powers() {
    powers_.emplace_back(chain_.g.psi, chain_.a.psi);
    while (powers_.back().first.norm() * powers_.back().second.norm() > kNegligible) {
      const Dense g = powers_.back().first * powers_.back().first;
      const Dense a = powers_.back().second * powers_.back().second;
      powers_.emplace_back(g, a);
    }
  }
  /// V <- (I - Psi)^-1 V = sum_k Psi^k V, where each pass doubles the number of terms; or with the
  /// transpose. \source Smith, Matrix equation XA + BX = C, 1968
  void sum_powers(Dense& v, bool transposed) const {
    for (const auto& [g, a] : powers_) {
      Dense next = v;
      if (transposed)
        map_transposed(g, next, a);
      else
        map(g, next, a);
      v += next;
    }
  }
  /// Calls `body` for each lag, from 0, until the rest is rounding.
  template <class Body>
  void for_each_lag(Body&& body) const {
    Index count = 1;
    for (std::size_t k = 0; k < powers_.size(); ++k) count *= 2;
    for (Index d = 0; d < count; ++d) body();
  }

  void do_multiply(MatrixRef<S> v) const override {
    in_double(v, [&](Dense& z) {
      map_transposed(chain_.g.from_basis, z, chain_.a.from_basis);
      if (is_long()) sum_powers(z, true);
      z.array() *= chain_.values.array();
      if (is_long()) sum_powers(z, false);
      map(chain_.g.from_basis, z, chain_.a.from_basis);
    });
  }
  void do_solve(MatrixRef<S> v) const override {
    in_double(v, [&](Dense& z) {
      map_transposed(chain_.g.to_basis, z, chain_.a.to_basis);
      subtract_next(z, false);
      z.array() /= chain_.values.array();
      subtract_next(z, true);
      map(chain_.g.to_basis, z, chain_.a.to_basis);
    });
  }
  void do_multiply_sqrt(MatrixRef<S> v) const override {
    in_double(v, [&](Dense& z) {
      z.array() *= chain_.values.array().sqrt();
      if (is_long()) sum_powers(z, false);
      map(chain_.g.from_basis, z, chain_.a.from_basis);
    });
  }
  void do_multiply_inverse_sqrt(MatrixRef<S> v) const override {
    in_double(v, [&](Dense& z) {
      z.array() /= chain_.values.array().sqrt();
      subtract_next(z, true);
      map(chain_.g.to_basis, z, chain_.a.to_basis);
    });
  }
  /// V <- (I - Psi) V, or with the transpose; for long sequences.
  void subtract_next(Dense& v, bool transposed) const {
    if (!is_long()) return;
    Dense next = v;
    if (transposed)
      map_transposed(chain_.g.psi, next, chain_.a.psi);
    else
      map(chain_.g.psi, next, chain_.a.psi);
    v -= next;
  }

  S do_log_determinant() const override {
    double result = static_cast<double>(columns()) * chain_.g.log_determinant +
                    static_cast<double>(rows()) * chain_.a.log_determinant +
                    chain_.values.array().log().sum();
    // log det(I - Psi) = -sum_k tr(Psi^k) / k, and tr(Psi^k) = tr(Psi_G^k) tr(Psi_A^k).
    if (is_long()) {
      Dense a = Dense::Identity(columns(), columns());
      Dense g = Dense::Identity(rows(), rows());
      Index k = 0;
      for_each_lag([&] {
        if (k > 0) result += 2 * a.trace() * g.trace() / static_cast<double>(k);
        a = Dense(a * chain_.a.psi);
        g = Dense(g * chain_.g.psi);
        ++k;
      });
    }
    return static_cast<S>(result);
  }

  static constexpr double kNegligible = 1e-17;

  ChainDecomposition chain_;
  std::vector<std::pair<Dense, Dense>> powers_;  // of Psi_G and Psi_A
};

}  // namespace kfac
