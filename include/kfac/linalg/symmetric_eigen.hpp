#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <type_traits>
#include <utility>

#if !defined(EIGEN_USE_LAPACKE)
#include <Eigen/Eigenvalues>
#endif
#include <Eigen/QR>

#include <kfac/core/errors.hpp>
#include <kfac/core/state.hpp>

namespace kfac::linalg {
namespace detail {

/// Raises a ShapeError unless the matrix is square and not empty.
inline void check_square(const char* where, const char* argument, Index rows, Index columns) {
  if (rows == columns && rows > 0) return;
  raise<ShapeError>(std::string(where) + ": '" + argument + "' is " + std::to_string(rows) + 'x' +
                    std::to_string(columns) + ", expected a square matrix that is not empty");
}

/// The eigendecomposition of a finite symmetric matrix by its lower triangle, values ascending;
/// false if it does not converge. By LAPACK's divide and conquer where Eigen is told that there is
/// one (EIGEN_USE_LAPACKE), else by Eigen. Eigen's eigensolver takes seconds to compile: this is
/// its only use, so that a program has it once, whatever the scalars of its factors.
inline bool decompose_symmetric(const Matrix<double>& matrix, Matrix<double>& vectors,
                                Vector<double>& values) {
#if defined(EIGEN_USE_LAPACKE)
  vectors = matrix;
  values.resize(matrix.rows());
  const auto size = static_cast<lapack_int>(matrix.rows());
  return LAPACKE_dsyevd(LAPACK_COL_MAJOR, 'V', 'L', size, vectors.data(), size, values.data()) == 0;
#else
  const Eigen::SelfAdjointEigenSolver<Matrix<double>> solver(matrix);
  if (solver.info() != Eigen::Success) return false;
  vectors = solver.eigenvectors();
  values = solver.eigenvalues();
  return true;
#endif
}

/// The orthogonal factor of a square matrix's QR decomposition, signed such that R has a diagonal
/// that is not negative.
template <RealScalar S>
Matrix<S> orthogonal_factor(const Matrix<S>& matrix) {
  const Eigen::HouseholderQR<Matrix<S>> qr(matrix);
  Matrix<S> q = qr.householderQ();
  for (Index j = 0; j < q.cols(); ++j)
    if (qr.matrixQR()(j, j) < 0) q.col(j) *= S(-1);
  return q;
}

}  // namespace detail

/// U diag(values) U^T of a symmetric positive semi-definite matrix. The work is done in double for
/// either scalar: the small eigenvalues of an ill-conditioned float factor are the ones that its
/// damped inverse depends on.
template <RealScalar S>
struct SymmetricEigen {
  Matrix<S> vectors;  ///< U, an eigenvector in each column
  Vector<S> values;   ///< ascending; those that round-off made negative are 0
  /// How far U is from diagonalizing the matrix C: ||U^T C U - diag(values)|| / ||C||, Frobenius
  /// norms. 0 after `compute`.
  S residual = 0;

  Index size() const { return values.size(); }

  /// Decomposes `matrix`, of which the lower triangle is read. Returns false, keeping what was
  /// there, if an entry of it is not finite or the eigensolver does not converge.
  /// \throws ShapeError if it is not square or is empty
  bool compute(const ConstMatrixRef<S>& matrix) {
    detail::check_square("kfac::linalg::SymmetricEigen::compute", "matrix", matrix.rows(),
                         matrix.cols());
    Matrix<double> lower = matrix.template cast<double>();
    lower.template triangularView<Eigen::StrictlyUpper>().setZero();
    if (!lower.allFinite()) return false;
    Matrix<double> next_vectors;
    Vector<double> next_values;
    if (!detail::decompose_symmetric(lower, next_vectors, next_values)) return false;
    if constexpr (std::is_same_v<S, double>) {
      vectors = std::move(next_vectors);
    } else {
      vectors = next_vectors.template cast<S>();
    }
    values = next_values.cwiseMax(0.0).template cast<S>();
    residual = 0;
    return true;
  }

  /// Follows a matrix that has changed a little since `compute` or the last `track`, by orthogonal
  /// iterations from the vectors there are, in the scalar S; one takes about a third of the time of
  /// `compute` in double, a fifth in float.
  /// U is orthogonal to rounding and its columns keep their signs; `values` is the diagonal of
  /// U^T C U; `residual` says how well it went: those with a large one may prefer to `compute`.
  /// Eigenvalues that differ little are slow to be told apart, and those below epsilon times the
  /// largest are rounding's. Returns false, keeping what was there, if an entry of the lower
  /// triangle is not finite.
  /// \throws StateError before `compute`; ShapeError; OptionError unless iterations >= 1
  /// \source Golub and Van Loan, Matrix Computations, section 8.2.4; Vyas et al. 2024, arXiv
  ///         2409.11321, which follows the factors of a preconditioner so
  bool track(const ConstMatrixRef<S>& matrix, Index iterations = 1) {
    static constexpr const char* kWhere = "kfac::linalg::SymmetricEigen::track";
    if (size() == 0)
      raise<StateError>(std::string(kWhere) + ": no eigenvectors yet, expected compute before it");
    kfac::detail::check_shape(kWhere, "matrix", matrix.rows(), matrix.cols(), size(), size());
    kfac::detail::check_option(iterations >= 1, kWhere, "iterations", iterations, ">= 1");
    // Descending, since the first columns of a QR decomposition are the ones that converge freely.
    Matrix<S> basis = vectors.rowwise().reverse();
    Matrix<S> product(size(), size());
    const auto multiply = [&]() -> S {  // product = C basis / scale; < 0: not finite
      product.noalias() = matrix.template selfadjointView<Eigen::Lower>() * basis;
      if (!product.allFinite()) return S(-1);
      const S scale = product.cwiseAbs().maxCoeff();
      if (scale > 0) product /= scale;
      return scale;
    };
    for (Index i = 0; i < iterations; ++i) {
      if (multiply() < 0) return false;
      basis = detail::orthogonal_factor<S>(product);
    }
    const S scale = multiply();
    if (scale < 0) return false;
    const Vector<S> quotients = basis.cwiseProduct(product).colwise().sum().transpose();
    const S norm = product.norm();  // of C / scale, since the basis is orthogonal
    product.noalias() -= basis * quotients.asDiagonal();
    residual = norm > 0 ? product.norm() / norm : S(0);

    Eigen::Matrix<Index, Eigen::Dynamic, 1> order(size());
    std::iota(order.begin(), order.end(), Index(0));
    std::sort(order.begin(), order.end(), [&](Index left, Index right) {
      return std::pair(quotients(left), -left) < std::pair(quotients(right), -right);
    });
    for (Index i = 0; i < size(); ++i) {
      vectors.col(i) = basis.col(order(i));
      values(i) = std::max(quotients(order(i)), S(0)) * scale;
    }
    return true;
  }

  /// Of a matrix of `rows` rows, or of none yet.
  void visit_state(StateVisitor& visitor, Index rows) {
    visitor.visit_optional("vectors", vectors, rows, rows);
    visitor.visit_optional("values", values, rows);
    visitor.visit("residual", residual);
  }
};

}  // namespace kfac::linalg
