#include <Eigen/Cholesky>

#include <kfac/curvature/block_diagonal_inverse.hpp>
#include <kfac/curvature/diagonal_block.hpp>
#include <kfac/curvature/ekfac_block.hpp>
#include <kfac/curvature/kronecker_eigen_block.hpp>
#include <kfac/linalg/krylov.hpp>

#include "support/blocks.hpp"
#include "support/catch.hpp"

namespace kfac::test::block_diagonal_inverse_test {

namespace {

using Net = DynamicSequential<double>;

const BlockFactory<double> kKinds[] = {
    block_factory<KroneckerBlock<double>>(), block_factory<KroneckerEigenBlock<double>>(),
    block_factory<EkfacBlock<double>>(), block_factory<DiagonalBlock<double>>()};

}  // namespace

TEST_CASE("BlockDiagonalInverse: in linear regression K-FAC is the exact preconditioner of CG") {
  Rng rng(1);
  Net model({Linear<double>(6, 3, rng)});
  const MeanSquaredError<double> loss;
  const Matrix<double> x = random_matrix(6, 20, rng), y = random_matrix(3, 20, rng);
  CurvatureEstimator curvature(model, loss, {}, block_factory<KroneckerEigenBlock<double>>());
  curvature.fit(x, y);
  Ggn ggn(model, loss, x);
  const Vector<double> b = random_matrix(ggn.rows(), 1, rng);
  const linalg::KrylovOptions<double> options{.tolerance = 1e-10, .damping = 1e-3};
  CHECK(linalg::conjugate_gradients(ggn, b, options, curvature.inverse(1e-3)).iterations == 1);
  CHECK(linalg::conjugate_gradients(ggn, b, options).iterations > 5);
}

TEST_CASE("BlockDiagonalInverse: with any kind of block CG and MINRES find the same solution") {
  Rng rng(2);
  Net model({Linear<double>(4, 5, rng), Tanh<double>{}, Linear<double>(5, 3, rng)});
  const MeanSquaredError<double> loss;
  const Matrix<double> x = random_matrix(4, 12, rng), y = random_matrix(3, 12, rng);
  Ggn ggn(model, loss, x);
  Matrix<double> damped = ggn.dense();
  damped.diagonal().array() += 1e-2;
  const Vector<double> b = random_matrix(ggn.rows(), 1, rng);
  const Vector<double> expected = damped.llt().solve(b);
  const linalg::KrylovOptions<double> options{.tolerance = 1e-12, .damping = 1e-2};
  for (const BlockFactory<double>& kind : kKinds) {
    CurvatureEstimator curvature(model, loss, {}, kind);
    curvature.fit(x, y);
    INFO(curvature.layers()[0]->blocks()[0]->kind());
    const auto inverse = curvature.inverse(1e-2);
    CHECK(relative_error(linalg::conjugate_gradients(ggn, b, options, inverse).x, expected) < 1e-9);
    CHECK(relative_error(linalg::minres(ggn, b, options, inverse).x, expected) < 1e-9);

    Vector<double> v = b;
    inverse(v);
    const Vector<double> first =
        curvature.layers()[0]->blocks()[0]->matrix(1e-2)->dense().llt().solve(b.head(25));
    CHECK(relative_error(v.head(25), first) < 1e-10);
  }
}

TEST_CASE("BlockDiagonalInverse: where there is no block the damping alone is inverted") {
  Rng rng(3);
  Net model({Linear<double>(2, 3, rng), Linear<double>(3, 2, rng), Linear<double>(2, 1, rng)});
  const MeanSquaredError<double> loss;
  const BlockFactory<double> second_only =
      [](const LayerView<double>& layer,
         const BlockOptions<double>& options) -> std::unique_ptr<CurvatureBlock<double>> {
    if (layer.name != "1") return nullptr;
    return std::make_unique<KroneckerBlock<double>>(options);
  };
  CurvatureEstimator curvature(model, loss, {}, second_only);
  CHECK_THROWS_AS(curvature.inverse(0.5), StateError);
  curvature.fit(random_matrix(2, 9, rng), random_matrix(1, 9, rng));
  const auto inverse = curvature.inverse(0.5);
  Vector<double> v = Vector<double>::Ones(inverse.rows());
  inverse(v);
  CHECK(v.head(9) == Vector<double>::Constant(9, 2.0));
  CHECK(v.tail(3) == Vector<double>::Constant(3, 2.0));
  CHECK((v.segment(9, 8).array() != 2.0).all());
  CHECK_THROWS_AS(curvature.inverse(0.0), SingularError);
  CHECK_THROWS_AS(curvature.inverse(-1.0), OptionError);
  Vector<double> wrong = Vector<double>::Ones(3);
  CHECK_THROWS_AS(inverse(wrong), ShapeError);
}

}  // namespace kfac::test::block_diagonal_inverse_test
