#include <cmath>
#include <string>
#include <vector>

#include <Eigen/SVD>

#include <kfac/compression/cost.hpp>
#include <kfac/compression/low_rank.hpp>

#include "compression/support.hpp"
#include "support/message_of.hpp"

namespace kfac::test::compression::low_rank_test {

namespace {

Matrix<double> root(const Matrix<double>& matrix, double power) {
  const Eigen::SelfAdjointEigenSolver<Matrix<double>> eigen(matrix);
  const Vector<double> powers = eigen.eigenvalues().array().pow(power);
  return eigen.eigenvectors() * powers.asDiagonal() * eigen.eigenvectors().transpose();
}

/// 1/2 tr(D^T G D A).
double cost_of(const Matrix<double>& d, const linalg::KroneckerTerm<double>& factors) {
  return 0.5 * (d.transpose() * factors.g * d * factors.a).trace();
}

Matrix<double> augmented(const LowRankMap& low) {
  Matrix<double> w(low.left.rows(), low.right.cols() + (low.bias.size() > 0 ? 1 : 0));
  w.leftCols(low.right.cols()) = low.left * low.right;
  if (low.bias.size() > 0) w.col(low.right.cols()) = low.bias;
  return w;
}

Matrix<double> truncated(const Matrix<double>& m, Index rank) {
  const Eigen::JacobiSVD<Matrix<double>> svd(m, Eigen::ComputeThinU | Eigen::ComputeThinV);
  return svd.matrixU().leftCols(rank) * svd.singularValues().head(rank).asDiagonal() *
         svd.matrixV().leftCols(rank).transpose();
}

}  // namespace

TEST_CASE("weighted_low_rank: without a bias it is the truncated SVD of G^1/2 W A^1/2, mapped back",
          "[compression][exact]") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Rng rng(seed);
    const Index outputs = 2 + rng.below(6);
    const Index inputs = 2 + rng.below(6);
    const Matrix<double> w = random_matrix(outputs, inputs, rng);
    const linalg::KroneckerTerm<double> factors{random_spd(inputs, rng), random_spd(outputs, rng)};
    const Matrix<double> scaled = root(factors.g, 0.5) * w * root(factors.a, 0.5);
    for (Index rank = 1; rank <= std::min(outputs, inputs); ++rank) {
      const LowRankMap low = weighted_low_rank<double>(w, factors, false, rank);
      const Matrix<double> expected =
          root(factors.g, -0.5) * truncated(scaled, rank) * root(factors.a, -0.5);
      CHECK(low.left.cols() == rank);
      CHECK(relative_error(augmented(low), expected) < 1e-8);
      const Vector<double> singular = Eigen::JacobiSVD<Matrix<double>>(scaled).singularValues();
      const double best = 0.5 * singular.tail(singular.size() - rank).squaredNorm();
      CHECK(std::abs(low.cost - best) < 1e-10);
      CHECK(std::abs(cost_of(augmented(low) - w, factors) - best) < 1e-10);
    }
  }
}

TEST_CASE("weighted_low_rank: no other map of the rank and no other bias is cheaper",
          "[compression][exact]") {
  Rng rng(1);
  const Matrix<double> w = random_matrix(4, 6, rng);
  linalg::KroneckerTerm<double> factors{random_spd(6, rng), random_spd(4, rng)};
  const LowRankMap low = weighted_low_rank<double>(w, factors, true, 2);
  const double best = cost_of(augmented(low) - w, factors);
  CHECK(low.cost == Approx(best).epsilon(1e-10));
  for (int i = 0; i < 200; ++i) {
    LowRankMap other = low;
    const double size = std::pow(10.0, -3 * rng.uniform());
    other.left += size * random_matrix(4, 2, rng);
    other.right += size * random_matrix(2, 5, rng);
    other.bias += size * random_matrix(4, 1, rng);
    CHECK(cost_of(augmented(other) - w, factors) > best);
    other = low;
    other.bias += 1e-4 * random_matrix(4, 1, rng);
    CHECK(cost_of(augmented(other) - w, factors) > best);
  }
  // Without the bias's help the rank-2 part of [W b] costs more.
  const LowRankMap joint = weighted_low_rank<double>(w, factors, false, 2);
  CHECK(joint.cost > best);
}

TEST_CASE("weighted_low_rank: equals the plain SVD where A and G are I", "[compression][exact]") {
  Rng rng(2);
  const Matrix<double> w = random_matrix(5, 7, rng);
  const linalg::KroneckerTerm<double> factors{Matrix<double>::Identity(7, 7),
                                              Matrix<double>::Identity(5, 5)};
  const LowRankMap low = weighted_low_rank<double>(w, factors, true, 3);
  CHECK(relative_error(Matrix<double>(low.left * low.right), truncated(w.leftCols(6), 3)) < 1e-10);
  CHECK(relative_error(low.bias, Vector<double>(w.col(6))) < 1e-12);
  const LowRankMap all = weighted_low_rank<double>(w, factors, true, 5);
  CHECK(relative_error(augmented(all), w) < 1e-12);
}

TEST_CASE("weighted_low_rank: a singular G and dead inputs are no obstacle", "[compression]") {
  Rng rng(3);
  const Matrix<double> w = random_matrix(4, 5, rng);
  const Matrix<double> half = random_matrix(4, 2, rng);
  linalg::KroneckerTerm<double> factors{random_spd(5, rng), half * half.transpose()};
  factors.a.row(1).setZero();
  factors.a.col(1).setZero();
  for (const double damping : {0.0, 0.1}) {
    const LowRankMap low = weighted_low_rank<double>(w, factors, false, 2, damping);
    CHECK(augmented(low).allFinite());
    if (damping == 0) CHECK(cost_of(augmented(low) - w, factors) < 1e-10);
  }
  CHECK(weighted_low_rank<double>(w, factors, false, 2, 0.1).cost >
        weighted_low_rank<double>(w, factors, false, 2, 0.0).cost + 1e-3);
}

