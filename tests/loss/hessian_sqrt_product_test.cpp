#include <limits>

#include <kfac/loss/binary_cross_entropy.hpp>
#include <kfac/loss/mean_squared_error.hpp>
#include <kfac/loss/softmax_cross_entropy.hpp>

#include "support/catch.hpp"
#include "support/random.hpp"

namespace kfac::test::hessian_sqrt_product_test {

using kfac::Index;
using kfac::Matrix;
using kfac::test::normal;

namespace {

/// S u as the sum of the columns of S, each times its entry of u.
template <class LossType, class S>
Matrix<S> by_columns(const LossType& loss, const Matrix<S>& outputs, const Matrix<S>& u) {
  Matrix<S> sum = Matrix<S>::Zero(outputs.rows(), outputs.cols());
  Matrix<S> column(outputs.rows(), outputs.cols());
  for (Index k = 0; k < u.rows(); ++k) {
    loss.hessian_sqrt(outputs, k, column);
    for (Index n = 0; n < u.cols(); ++n) sum.col(n) += u(k, n) * column.col(n);
  }
  return sum;
}

template <class LossType>
void check_product(const LossType& loss, Index outputs) {
  static_assert(kfac::HessianSqrtLoss<LossType>);
  using S = typename LossType::Scalar;
  kfac::Rng rng(1);
  for (const S size : {S(1), S(30)})
    for (const Index batch : {1, 5}) {
      const Matrix<S> f = size * normal<S>(outputs, batch, rng);
      const Matrix<S> u = normal<S>(loss.hessian_sqrt_columns(outputs), batch, rng);
      Matrix<S> product = Matrix<S>::Constant(outputs, batch, std::numeric_limits<S>::quiet_NaN());
      loss.hessian_sqrt_product(f, u, product);
      // Where a class is almost certain, S u is a small difference of numbers like u.
      const double error = static_cast<double>((product - by_columns(loss, f, u)).norm());
      CHECK(error <= 4 * static_cast<double>(std::numeric_limits<S>::epsilon() * u.norm()));
    }
}

}  // namespace

TEMPLATE_TEST_CASE("hessian_sqrt_product is the product with the columns of hessian_sqrt",
                   "[loss][exact]", float, double) {
  using S = TestType;
  for (const Index outputs : {1, 4, 12}) {
    check_product(kfac::MeanSquaredError<S>{}, outputs);
    check_product(kfac::BinaryCrossEntropy<S>{}, outputs);
    check_product(kfac::SoftmaxCrossEntropy<S>{}, outputs);
    check_product(kfac::SoftmaxCrossEntropy<S>({.classes = outputs}), outputs);
  }
  check_product(kfac::SoftmaxCrossEntropy<S>({.classes = 4}), 12);
  check_product(kfac::SoftmaxCrossEntropy<S>({.classes = 1}), 3);
}

}  // namespace kfac::test::hessian_sqrt_product_test
