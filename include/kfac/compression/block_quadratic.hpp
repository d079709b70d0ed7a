#pragma once

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <Eigen/Cholesky>

#include <kfac/curvature/curvature_estimate.hpp>

namespace kfac::detail {

/// A symmetric matrix with so many times its mean eigenvalue added to its diagonal, in double.
template <RealScalar S>
Matrix<double> damped(const Matrix<S>& matrix, double damping) {
  Matrix<double> result = matrix.template cast<double>();
  if (damping > 0 && result.rows() > 0)
    result.diagonal().array() += damping * result.trace() / static_cast<double>(result.rows());
  return result;
}

[[noreturn]] inline void raise_singular(const char* where, const std::string& block) {
  raise<SingularError>(std::string(where) + ": the curvature is singular, expected damping > 0" +
                       (block.empty() ? "" : " (layer '" + block + "')"));
}

/// The Cholesky decomposition of a part of a block's curvature. \throws SingularError
inline Eigen::LLT<Matrix<double>> cholesky(const char* where, const Matrix<double>& matrix,
                                           const std::string& block) {
  Eigen::LLT<Matrix<double>> decomposition(matrix);
  if (decomposition.info() != Eigen::Success) raise_singular(where, block);
  return decomposition;
}

inline Matrix<double> inverse(const char* where, const Matrix<double>& matrix,
                              const std::string& block) {
  return cholesky(where, matrix, block)
      .solve(Matrix<double>::Identity(matrix.rows(), matrix.cols()));
}

/// Raises a ValueError if an estimate leaves a block out.
template <RealScalar S>
void check_curvature(const char* where, const BlockEstimate<S>& estimate) {
  if (estimate.is_empty())
    raise<ValueError>(std::string(where) + ": 'estimate' has no curvature, expected some (layer '" +
                      estimate.block.name() + "')");
}
/// The same unless it has Kronecker factors.
template <RealScalar S>
void check_factors(const char* where, const BlockEstimate<S>& estimate) {
  if (!estimate.has_factors())
    raise<ValueError>(std::string(where) +
                      ": 'estimate' has no Kronecker factors, expected some (layer '" +
                      estimate.block.name() + "')");
}

/// The entries of a block's parameters in a row or column of `outputs x columns`, in its vec.
inline std::vector<Index> row_entries(const ParameterBlock& block, Index row) {
  std::vector<Index> entries;
  for (Index j = 0; j < block.columns(); ++j) entries.push_back(j * block.outputs + row);
  return entries;
}
inline std::vector<Index> column_entries(const ParameterBlock& block, Index column) {
  std::vector<Index> entries;
  for (Index i = 0; i < block.outputs; ++i) entries.push_back(column * block.outputs + i);
  return entries;
}

/// The second-order model of what a change of a block's weights costs, 1/2 vec(dW)^T C vec(dW), in
/// whichever form the estimate has it: what removing a weight, a row or a column costs alone (OBD),
/// and with all other entries of the block at their best (OBS). For OBS, C is damped: by
/// `damping` times the mean eigenvalue, of both factors where there are factors only.
class BlockQuadratic {
 public:
  template <RealScalar S>
  BlockQuadratic(const char* where, const BlockEstimate<S>& estimate, double damping)
      : where_(where), block_(estimate.block), damping_(damping) {
    check_curvature(where, estimate);
    if (estimate.has_moments) {
      form_ = Form::Eigen;
      a_ = estimate.eigen.input_basis().vectors.template cast<double>();
      g_ = estimate.eigen.output_basis().vectors.template cast<double>();
      entries_ = estimate.eigen.grid().template cast<double>();
    } else if (estimate.has_factors()) {
      form_ = Form::Kronecker;
      a_ = estimate.factors.a.template cast<double>();
      g_ = estimate.factors.g.template cast<double>();
    } else if (estimate.full.size() > 0) {
      form_ = Form::Full;
      entries_ = estimate.full.template cast<double>();
    } else {
      form_ = Form::Diagonal;
      entries_ = estimate.diagonal.template cast<double>();
    }
  }

  /// `outputs x columns`: 1/2 w^2 C_qq, or 1/2 w^2 / [C^-1]_qq.
  Matrix<double> weights(const Matrix<double>& w, bool joint) const {
    const Matrix<double> squares = 0.5 * w.cwiseAbs2();
    if (!joint) return squares.cwiseProduct(diagonal());
    return squares.cwiseQuotient(inverse_diagonal());
  }

  /// `outputs` numbers: what it costs to set a row to zero.
  Vector<double> rows(const Matrix<double>& w, bool joint) const {
    switch (form_) {
      case Form::Diagonal:
        return 0.5 * w.cwiseAbs2().cwiseProduct(entries(joint)).rowwise().sum();
      case Form::Full:
        return groups(w, joint, block_.outputs, row_entries);
      case Form::Eigen: {
        const Matrix<double> rotated = w * a_;
        return 0.5 * rotated.cwiseAbs2().cwiseProduct(row_moments(joint)).rowwise().sum();
      }
      case Form::Kronecker:
        break;
    }
    const Matrix<double> a = damped(a_, joint ? damping_ : 0);
    const Matrix<double> half = w * a;
    const Vector<double> forms = 0.5 * half.cwiseProduct(w).rowwise().sum();
    return forms.cwiseProduct(weight_of(g_, joint));
  }

