#pragma once

#include <vector>

#include <kfac/core/buffer.hpp>
#include <kfac/curvature/exact_operator.hpp>

namespace kfac {

/// The exact generalised Gauss-Newton matrix of a network and a loss, on one batch or on a data set
/// in slices, \f$ C = R \sum_n J_n^T H_n J_n \f$, where J_n is the Jacobian of example n's outputs
/// with respect to the flat parameters (in the order of `model.layers()`), H_n the Hessian of its
/// criterion, and R the loss's reduction factor for all examples. For the losses here it is the
/// Fisher. A product costs a tangent and a backward pass, and nothing of size parameters^2 is
/// formed:
///
///     kfac::Ggn ggn(model, loss, x);
///     const Eigen::VectorXd product = ggn * v;
///     const Eigen::MatrixXd products = ggn * vs;          // column by column
///     const Eigen::MatrixXd first = ggn.block(0).dense();  // of the first layer
///
/// Otherwise as `Jacobian`.
/// \source Schraudolph 2002; Martens 2020, arXiv 1412.1193, section 8
template <class Model, Loss LossType>
class Ggn : public detail::ExactOperator<Ggn<Model, LossType>, Model, LossType> {
  using Base = detail::ExactOperator<Ggn, Model, LossType>;
  using S = typename Model::Scalar;

 public:
  static constexpr const char* kName = "kfac::Ggn";

  /// On one batch: `x` is `features x examples`; `shape` that of one example, `{features}` where it
  /// is not given. \throws ShapeError, ValueError as `model.forward`
  Ggn(const Model& model, const LossType& loss, const ConstMatrixRef<S>& x)
      : Ggn(model, loss, x, Shape{x.rows()}) {}
  Ggn(const Model& model, const LossType& loss, const ConstMatrixRef<S>& x, const Shape& shape)
      : Base(loss, detail::Linearization<Model>(model, x, shape)) {}
  /// On a data set in slices, whose data must outlive it; each product makes their forward passes
  /// anew. \throws ShapeError, ValueError
  template <class Targets>
  Ggn(const Model& model, const LossType& loss, const std::vector<Slice<S, Targets>>& slices)
      : Base(loss, detail::Linearization<Model>(kName, model, slices)) {}

  /// J v, `outputs x examples`. \throws ShapeError
  Matrix<S> jacobian_product(const ConstVectorRef<S>& v) const {
    detail::check_size("kfac::Ggn::jacobian_product", "v", v.size(), Base::rows(), "entries");
    Matrix<S> result(at().outputs(), at().examples());
    at().multiply(v, VectorMap<S>(result.data(), result.size()));
    return result;
  }

  /// J^T u for u of `outputs x examples`. \throws ShapeError
  Vector<S> jacobian_transposed_product(const ConstMatrixRef<S>& u) const {
    detail::check_shape("kfac::Ggn::jacobian_transposed_product", "u", u.rows(), u.cols(),
                        at().outputs(), at().examples());
    Vector<S> result(Base::rows());
    at().multiply_transposed(Vector<S>(u.reshaped()), result);
    return result;
  }

  /// J, dense: a row for each output of the first example, then of the second, and so on.
  Matrix<S> jacobian() const { return at().jacobian(); }

  /// C, dense, for small networks: time and memory of parameters^2.
  Matrix<S> dense() const {
    Matrix<S> sum = Matrix<S>::Zero(Base::rows(), Base::rows());
    for (Index batch = 0; batch < at().batches(); ++batch) {
      Base::load(batch);
      const Matrix<S> full = at().batch_jacobian();
      Matrix<S> curved(full.rows(), full.cols());
      for (Index j = 0; j < full.cols(); ++j)
        curved.col(j) =
            curve({full.col(j).data(), at().outputs(), at().examples(batch)}).reshaped();
      sum.noalias() += Base::scale() * full.transpose() * curved;
    }
    return sum;
  }

 private:
  friend Base;
  friend SymmetricOperator<Ggn, S>;
  using Base::at;

  void prepare(Index) const {}

  ConstVectorMap<S> batch_product(const ConstVectorRef<S>& v) const {
    return at().pull_back(curve(at().tangent(v)));
  }

  /// H_n u_n, for each example of the loaded batch.
  ConstMatrixMap<S> curve(const ConstMatrixMap<S>& u) const {
    MatrixMap<S> curved = curved_.map(u.rows(), u.cols());
    Base::loss().hessian_product(at().batch_outputs(), u, curved);
    return {curved.data(), curved.rows(), curved.cols()};
  }

  mutable Buffer<S> curved_;
};

}  // namespace kfac
