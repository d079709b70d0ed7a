#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include <kfac/curvature/curvature_estimate.hpp>
#include <kfac/posterior/dense_precision.hpp>
#include <kfac/posterior/prior.hpp>
#include <kfac/posterior/row_covariance.hpp>

namespace kfac {

/// How the posterior covariance of a block is held.
enum class PosteriorForm {
  Fixed,  ///< its parameters are not random
  Rows,   ///< independent rows in a basis: Kronecker factors, EKFAC and the diagonal
  Dense,  ///< of this block
  Joint,  ///< of all blocks together: only the whole posterior has products with it
};

/// The normal posterior of one block of a network's parameters, an `outputs x columns` matrix V
/// around its mean: precision kappa K + the prior's. Made by `Laplace`.
///
/// For a linear map that is used once, what outputs vary by needs no matrix of V's size: with its
/// inputs x (1 appended for the bias) and the gradients g_c of output c with respect to the map's,
/// `u = output_coordinates(g)`, `m = row_variances(input_coordinates(x))`, the covariance of
/// outputs c and d is sum_k u_kc u_kd m_k. Where weights are shared, V_c = sum_s g_cs x_s^T is
/// formed, and the covariance is the product of `multiply_covariance_sqrt_transposed(V_c)` with
/// that of V_d.
template <RealScalar S>
class PosteriorBlock {
 public:
  using Curvature = std::shared_ptr<const BlockEstimate<S>>;

  PosteriorBlock(Curvature curvature, bool random, bool joint) : curvature_(std::move(curvature)) {
    if (!random)
      form_ = PosteriorForm::Fixed;
    else if (joint)
      form_ = PosteriorForm::Joint;
    else if (curvature_->full.size() > 0)
      form_ = PosteriorForm::Dense;
  }

  const ParameterBlock& block() const { return curvature_->block; }
  /// False: its parameters are held fixed.
  bool random() const { return form_ != PosteriorForm::Fixed; }
  PosteriorForm form() const { return form_; }
  /// K, at the scale of the sum of the examples' criteria.
  const BlockEstimate<S>& curvature() const { return *curvature_; }

  /// Of the form Rows: bases, and covariances in them.
  const RowCovariance<S>& rows() const { return rows_; }

  // Of the form Rows:

  /// U_A^T x of each column of inputs, `columns x examples`.
  Matrix<S> input_coordinates(const ConstMatrixRef<S>& x) const {
    return rows_.input_coordinates(x);
  }
  /// U_G^T g of each column of output gradients, `outputs x examples`.
  Matrix<S> output_coordinates(const ConstMatrixRef<S>& g) const {
    return rows_.output_coordinates(g);
  }
  /// The variance of each row of V's product with such an input, `outputs x examples`.
  Matrix<S> row_variances(const ConstMatrixRef<S>& input_coordinates) const {
    return rows_.row_variances(input_coordinates);
  }
  /// The covariances of row k's products with two sets of inputs, `left x right` examples.
  Matrix<S> row_covariance(Index row, const ConstMatrixRef<S>& left,
                           const ConstMatrixRef<S>& right) const {
    return rows_.row_covariance(row, left, right);
  }

  // Of the forms Rows and Dense; V is `outputs x columns`, in place:

