#pragma once

#include <kfac/curvature/linearization.hpp>
#include <kfac/curvature/symmetric_operator.hpp>

namespace kfac {

template <class Model>
class TransposedJacobian;

/// The Jacobian of a network's outputs with respect to its flat parameters (in the order of
/// `model.layers()`), `(outputs * examples) x parameters`: a row for each output of the first
/// example, then of the second, and so on. A product costs a tangent pass, one with the transpose a
/// backward pass:
///
///     kfac::Jacobian jacobian(model, x);
///     const Eigen::VectorXd change = jacobian * v;
///     const Eigen::VectorXd gradient = jacobian.transpose() * u;
///
/// As of all exact operators: it keeps a workspace of its own, evaluates without dropout and
/// announces nothing. The model must outlive it and keep its parameters; make a new operator after
/// a step. Products write to the workspace, so each thread needs an operator of its own.
template <class Model>
class Jacobian {
 public:
  using Scalar = typename Model::Scalar;

  /// On one batch: `x` is `features x examples`; `shape` that of one example, `{features}` where it
  /// is not given. \throws ShapeError, ValueError as `model.forward`
  Jacobian(const Model& model, const ConstMatrixRef<Scalar>& x)
      : Jacobian(model, x, Shape{x.rows()}) {}
  Jacobian(const Model& model, const ConstMatrixRef<Scalar>& x, const Shape& shape)
      : at_(model, x, shape) {}
  /// On a data set in slices, whose data must outlive it; each product makes their forward passes
  /// anew. \throws ShapeError, ValueError
  template <class Targets>
  Jacobian(const Model& model, const std::vector<Slice<Scalar, Targets>>& slices)
      : at_(kName, model, slices) {}

  Index rows() const { return at_.outputs() * at_.examples(); }
  Index cols() const { return at_.parameters(); }

  /// The outputs at which it is evaluated, `outputs x examples`.
  Matrix<Scalar> outputs() const { return at_.all_outputs(); }

  /// J v, for a vector or each column of a matrix. \throws ShapeError
  template <class V>
  detail::ProductWith<Scalar, V> operator*(const Eigen::MatrixBase<V>& v) const {
    detail::check_size(kName, "v", v.rows(), cols(), "rows");
    detail::ProductWith<Scalar, V> result(rows(), v.cols());
    at_.multiply(ConstMatrixRef<Scalar>(v.derived()), result);
    return result;
  }

  /// J^T, an operator that refers to this one.
  TransposedJacobian<Model> transpose() const& { return TransposedJacobian<Model>(*this); }
  TransposedJacobian<Model> transpose() const&& = delete;

  /// J, for small networks.
  Matrix<Scalar> dense() const { return at_.jacobian(); }

 private:
  friend TransposedJacobian<Model>;
  static constexpr const char* kName = "kfac::Jacobian";

  mutable detail::Linearization<Model> at_;
};

/// The transpose of a Jacobian, which it refers to.
template <class Model>
class TransposedJacobian {
 public:
  using Scalar = typename Model::Scalar;

  explicit TransposedJacobian(const Jacobian<Model>& jacobian) : jacobian_(&jacobian) {}

  Index rows() const { return jacobian_->cols(); }
  Index cols() const { return jacobian_->rows(); }

  /// J^T u, for a vector or each column of a matrix. \throws ShapeError
  template <class V>
  detail::ProductWith<Scalar, V> operator*(const Eigen::MatrixBase<V>& u) const {
    detail::check_size("kfac::TransposedJacobian", "u", u.rows(), cols(), "rows");
    detail::ProductWith<Scalar, V> result(rows(), u.cols());
    jacobian_->at_.multiply_transposed(ConstMatrixRef<Scalar>(u.derived()), result);
    return result;
  }

 private:
  const Jacobian<Model>* jacobian_;
};

}  // namespace kfac