TEST_CASE("factorize: two layers for one, of a network with a convolution", "[compression]") {
  Rng rng(4);
  AnyModel model({Conv2d<double>({.in_channels = 2,
                                  .out_channels = 6,
                                  .kernel_size = {2, 2},
                                  .stride = {1, 2},
                                  .padding = {1, 0}},
                                 rng),
                  Tanh<double>{}, Flatten<double>{}, Linear<double>(36, 8, rng), Tanh<double>{},
                  Linear<double>(8, 2, rng)});
  const Shape shape{2, 2, 5};
  const Curvature estimate = random_estimate(model, CurvatureStructure::Kronecker, rng);
  AnyModel smaller = factorize(model, estimate, {.keep = 0.5, .layers = {"0", "3"}, .damping = 0});
  // Ranks: 48 / 2 / 14 = 1 and 288 / 2 / 44 = 3.
  const std::vector<LayerView<double>> layers = smaller.layers();
  REQUIRE(layers.size() == 8);
  CHECK(layers[0].kronecker->outputs == 1);
  CHECK(layers[1].kind == "Conv2d");
  CHECK(layers[1].kronecker->inputs == 1);
  CHECK(layers[4].kronecker->outputs == 3);
  CHECK(smaller.parameter_count() == 8 + 6 + 6 + 36 * 3 + 3 * 8 + 8 + 18);

  // It computes what the network with the low-rank weights in its own layers does.
  AnyModel expected = model;
  const std::vector<ParameterBlock> blocks = parameter_blocks(expected);
  Vector<double> flat = flat_parameters(expected);
  for (std::size_t i = 0; i < 2; ++i) {
    const Matrix<double> w = blocks[i].of(flat);
    blocks[i].of(flat) =
        augmented(weighted_low_rank<double>(w, estimate.blocks[i].factors, true, i == 0 ? 1 : 3));
  }
  set_flat_parameters(expected, flat);
  const Matrix<double> x = random_matrix(20, 5, rng);
  const Matrix<double> outputs = smaller.forward(x, shape);
  CHECK(relative_error(outputs, Matrix<double>(expected.forward(x, shape))) < 1e-12);
  CHECK(network_cost(smaller, shape).multiply_adds() < network_cost(model, shape).multiply_adds());

  // All that become smaller: the last is of rank 1, at 10 of 16 weights.
  CHECK(factorize(model, estimate, {.keep = 0.5}).size() == 9);
  AnyModel tiny({Linear<double>(2, 2, rng)});
  CHECK(factorize(tiny, {}, {.keep = 0.5, .weighted = false}).size() == 1);

  AnyModel one = factorize(model, estimate, {.keep = 0.5, .layers = {"3"}});
  CHECK(one.size() == 7);
  AnyModel plain = factorize(model, {}, {.keep = 0.5, .weighted = false, .layers = {"3"}});
  CHECK(plain.parameter_count() == one.parameter_count());
  CHECK(relative_error(flat_parameters(plain), flat_parameters(one)) > 1e-3);
}

TEST_CASE("low rank: what is wrong is named, and the model is as it was", "[compression][errors]") {
  Rng rng(5);
  AnyModel model = small_mlp(rng);
  AnyModel other = small_network(rng);
  const Curvature estimate = random_estimate(model, CurvatureStructure::Kronecker, rng);
  const Curvature diagonal = random_estimate(model, CurvatureStructure::Diagonal, rng);
  const Vector<double> before = flat_parameters(model);
  const auto message = [&](AnyModel& of, const Curvature& with, const LowRankOptions& options) {
    return message_of<std::invalid_argument>([&] { factorize(of, with, options); });
  };
  CHECK(message(model, estimate, {.keep = 1}) ==
        "kfac::factorize: 'keep' is 1, expected 0 < keep < 1");
  CHECK(message(model, estimate, {.damping = -1}) ==
        "kfac::factorize: 'damping' is -1, expected >= 0 and finite");
  CHECK(message(model, estimate, {.layers = {"1"}}) ==
        "kfac::factorize: 'layers' has '1', expected a Linear, or a convolution without groups");
  CHECK(message(other, estimate, {}).starts_with("kfac::factorize: 'estimate' has block '0'"));
  CHECK(message(model, diagonal, {.keep = 0.5}) ==
        "kfac::factorize: 'estimate' has no Kronecker factors, expected some (layer '0')");
  CHECK(message_of<MemoryError>([&] {
          factorize(model, estimate, {.memory_limit = 10});
        }).starts_with("kfac::factorize: 'memory_limit' is 10 B"));
  const Matrix<double> w = random_matrix(6, 5, rng);
  const auto rank = [&](Index value) {
    return message_of<OptionError>(
        [&] { weighted_low_rank<double>(w, estimate.blocks[0].factors, true, value); });
  };
  CHECK(rank(0) == "kfac::weighted_low_rank: 'rank' is 0, expected 1 to the smaller side of W");
  CHECK(rank(5) == "kfac::weighted_low_rank: 'rank' is 5, expected 1 to the smaller side of W");
  CHECK(flat_parameters(model) == before);
}

}  // namespace kfac::test::compression::low_rank_test
