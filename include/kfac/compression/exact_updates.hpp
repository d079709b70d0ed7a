#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include <kfac/compression/block_quadratic.hpp>
#include <kfac/compression/selection.hpp>

namespace kfac {
namespace detail {

/// Sorted, each in range and there once, and not all of them.
inline std::vector<Index> checked_indices(const char* where, const char* argument,
                                          std::vector<Index> indices, Index size) {
  std::sort(indices.begin(), indices.end());
  for (std::size_t i = 0; i < indices.size(); ++i) {
    if (indices[i] < 0 || indices[i] >= size)
      raise<ValueError>(std::string(where) + ": '" + argument + "' has " +
                        std::to_string(indices[i]) + ", expected 0 to " + std::to_string(size - 1));
    if (i > 0 && indices[i] == indices[i - 1])
      raise<ValueError>(std::string(where) + ": '" + argument + "' has " +
                        std::to_string(indices[i]) + " twice, expected it once");
  }
  if (static_cast<Index>(indices.size()) == size)
    raise<ValueError>(std::string(where) + ": '" + argument + "' are all " + std::to_string(size) +
                      ", expected at least one to be left");
  return indices;
}

/// M_KK^-1 M_KS, and the Schur complement M_SS - M_SK M_KK^-1 M_KS, of the damped M.
struct Elimination {
  std::vector<Index> kept;
  Matrix<double> transfer;  ///< kept x removed
  Matrix<double> schur;     ///< removed x removed

  template <RealScalar S>
  Elimination(const char* where, const Matrix<S>& matrix, double damping,
              const std::vector<Index>& removed, const std::string& block)
      : kept(all_but(removed, matrix.rows())) {
    const Matrix<double> m = damped(matrix, damping);
    const Matrix<double> between = m(kept, removed);
    const Matrix<double> among = m(kept, kept);
    transfer = cholesky(where, among, block).solve(between);
    schur = m(removed, removed);
    schur.noalias() -= between.transpose() * transfer;
  }
};

template <RealScalar S>
void check_update(const char* where, const MatrixRef<S>& w, const linalg::KroneckerTerm<S>& factors,
                  double damping) {
  check_shape(where, "factors.a", factors.a.rows(), factors.a.cols(), w.cols(), w.cols());
  check_shape(where, "factors.g", factors.g.rows(), factors.g.cols(), w.rows(), w.rows());
  check_option(damping >= 0 && std::isfinite(damping), where, "damping", damping,
               ">= 0 and finite");
}

/// `remove_rows` and `remove_columns`, of a layer of that name.
template <RealScalar S>
double remove_rows(const char* where, MatrixRef<S> w, const linalg::KroneckerTerm<S>& factors,
                   const std::vector<Index>& rows, double damping, const std::string& block) {
  check_update<S>(where, w, factors, damping);
  const std::vector<Index> removed = checked_indices(where, "rows", rows, w.rows());
  const Elimination elimination(where, factors.g, damping, removed, block);
  const Matrix<double> before = w(removed, Eigen::all).template cast<double>();
  const Matrix<double> change = elimination.transfer * before;
  const Matrix<double> half = elimination.schur * before;
  const Matrix<double> forms = half * damped(factors.a, damping);
  w(elimination.kept, Eigen::all) += change.template cast<S>();
  w(removed, Eigen::all).setZero();
  return 0.5 * before.cwiseProduct(forms).sum();
}
template <RealScalar S>
double remove_columns(const char* where, MatrixRef<S> w, const linalg::KroneckerTerm<S>& factors,
                      const std::vector<Index>& columns, double damping, const std::string& block) {
  check_update<S>(where, w, factors, damping);
  const std::vector<Index> removed = checked_indices(where, "columns", columns, w.cols());
  const Elimination elimination(where, factors.a, damping, removed, block);
  const Matrix<double> before = w(Eigen::all, removed).template cast<double>();
  const Matrix<double> change = before * elimination.transfer.transpose();
  const Matrix<double> half = before * elimination.schur;
  const Matrix<double> forms = damped(factors.g, damping) * half;
  w(Eigen::all, elimination.kept) += change.template cast<S>();
  w(Eigen::all, removed).setZero();
  return 0.5 * before.cwiseProduct(forms).sum();
}

}  // namespace detail

/// Sets rows of W (`outputs x columns`) to zero and gives the others the values that make up for it
/// best, exactly and jointly: W_K += G_KK^-1 G_KR W_R, which is -G^-1_{:,R} (G^-1_RR)^-1 W_R.
/// Returns what it costs, 1/2 tr(W_R^T (G^-1_RR)^-1 W_R A). Both factors have `damping` times their
/// mean eigenvalue added. \throws ShapeError; OptionError; ValueError for a row that is not there,
/// comes twice, or if none
///         would be left; SingularError; W is as it was then. So does `remove_columns`.
/// \source Hassibi and Stork 1992; Wang et al. 2019, arXiv 1905.05934
template <RealScalar S>
double remove_rows(MatrixRef<S> w, const linalg::KroneckerTerm<S>& factors,
                   const std::vector<Index>& rows, double damping = 0) {
  return detail::remove_rows<S>("kfac::remove_rows", w, factors, rows, damping, "");
}

/// Sets columns of W to zero and gives the others, a bias among them, the values that make up for
/// it best: W_K += W_S A_SK A_KK^-1, the least-squares map of the inputs that are left. It does not
/// depend on G, and so is exact for any loss that is quadratic in the layer's outputs. Returns what
/// it costs, 1/2 tr(W_S^T G W_S (A^-1_SS)^-1).
/// \throws as `remove_rows`
template <RealScalar S>
double remove_columns(MatrixRef<S> w, const linalg::KroneckerTerm<S>& factors,
                      const std::vector<Index>& columns, double damping = 0) {
  return detail::remove_columns<S>("kfac::remove_columns", w, factors, columns, damping, "");
}

}  // namespace kfac
