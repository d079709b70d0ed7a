#include <kfac/curvature/coarse_basis.hpp>
#include <kfac/nn/activations.hpp>
#include <kfac/nn/conv.hpp>
#include <kfac/nn/dynamic_sequential.hpp>
#include <kfac/nn/flatten.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/testing/relative_error.hpp>

#include "support/catch.hpp"
#include "support/eigensolver.hpp"
#include "support/spectrum.hpp"

namespace kfac::test::coarse_basis_test {

namespace {

using testing::relative_error;
using Net = DynamicSequential<double>;
using Basis = CoarseBasis<double>;

/// 2 groups of 3x(4 + 1), nothing, 6x24 + 6, nothing, 2x6: 30 + 150 + 12 parameters.
Net network(Rng& rng) {
  return Net({Unflatten<double>({2, 3, 3}),
              Conv2d<double>(
                  {.in_channels = 2, .out_channels = 6, .kernel_size = {2, 2}, .groups = 2}, rng),
              Flatten<double>{}, Linear<double>(24, 6, rng), Tanh<double>{},
              Linear<double>(6, 2, rng, {.bias = false})});
}

std::vector<bool> all_but(std::size_t count, std::size_t without) {
  std::vector<bool> curved(count, true);
  if (without < count) curved[without] = false;
  return curved;
}

Vector<double> indicator(Index size, Index offset, Index count) {
  Vector<double> v = Vector<double>::Zero(size);
  v.segment(offset, count).setConstant(1 / std::sqrt(static_cast<double>(count)));
  return v;
}

/// The orthogonal projection on the span of orthonormal columns.
Matrix<double> projection(const Matrix<double>& columns) {
  return columns * columns.transpose();
}

/// On the span of the eigenvectors with the largest eigenvalues.
Matrix<double> leading_projection(const Matrix<double>& symmetric, Index count) {
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(symmetric);
  return projection(solver.eigenvectors().rightCols(count));
}

auto multiplier(const std::vector<Matrix<double>>& blocks) {
  return [&blocks](std::size_t layer, VectorMap<double> v) {
    if (blocks[layer].size() == 0) return false;
    v = (blocks[layer] * v).eval();
    return true;
  };
}

}  // namespace

TEST_CASE("CoarseBasis: ones on each layer, of unit length") {
  Rng rng(1);
  Net model = network(rng);
  const Basis basis(model.layers(), CoarseSpace::Layer, 3, all_but(6, 6));
  REQUIRE(basis.rows() == 192);
  REQUIRE(basis.size() == 3);
  Matrix<double> expected(192, 3);
  expected << indicator(192, 0, 30), indicator(192, 30, 150), indicator(192, 180, 12);
  CHECK(relative_error(basis.dense(), expected) < 1e-15);
}

TEST_CASE("CoarseBasis: ones on weights and on biases, of all groups, and of those there are") {
  Rng rng(2);
  Net model = network(rng);
  const Basis basis(model.layers(), CoarseSpace::LayerAndBias, 1, all_but(6, 6));
  REQUIRE(basis.size() == 5);
  Matrix<double> expected = Matrix<double>::Zero(192, 5);
  for (const Index group : {0, 1}) {
    expected.col(0).segment(15 * group, 12).setConstant(1 / std::sqrt(24.0));
    expected.col(1).segment(15 * group + 12, 3).setConstant(1 / std::sqrt(6.0));
  }
  expected.col(2) = indicator(192, 30, 144);
  expected.col(3) = indicator(192, 174, 6);
  expected.col(4) = indicator(192, 180, 12);
  CHECK(relative_error(basis.dense(), expected) < 1e-15);
}

TEST_CASE("CoarseBasis: no space, and the products with Z and its transpose") {
  Rng rng(3);
  Net model = network(rng);
  CHECK(Basis(model.layers(), CoarseSpace::None, 1, all_but(6, 6)).size() == 0);
  CHECK(Basis(model.layers(), CoarseSpace::None, 1, all_but(6, 6)).rows() == 192);
  for (const CoarseSpace space :
       {CoarseSpace::Layer, CoarseSpace::LayerAndBias, CoarseSpace::Spectral}) {
    const Basis basis(model.layers(), space, 4, all_but(6, 3));
    const Matrix<double> z = basis.dense();
    CHECK(relative_error(z.transpose() * z, Matrix<double>::Identity(basis.size(), basis.size())) <
          1e-14);
    const Vector<double> v = normal<double>(192, 1, rng);
    const Vector<double> c = normal<double>(basis.size(), 1, rng);
    Vector<double> product;
    basis.multiply_transposed(v, product);
    CHECK(relative_error(product, z.transpose() * v) < 1e-14);
    Vector<double> sum = v;
    basis.add_product(c, sum);
    CHECK(relative_error(sum, v + z * c) < 1e-14);
  }
}

TEST_CASE("CoarseBasis: orthogonal iterations find the leading eigenvectors of each block") {
  Rng rng(4);
  Net model = network(rng);
  Basis basis(model.layers(), CoarseSpace::Spectral, 3, all_but(6, 3));
  REQUIRE(basis.size() == 3 + 1 + 3);
  std::vector<Matrix<double>> blocks(6);
  blocks[1] = with_spectrum(100 * decaying(30, 1e6), rng);
  blocks[5] = with_spectrum(decaying(12, 1e9), rng);
  const Matrix<double> start = basis.dense();
  basis.iterate(60, multiplier(blocks));
  const Matrix<double> z = basis.dense();
  CHECK(relative_error(projection(z.block(0, 0, 30, 3)), leading_projection(blocks[1], 3)) < 1e-10);
  CHECK(z.col(3) == start.col(3));  // ones: it has no block
  CHECK(relative_error(z.col(3), indicator(192, 30, 150)) < 1e-15);
  CHECK(relative_error(projection(z.block(180, 4, 12, 3)), leading_projection(blocks[5], 3)) <
        1e-10);
  // From there, a few go with a block that changes a little.
  blocks[1] += 1e-3 * with_spectrum(decaying(30, 10), rng);
  basis.iterate(20, multiplier(blocks));
  CHECK(relative_error(projection(basis.dense().block(0, 0, 30, 3)),
                       leading_projection(blocks[1], 3)) < 1e-10);
}

TEST_CASE("CoarseBasis: blocks of lower rank than there are vectors, of any scale, and of zeros") {
  Rng rng(5);
  Net model({Linear<double>(2, 1, rng), Linear<double>(1, 6, rng)});
  for (const double scale : {1e-300, 1e-20, 1.0, 1e200}) {
    // More vectors than the first layer has parameters.
    Basis basis(model.layers(), CoarseSpace::Spectral, 5, all_but(2, 2));
    REQUIRE(basis.size() == 3 + 5);
    std::vector<Matrix<double>> blocks{Matrix<double>::Zero(3, 3), {}};
    Vector<double> spectrum = Vector<double>::Zero(12);
    spectrum.head(2) << scale, scale / 2;
    blocks[1] = with_spectrum(spectrum, rng);
    const Matrix<double> start = basis.dense();
    basis.iterate(50, multiplier(blocks));
    const Matrix<double> z = basis.dense();
    CHECK(relative_error(z.transpose() * z, Matrix<double>::Identity(8, 8)) < 1e-14);
    CHECK(z.topRows(3) == start.topRows(3));
    const Matrix<double> range = leading_projection(blocks[1] / scale, 2);
    const Matrix<double> found = projection(z.bottomRightCorner(12, 5));
    CHECK(relative_error(found * range, range) < 1e-12);
  }
}

}  // namespace kfac::test::coarse_basis_test