  /// `columns` numbers: what it costs to set a column to zero.
  Vector<double> columns(const Matrix<double>& w, bool joint) const {
    switch (form_) {
      case Form::Diagonal:
        return 0.5 * w.cwiseAbs2().cwiseProduct(entries(joint)).colwise().sum().transpose();
      case Form::Full:
        return groups(w, joint, block_.columns(), column_entries);
      case Form::Eigen: {
        const Matrix<double> rotated = g_.transpose() * w;
        return 0.5 *
               rotated.cwiseAbs2().cwiseProduct(column_moments(joint)).colwise().sum().transpose();
      }
      case Form::Kronecker:
        break;
    }
    const Matrix<double> g = damped(g_, joint ? damping_ : 0);
    const Matrix<double> half = g * w;
    const Vector<double> forms = 0.5 * half.cwiseProduct(w).colwise().sum().transpose();
    return forms.cwiseProduct(weight_of(a_, joint));
  }

 private:
  enum class Form { Diagonal, Kronecker, Eigen, Full };

  /// Of the diagonal or the grid, damped if they are to be inverted.
  Matrix<double> entries(bool joint) const {
    return entries_.array() + (joint ? damping_ * entries_.mean() : 0);
  }

  Matrix<double> diagonal() const {
    switch (form_) {
      case Form::Diagonal:
        return entries_;
      case Form::Kronecker:
        return g_.diagonal() * a_.diagonal().transpose();
      case Form::Eigen: {
        const Matrix<double> half = g_.cwiseAbs2() * entries_;
        return half * a_.cwiseAbs2().transpose();
      }
      case Form::Full:
        break;
    }
    return entries_.diagonal().reshaped(block_.outputs, block_.columns());
  }

  Matrix<double> inverse_diagonal() const {
    switch (form_) {
      case Form::Diagonal:
        return inverted(entries(true));
      case Form::Kronecker:
        return weight_of(g_, true).cwiseInverse() * weight_of(a_, true).cwiseInverse().transpose();
      case Form::Eigen: {
        const Matrix<double> half = g_.cwiseAbs2() * inverted(entries(true));
        return half * a_.cwiseAbs2().transpose();
      }
      case Form::Full:
        break;
    }
    const Matrix<double> all = inverse(where_, damped(entries_, damping_), block_.name());
    return all.diagonal().reshaped(block_.outputs, block_.columns());
  }

  /// For each row i and eigenvector j of A, the matrix of row i in the eigenbasis of A, which is
  /// diagonal there: itself, or its best with the other rows.
  Matrix<double> row_moments(bool joint) const {
    if (!joint) return g_.cwiseAbs2() * entries_;
    return inverted(g_.cwiseAbs2() * inverted(entries(true)));
  }
  Matrix<double> column_moments(bool joint) const {
    if (!joint) return entries_ * a_.cwiseAbs2().transpose();
    return inverted(inverted(entries(true)) * a_.cwiseAbs2().transpose());
  }

  Matrix<double> inverted(const Matrix<double>& values) const {
    if (!(values.minCoeff() > 0)) raise_singular(where_, block_.name());
    return values.cwiseInverse();
  }

  /// A factor's diagonal, or one over that of its damped inverse.
  Vector<double> weight_of(const Matrix<double>& factor, bool joint) const {
    if (!joint) return factor.diagonal();
    const Matrix<double> all = inverse(where_, damped(factor, damping_), block_.name());
    return all.diagonal().cwiseInverse();
  }

  template <class Entries>
  Vector<double> groups(const Matrix<double>& w, bool joint, Index count,
                        Entries&& entries_of) const {
    Matrix<double> all = entries_;
    if (joint) all = inverse(where_, damped(entries_, damping_), block_.name());
    Vector<double> costs(count);
    for (Index i = 0; i < count; ++i) {
      const std::vector<Index> at = entries_of(block_, i);
      const Vector<double> values = w.reshaped()(at);
      const Matrix<double> part = all(at, at);
      const Vector<double> product =
          joint ? Vector<double>(cholesky(where_, part, block_.name()).solve(values))
                : Vector<double>(part * values);
      costs(i) = 0.5 * values.dot(product);
    }
    return costs;
  }

  const char* where_;
  ParameterBlock block_;
  double damping_;
  Form form_ = Form::Kronecker;
  Matrix<double> a_, g_;    // factors, or their eigenbases
  Matrix<double> entries_;  // the diagonal, the grid or the full matrix
};

}  // namespace kfac::detail