  /// V <- covariance V
  void multiply_covariance(MatrixRef<S> v) const {
    in_place(
        v, [&](MatrixRef<S> rows) { rows_.scale_by_covariance(rows); },
        [&](VectorRef<S> flat) { dense_.multiply_covariance(flat); }, true, true);
  }
  /// V <- L V, where L L^T is the covariance: of standard normal numbers it makes a sample.
  void multiply_covariance_sqrt(MatrixRef<S> v) const {
    in_place(
        v, [&](MatrixRef<S> rows) { rows_.scale_by_sqrt(rows); },
        [&](VectorRef<S> flat) { dense_.multiply_covariance_sqrt(flat); }, false, true);
  }
  /// V <- L^T V
  void multiply_covariance_sqrt_transposed(MatrixRef<S> v) const {
    in_place(
        v, [&](MatrixRef<S> rows) { rows_.scale_by_sqrt_transposed(rows); },
        [&](VectorRef<S> flat) { dense_.multiply_covariance_sqrt_transposed(flat); }, true, false);
  }
  /// V <- precision V
  void multiply_precision(MatrixRef<S> v) const {
    in_place(
        v, [&](MatrixRef<S> rows) { rows_.scale_by_precision(rows); },
        [&](VectorRef<S> flat) { dense_.multiply_precision(flat); }, true, true);
  }
  /// V <- K V, without the prior.
  void multiply_curvature(MatrixRef<S> v) const {
    if (form_ == PosteriorForm::Dense) {
      const Vector<S> flat = v.reshaped();
      v.reshaped() = curvature_->full.template selfadjointView<Eigen::Lower>() * flat;
    } else if (curvature_->eigen.empty()) {
      v.array() *= curvature_->diagonal.array();
    } else {
      curvature_->eigen.apply(linalg::MatrixFunction::Identity, S(0), v);
    }
  }
  /// The variance of each parameter, `outputs x columns`.
  Matrix<S> variances() const {
    if (form_ == PosteriorForm::Rows) return rows_.parameter_variances();
    return dense_.variances().reshaped(block().outputs, block().columns());
  }

  /// Adds log det of the precision, and its derivatives, to the terms.
  void add_to(DeterminantTerms& terms, const Prior<S>& prior, std::size_t index) const {
    const auto group = [&](Index i, Index j) { return prior.group_of(index, i, j); };
    if (form_ == PosteriorForm::Rows && !curvature_->eigen.empty()) {
      const Index weight = prior.weight_group(index);
      const Index bias = block().bias ? prior.bias_group(index) : weight;
      rows_.add_to(terms, prior.precision()(weight), weight, prior.precision()(bias), bias);
    } else if (form_ == PosteriorForm::Rows) {
      rows_.add_to(terms, prior.precision_of(index), group);
    } else if (form_ == PosteriorForm::Dense) {
      const Index rows = block().outputs;
      dense_.add_to(terms, prior.precision_of(index).reshaped(),
                    [&](Index i) { return group(i % rows, i / rows); });
    }
  }

  /// Makes the covariance of precision kappa K + the prior's.
  /// \throws SingularError, naming the layer
  void refresh(const char* where, double kappa, const Prior<S>& prior, std::size_t index,
               PriorDamping damping) {
    if (form_ == PosteriorForm::Fixed || form_ == PosteriorForm::Joint) return;
    bool regular = false;
    if (form_ == PosteriorForm::Dense) {
      regular = dense_.compute(curvature_->full, kappa, prior.precision_of(index).reshaped());
    } else {
      rows_ = {};
      if (curvature_->eigen.empty()) {
        regular = rows_.compute(curvature_->diagonal, kappa, prior.precision_of(index));
      } else {
        const double delta = prior.precision()(prior.weight_group(index));
        std::optional<double> delta_bias;
        if (block().bias) delta_bias = prior.precision()(prior.bias_group(index));
        regular = damping == PriorDamping::Multiplicative
                      ? rows_.compute_multiplicative(curvature_->eigen, kappa, delta)
                      : rows_.compute(curvature_->eigen, kappa, delta, delta_bias);
      }
    }
    if (!regular)
      raise<SingularError>(std::string(where) +
                           ": the posterior precision is singular, expected 'prior_precision' > 0 "
                           "where the curvature is singular (layer '" +
                           block().name() + "')");
  }

 private:
  /// Applies what there is for the form, in the basis: `to` and `from` say which turns are made.
  template <class OfRows, class OfDense>
  void in_place(MatrixRef<S> v, OfRows&& of_rows, OfDense&& of_dense, bool to, bool from) const {
    if (form_ == PosteriorForm::Dense) {
      Vector<S> flat = v.reshaped();
      of_dense(flat);
      v = flat.reshaped(v.rows(), v.cols());
      return;
    }
    if (to) rows_.to_basis(v);
    of_rows(v);
    if (from) rows_.from_basis(v);
  }

  Curvature curvature_;
  PosteriorForm form_ = PosteriorForm::Rows;
  RowCovariance<S> rows_;
  DensePrecision<S> dense_;
};

}  // namespace kfac
