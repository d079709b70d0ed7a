#include <cmath>
#include <memory>

#include <Eigen/LU>

#include <kfac/curvature/curvature_matrix.hpp>
#include <kfac/curvature/diagonal_block.hpp>
#include <kfac/curvature/diagonal_input_block.hpp>
#include <kfac/curvature/ekfac_block.hpp>
#include <kfac/curvature/full_block.hpp>
#include <kfac/curvature/kronecker_eigen_block.hpp>
#include <kfac/curvature/kronecker_fit_block.hpp>
#include <kfac/curvature/tensor_normal_block.hpp>
#include <kfac/curvature/unitwise_block.hpp>

#include "support/blocks.hpp"
#include "support/catch.hpp"

// Every kind of block as a matrix, against its own dense form and LU.

namespace kfac::test::curvature_matrix_test {

namespace {

std::vector<std::unique_ptr<CurvatureBlock<double>>> every_kind(
    const BlockOptions<double>& options) {
  std::vector<std::unique_ptr<CurvatureBlock<double>>> blocks;
  blocks.push_back(std::make_unique<KroneckerBlock<double>>(options));
  blocks.push_back(std::make_unique<KroneckerEigenBlock<double>>(options));
  blocks.push_back(std::make_unique<EkfacBlock<double>>(options));
  blocks.push_back(std::make_unique<KroneckerFitBlock<double>>(options));
  blocks.push_back(std::make_unique<TensorNormalBlock<double>>(options));
  blocks.push_back(std::make_unique<DiagonalBlock<double>>(options));
  blocks.push_back(std::make_unique<ScaledIdentityBlock<double>>(options));
  blocks.push_back(std::make_unique<FullBlock<double>>(options));
  blocks.push_back(std::make_unique<UnitwiseBlock<double>>(options));
  blocks.push_back(std::make_unique<DiagonalInputBlock<double>>(options));
  return blocks;
}

Matrix<double> image(const CurvatureMatrix<double>& c, const Matrix<double>& v,
                     void (CurvatureMatrix<double>::*function)(MatrixRef<double>) const) {
  Matrix<double> result = v;
  (c.*function)(result);
  return result;
}

/// R itself, column by column.
Matrix<double> columns_of(const CurvatureMatrix<double>& c,
                          void (CurvatureMatrix<double>::*function)(MatrixRef<double>) const) {
  Matrix<double> result(c.size(), c.size());
  for (Index j = 0; j < c.size(); ++j) {
    const Matrix<double> unit = Vector<double>::Unit(c.size(), j).reshaped(c.rows(), c.columns());
    result.col(j) = image(c, unit, function).reshaped();
  }
  return result;
}

}  // namespace

TEST_CASE(
    "CurvatureMatrix: of every kind, products, inverses, roots and numbers agree with dense") {
  using C = CurvatureMatrix<double>;
  Rng rng(1);
  for (int repeat = 0; repeat < 8; ++repeat) {
    const MapData data = MapData::random(rng);
    const Matrix<double> v = random_matrix(data.outputs, data.columns(), rng);
    for (const auto& block : every_kind(data.options())) {
      data.fit(*block, 2.5);
      for (const double damping : {1e-3, 0.5}) {
        INFO(block->kind() << ", damping " << damping);
        const std::unique_ptr<C> c = block->matrix(damping);
        const Matrix<double> dense = c->dense();
        CHECK(relative_error(dense, dense.transpose()) < 1e-13);
        CHECK_FALSE(c->singular());
        CHECK(relative_error(image(*c, v, &C::multiply).reshaped(), dense * v.reshaped()) < 1e-12);
        const Vector<double> solved = dense.partialPivLu().solve(Vector<double>(v.reshaped()));
        CHECK(relative_error(image(*c, v, &C::solve).reshaped(), solved) < 1e-9);
        const Matrix<double> root = columns_of(*c, &C::multiply_sqrt);
        CHECK(relative_error(root * root.transpose(), dense) < 1e-12);
        const Matrix<double> inverse_root = columns_of(*c, &C::multiply_inverse_sqrt);
        const Matrix<double> inverse = dense.inverse();
        CHECK(relative_error(inverse_root * inverse_root.transpose(), inverse) < 1e-9);
        const double log_determinant =
            dense.partialPivLu().matrixLU().diagonal().array().abs().log().sum();
        CHECK(std::abs(c->log_determinant() - log_determinant) <
              1e-9 * (1 + std::abs(log_determinant)));
        CHECK(std::abs(c->trace() - dense.trace()) < 1e-12 * dense.trace());
        CHECK(relative_error(c->diagonal().reshaped(), dense.diagonal()) < 1e-12);

        // What preconditions a step is the same inverse.
        Matrix<double> preconditioned = v;
        REQUIRE(block->refresh_inverse(damping));
        block->precondition(preconditioned);
        CHECK(relative_error(preconditioned.reshaped(), solved) < 1e-9);
      }
    }
  }
}

TEST_CASE("CurvatureMatrix: damping adds to the diagonal, except where K-FAC splits it") {
  Rng rng(2);
  const MapData data(3, 2, 1, 9, true, rng);
  for (const auto& block : every_kind(data.options())) {
    INFO(block->kind());
    data.fit(*block, 1.0);
    Matrix<double> shifted = dense_of(*block);
    shifted.diagonal().array() += 0.1;
    const double error = relative_error(block->matrix(0.1)->dense(), shifted);
    const std::string kind = block->kind();
    if (kind == "K-FAC" || kind == "K-FAC with diagonal A")
      CHECK(error > 1e-3);
    else
      CHECK(error < 1e-12);
  }
}

TEST_CASE("CurvatureMatrix: samples have the covariance and its inverse") {
  Rng rng(3);
  const MapData data(2, 2, 1, 8, false, rng);
  constexpr int kSamples = 40000;
  for (const auto& block : every_kind(data.options())) {
    INFO(block->kind());
    data.fit(*block, 1.0);
    const auto c = block->matrix(0.3);
    const Matrix<double> dense = c->dense();
    Matrix<double> covariance = Matrix<double>::Zero(4, 4), inverse = covariance;
    for (int i = 0; i < kSamples; ++i) {
      const Vector<double> a = c->sample(rng).reshaped();
      const Vector<double> b = c->sample_inverse(rng).reshaped();
      covariance += a * a.transpose() / kSamples;
      inverse += b * b.transpose() / kSamples;
    }
    CHECK(relative_error(covariance, dense) < 0.05);
    CHECK(relative_error(inverse, Matrix<double>(dense.inverse())) < 0.05);
  }
}

TEST_CASE("CurvatureMatrix: a singular block has no inverse, and a product still") {
  Rng rng(4);
  const MapData data(4, 3, 1, 1, true, rng);  // of rank one
  Matrix<double> v = random_matrix(3, 5, rng);
  for (const auto& block : every_kind(data.options())) {
    if (std::string(block->kind()) == "scaled identity" || std::string(block->kind()) == "diagonal")
      continue;
    INFO(block->kind());
    data.fit(*block, 1.0);
    const auto c = block->matrix(0.0);
    CHECK(c->singular());
    const Matrix<double> before = v;
    CHECK_THROWS_AS(c->solve(v), SingularError);
    CHECK_THROWS_AS(c->multiply_inverse_sqrt(v), SingularError);
    CHECK_THROWS_AS(c->log_determinant(), SingularError);
    CHECK_THROWS_AS(c->sample_inverse(rng), SingularError);
    CHECK(v == before);
    CHECK_THROWS_AS(block->refresh_inverse(0.0), SingularError);
    CHECK(relative_error(image(*c, v, &CurvatureMatrix<double>::multiply).reshaped(),
                         c->dense() * v.reshaped()) < 1e-12);
  }
}

TEST_CASE("CurvatureMatrix: a gradient of another shape is a ShapeError that names it") {
  Rng rng(5);
  const MapData data(3, 2, 1, 9, true, rng);
  KroneckerBlock<double> block(data.options());
  data.fit(block, 1.0);
  Matrix<double> v = Matrix<double>::Ones(2, 3);
  CHECK_THROWS_MATCHES(
      block.matrix(0.1)->solve(v), ShapeError,
      Catch::Matchers::Message("kfac::CurvatureMatrix::solve: 'v' is 2x3, expected 2x4"));
  CHECK_THROWS_AS(block.matrix(-1.0), OptionError);
  CHECK_THROWS_AS(KroneckerBlock<double>(data.options()).matrix(0.1), StateError);
}

}  // namespace kfac::test::curvature_matrix_test
