#pragma once

#include <kfac/loss/loss.hpp>
#include <kfac/nn/network.hpp>

namespace kfac {

/// The exact generalised Gauss-Newton matrix of a network and a loss on one batch,
/// \f$ C = R \sum_n J_n^T H_n J_n \f$, where J_n is the Jacobian of example n's outputs with
/// respect to the flat parameters (in the order of `model.layers()`), H_n the Hessian of its
/// criterion, and R the loss's reduction factor. For the losses here it is the Fisher. A product
/// costs a tangent and a backward pass, and nothing of size parameters^2 is formed:
///
///     kfac::Ggn ggn(model, loss, x);
///     const Eigen::VectorXd product = ggn * v;
///
/// It keeps a workspace of its own, evaluates without dropout and announces nothing. The products
/// are those at the parameters the model had when it was made. The model must outlive it.
/// \source Schraudolph 2002; Martens 2020, arXiv 1412.1193, section 8
template <class Model, Loss LossType>
class Ggn {
 public:
  using Scalar = typename Model::Scalar;

  /// `x` is `features x examples`; `shape` that of one example, `{features}` where it is not given.
  /// \throws ShapeError, ValueError as `model.forward`
  Ggn(const Model& model, const LossType& loss, const ConstMatrixRef<Scalar>& x)
      : Ggn(model, loss, x, Shape{x.rows()}) {}
  Ggn(const Model& model, const LossType& loss, const ConstMatrixRef<Scalar>& x, const Shape& shape)
      : model_(model), loss_(loss), workspace_(model.make_workspace()) {
    workspace_.mode = {false, false};
    outputs_ = model_.forward(x, shape, workspace_);
    curved_.resize(outputs_.rows(), outputs_.cols());
  }

  Index rows() const { return model_.parameter_count(); }
  Index cols() const { return rows(); }

  /// The outputs at which it is evaluated.
  const Matrix<Scalar>& outputs() const { return outputs_; }

  /// C v. \throws ShapeError
  Vector<Scalar> operator*(const ConstVectorRef<Scalar>& v) {
    loss_.hessian_product(outputs_, model_.tangent(v, workspace_), curved_);
    model_.backward(curved_, workspace_);
    return reduction_factor() * workspace_.gradient;
  }

  /// J v, `outputs x examples`. \throws ShapeError
  Matrix<Scalar> jacobian_product(const ConstVectorRef<Scalar>& v) {
    return model_.tangent(v, workspace_);
  }

  /// J^T u for u of `outputs x examples`. \throws ShapeError
  Vector<Scalar> jacobian_transposed_product(const ConstMatrixRef<Scalar>& u) {
    model_.backward(u, workspace_);
    return workspace_.gradient;
  }

  /// J, dense: a row for each output of the first example, then of the second, and so on.
  Matrix<Scalar> jacobian() {
    Matrix<Scalar> result(outputs_.size(), cols());
    Vector<Scalar> direction = Vector<Scalar>::Zero(cols());
    for (Index j = 0; j < cols(); ++j) {
      direction(j) = 1;
      const ConstMatrixMap<Scalar> column = model_.tangent(direction, workspace_);
      result.col(j) = ConstVectorMap<Scalar>(column.data(), column.size());
      direction(j) = 0;
    }
    return result;
  }

  /// C, dense, for small networks: time and memory of parameters^2.
  Matrix<Scalar> dense() {
    const Matrix<Scalar> full = jacobian();
    Matrix<Scalar> curved(full.rows(), full.cols());
    for (Index j = 0; j < cols(); ++j) {
      const ConstMatrixMap<Scalar> column(full.col(j).data(), outputs_.rows(), outputs_.cols());
      loss_.hessian_product(outputs_, column, curved_);
      curved.col(j) = ConstVectorMap<Scalar>(curved_.data(), curved_.size());
    }
    return reduction_factor() * (full.transpose() * curved);
  }

 private:
  Scalar reduction_factor() const { return loss_.scale(outputs_.rows(), outputs_.cols()); }

  const Model& model_;
  LossType loss_;
  typename Model::Workspace workspace_;
  Matrix<Scalar> outputs_;
  Matrix<Scalar> curved_;
};

}  // namespace kfac
