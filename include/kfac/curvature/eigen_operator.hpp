#pragma once

#include <Eigen/IterativeLinearSolvers>

#include <kfac/core/errors.hpp>

namespace kfac {
template <class Op>
class EigenOperator;
}  // namespace kfac

// Eigen's solvers treat what has only products as a sparse matrix.
namespace Eigen::internal {

template <class Op>
struct traits<kfac::EigenOperator<Op>> : traits<SparseMatrix<typename Op::Scalar>> {};

template <class Op, class Rhs>
struct generic_product_impl<kfac::EigenOperator<Op>, Rhs, SparseShape, DenseShape, GemvProduct>
    : generic_product_impl_base<kfac::EigenOperator<Op>, Rhs,
                                generic_product_impl<kfac::EigenOperator<Op>, Rhs>> {
  using Scalar = typename Op::Scalar;

  template <class Dest>
  // NOLINTNEXTLINE(readability-identifier-naming): the name is Eigen's
  static void scaleAndAddTo(Dest& into, const kfac::EigenOperator<Op>& op, const Rhs& x,
                            const Scalar& factor) {
    op.add_product(x, factor, into);
  }
};

}  // namespace Eigen::internal

namespace kfac {

/// A symmetric operator plus a multiple of the identity, as a matrix for Eigen's iterative solvers;
/// `Op` is a `Ggn`, a `Hessian`, a block of one, or any class with Scalar, rows() and a product
/// with vectors. It refers to the operator. The solver has to know that both triangles are there,
/// and needs a preconditioner that does not look at entries:
///
///     kfac::Ggn ggn(model, loss, x);
///     const kfac::EigenOperator damped(ggn, 1e-2);   // GGN + 0.01 I
///     Eigen::ConjugateGradient<kfac::EigenOperator<decltype(ggn)>, Eigen::Lower | Eigen::Upper,
///                              Eigen::IdentityPreconditioner> solver(damped);
///     const Eigen::VectorXd step = solver.solve(gradient);
template <class Op>
class EigenOperator : public Eigen::EigenBase<EigenOperator<Op>> {
 public:
  using Scalar = typename Op::Scalar;
  using RealScalar = Scalar;
  using StorageIndex = int;
  enum {
    ColsAtCompileTime = Eigen::Dynamic,
    MaxColsAtCompileTime = Eigen::Dynamic,
    IsRowMajor = false
  };

  /// `shift` multiplies the identity.
  explicit EigenOperator(const Op& op, Scalar shift = 0) : op_(&op), shift_(shift) {}
  explicit EigenOperator(const Op&& op, Scalar shift = 0) = delete;

  Index rows() const { return op_->rows(); }
  Index cols() const { return op_->rows(); }

  template <class Rhs>
  Eigen::Product<EigenOperator, Rhs, Eigen::AliasFreeProduct> operator*(
      const Eigen::MatrixBase<Rhs>& x) const {
    return {*this, x.derived()};
  }

  /// Adds `factor` times the product with the vector x.
  template <class Rhs, class Dest>
  void add_product(const Rhs& x, Scalar factor, Dest& into) const {
    const Vector<Scalar> product = *op_ * x;
    into += factor * (product + shift_ * x);
  }

 private:
  const Op* op_;
  Scalar shift_;
};

}  // namespace kfac
