#pragma once

#include <string>
#include <type_traits>
#include <utility>

#include <Eigen/Eigenvalues>

#include <kfac/core/errors.hpp>

namespace kfac::linalg {
namespace detail {

/// Raises a ShapeError unless the matrix is square and not empty.
inline void check_square(const char* where, const char* argument, Index rows, Index columns) {
  if (rows == columns && rows > 0) return;
  raise<ShapeError>(std::string(where) + ": '" + argument + "' is " + std::to_string(rows) + 'x' +
                    std::to_string(columns) + ", expected a square matrix that is not empty");
}

/// The eigendecomposition of a finite symmetric matrix by its lower triangle, values ascending;
/// false if it does not converge. Eigen's eigensolver takes seconds to compile: this is its only
/// use, so that a program has it once, whatever the scalars of its factors.
inline bool decompose_symmetric(const Matrix<double>& matrix, Matrix<double>& vectors,
                                Vector<double>& values) {
  const Eigen::SelfAdjointEigenSolver<Matrix<double>> solver(matrix);
  if (solver.info() != Eigen::Success) return false;
  vectors = solver.eigenvectors();
  values = solver.eigenvalues();
  return true;
}

}  // namespace detail

/// U diag(values) U^T of a symmetric positive semi-definite matrix. The work is done in double for
/// either scalar: the small eigenvalues of an ill-conditioned float factor are the ones that its
/// damped inverse depends on.
template <RealScalar S>
struct SymmetricEigen {
  Matrix<S> vectors;  ///< U, an eigenvector in each column
  Vector<S> values;   ///< ascending; those that round-off made negative are 0

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
    return true;
  }
};

}  // namespace kfac::linalg
