#pragma once

#include <cmath>
#include <limits>

#include <Eigen/QR>

#include <kfac/core/types.hpp>

namespace kfac::linalg {

/// A matrix as Q R: Q has orthonormal columns that span those of the matrix (and more, where these
/// are dependent), R is upper triangular.
template <RealScalar S>
struct ThinQr {
  Matrix<S> q;
  Matrix<S> r;

  /// \pre at least as many rows as columns
  explicit ThinQr(const Matrix<S>& columns) {
    const Eigen::HouseholderQR<Matrix<S>> qr(columns);
    q.setIdentity(columns.rows(), columns.cols());
    q.applyOnTheLeft(qr.householderQ());
    r = qr.matrixQR().topRows(columns.cols()).template triangularView<Eigen::Upper>();
  }
};

/// For each column i of `factor.r` the unit vector s_i, orthogonal to all other columns, as the
/// columns of a matrix: Q (I - s_i s_i^T) Q^T projects on the range of the factored matrix without
/// its column i. They are the rows of R^-1, normalised; a pivot of zero is taken as one of
/// rounding. \source Epperly, Tropp and Webber, XTrace: making the most of every sample in
/// stochastic trace
///         estimation, 2024, arXiv 2301.07825, section 2.1
template <RealScalar S>
Matrix<S> leave_one_out_directions(const ThinQr<S>& factor) {
  Matrix<S> regular = factor.r;
  const S largest = regular.diagonal().cwiseAbs().maxCoeff();
  const S floor = largest > 0 ? largest * std::numeric_limits<S>::epsilon() : S(1);
  for (Index i = 0; i < regular.cols(); ++i)
    if (std::abs(regular(i, i)) < floor) regular(i, i) = floor;
  Matrix<S> directions = Matrix<S>::Identity(regular.rows(), regular.cols());
  regular.transpose().template triangularView<Eigen::Lower>().solveInPlace(directions);
  for (Index i = 0; i < directions.cols(); ++i) directions.col(i).stableNormalize();
  return directions;
}

/// Replaces `columns` with an orthonormal basis of what they add to the span of the orthonormal
/// `basis`; columns that add nothing beyond rounding are left out.
template <RealScalar S>
void orthonormalize_against(const ConstMatrixRef<S>& basis, Matrix<S>& columns) {
  Index kept = 0;
  for (Index j = 0; j < columns.cols(); ++j) {
    Vector<S> v = columns.col(j);
    v.stableNormalize();
    S left = v.norm();  // of the unit vector; 0 if there was nothing
    for (int pass = 0; pass < 3 && left > 0; ++pass) {
      const Vector<S> along = basis.transpose() * v;
      v.noalias() -= basis * along;
      const Vector<S> along_kept = columns.leftCols(kept).transpose() * v;
      v.noalias() -= columns.leftCols(kept) * along_kept;
      const S norm = v.norm();
      left *= norm;
      if (!(left > S(100) * std::numeric_limits<S>::epsilon())) left = 0;
      if (left > 0) v /= norm;
      if (norm > S(0.7)) break;  // nothing was cancelled
    }
    if (left > 0) columns.col(kept++) = v;
  }
  columns.conservativeResize(Eigen::NoChange, kept);
}

}  // namespace kfac::linalg
