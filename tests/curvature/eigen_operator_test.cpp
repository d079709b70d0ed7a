#include <type_traits>
#include <unsupported/Eigen/IterativeSolvers>

#include <Eigen/Cholesky>
#include <Eigen/LU>

#include <kfac/curvature/eigen_operator.hpp>
#include <kfac/curvature/ggn.hpp>
#include <kfac/curvature/hessian.hpp>
#include <kfac/nn/activations.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/sequential.hpp>

#include "support/catch.hpp"
#include "support/exact.hpp"

namespace kfac::test::eigen_operator_test {

namespace {

constexpr int kBothTriangles = Eigen::Lower | Eigen::Upper;

template <class Op>
using ConjugateGradient =
    Eigen::ConjugateGradient<EigenOperator<Op>, kBothTriangles, Eigen::IdentityPreconditioner>;
template <class Op>
using Minres = Eigen::MINRES<EigenOperator<Op>, kBothTriangles, Eigen::IdentityPreconditioner>;

auto network(Rng& rng) {
  return Sequential{Linear<double>(3, 4, rng), Tanh<double>{}, Linear<double>(4, 2, rng)};
}

Matrix<double> shifted(const Matrix<double>& matrix, double shift) {
  return matrix + shift * Matrix<double>::Identity(matrix.rows(), matrix.cols());
}

}  // namespace

TEST_CASE("EigenOperator: Eigen's conjugate gradients solve with the damped GGN and its blocks") {
  Rng rng(1);
  const auto model = network(rng);
  const SoftmaxCrossEntropy<double> loss;
  const Ggn ggn(model, loss, normal<double>(3, 6, rng));
  const auto check = [&](const auto& op) {
    using Op = std::remove_cvref_t<decltype(op)>;
    const EigenOperator damped(op, 1e-2);
    ConjugateGradient<Op> solver(damped);
    solver.setTolerance(1e-14);
    const Vector<double> b = normal<double>(op.rows(), 1, rng);
    const Vector<double> solution = solver.solve(b);
    CHECK(solver.info() == Eigen::Success);
    CHECK(relative_error(solution, shifted(op.dense(), 1e-2).llt().solve(b)) < 1e-10);
  };
  check(ggn);
  check(ggn.block(2));
}

TEST_CASE("EigenOperator: Eigen's MINRES solves with the Hessian, which is indefinite") {
  Rng rng(2);
  const auto model = network(rng);
  const MeanSquaredError<double> loss;
  const Hessian hessian(model, loss, normal<double>(3, 6, rng), 3 * normal<double>(2, 6, rng));
  const Matrix<double> dense = shifted(hessian.dense(), 0.05);
  REQUIRE(Eigen::LLT<Matrix<double>>(dense).info() != Eigen::Success);
  const EigenOperator op(hessian, 0.05);
  Minres<std::remove_const_t<decltype(hessian)>> solver(op);
  solver.setTolerance(1e-13);
  solver.setMaxIterations(1000);
  const Vector<double> b = normal<double>(hessian.rows(), 1, rng);
  const Vector<double> solution = solver.solve(b);
  CHECK(relative_error(solution, dense.partialPivLu().solve(b)) < 1e-9);
}

TEST_CASE("EigenOperator: is the operator and the shift, in products and sums") {
  Rng rng(3);
  const auto model = network(rng);
  const MeanSquaredError<double> loss;
  const Ggn ggn(model, loss, normal<double>(3, 6, rng));
  const EigenOperator plain(ggn);
  const EigenOperator damped(ggn, 0.5);
  CHECK(damped.rows() == ggn.rows());
  CHECK(damped.cols() == ggn.rows());
  const Vector<double> v = normal<double>(ggn.rows(), 1, rng);
  const Vector<double> unshifted = plain * v;
  const Vector<double> product = damped * v;
  Vector<double> sum = v;
  sum += damped * v;
  CHECK(relative_error(unshifted, ggn * v) < 1e-15);
  CHECK(relative_error(product, ggn * v + 0.5 * v) < 1e-15);
  CHECK(relative_error(sum, v + product) < 1e-15);
}

}  // namespace kfac::test::eigen_operator_test
