#pragma once

#include <kfac/core/buffer.hpp>
#include <kfac/curvature/exact_operator.hpp>

namespace kfac {

/// The exact Hessian of a loss with respect to a network's flat parameters (in the order of
/// `model.layers()`), on one batch or on a data set in slices,
/// \f$ R \sum_n J_n^T H_n J_n + R \sum_n \sum_k [\nabla c_n]_k \nabla^2 f_{nk} \f$: the GGN, and
/// the curvature of the network itself. A product differentiates the backward pass along v, at the
/// cost of about three gradients:
///
///     kfac::Hessian hessian(model, loss, x, y);
///     const Eigen::VectorXd product = hessian * v;
///     const Eigen::MatrixXd products = hessian * vs;          // column by column
///     const Eigen::MatrixXd first = hessian.block(0).dense();  // of the first layer
///
/// Symmetric, but not positive semi-definite. Every layer has to be a TwiceDifferentiableLayer,
/// which is checked at compile time; for layers chosen at run time a product throws a StateError
/// that names the layer. Otherwise as `Jacobian`. Constructors: (model, loss, x, y), (model, loss,
/// x, y, shape), (model, loss, slices).
/// \source Pearlmutter, Fast exact multiplication by the Hessian, 1994
template <class Model, Loss LossType>
class Hessian : public detail::LabelledOperator<Hessian<Model, LossType>, Model, LossType> {
  using Base = detail::LabelledOperator<Hessian, Model, LossType>;
  using Exact = detail::ExactOperator<Hessian, Model, LossType>;
  using S = typename Model::Scalar;
  static_assert(TwiceDifferentiableLayer<Model>,
                "the Hessian needs backward_tangent of each layer (TwiceDifferentiableLayer)");

 public:
  static constexpr const char* kName = "kfac::Hessian";
  using Base::Base;

 private:
  friend Exact;
  friend SymmetricOperator<Hessian, S>;

  ConstVectorMap<S> batch_product(const ConstVectorRef<S>& v) const {
    const ConstMatrixMap<S> outputs = Base::at().batch_outputs();
    MatrixMap<S> curved = curved_.map(outputs.rows(), outputs.cols());
    Base::loss().hessian_product(outputs, Base::at().tangent(v), curved);
    return Base::at().pull_back_tangent(Base::gradient(), v, curved);
  }

  mutable Buffer<S> curved_;
};

template <class Model, Loss LossType, class... Rest>
Hessian(const Model&, const LossType&, const Rest&...) -> Hessian<Model, LossType>;
template <class Model, Loss LossType, class X, class Y>
Hessian(const Model&, const LossType&, const X&, const Y&, const Shape&)
    -> Hessian<Model, LossType>;

}  // namespace kfac
