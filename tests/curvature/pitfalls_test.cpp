#include <algorithm>
#include <cmath>

#include <kfac/curvature/curvature_estimator.hpp>
#include <kfac/curvature/ekfac_block.hpp>
#include <kfac/curvature/two_level.hpp>
#include <kfac/nn/conv.hpp>
#include <kfac/nn/flatten.hpp>

#include "support/blocks.hpp"
#include "support/catch.hpp"

// Mistakes that implementations of K-FAC are known to make, by the numbers under which
// docs/curvature.md lists them. Those of optimizers are in tests/optim/pitfalls_test.cpp.

namespace kfac::test::pitfalls_test {

namespace {

// One type for all networks and one loss where it does not matter: each costs compile time.
using Net = DynamicSequential<double>;

Net tanh_network(Rng& rng) {
  return Net({Linear<double>(4, 5, rng), Tanh<double>{}, Linear<double>(5, 3, rng)});
}

/// The curvature that a two-level preconditioner has of a batch, in either form.
struct Coarse {
  TwoLevel<double> level;

  Coarse(Net& model, CoarseForm form)
      : level(model.layers(), {},
              {.space = CoarseSpace::LayerAndBias, .form = form, .decay = 0.95}) {}
  void update(Net& model, const Matrix<double>& x) {
    model.forward(x);
    REQUIRE(level.update(model, SoftmaxCrossEntropy<double>()));
  }
  /// Of the batch alone.
  Matrix<double> exact(Net& model, const Matrix<double>& x) const {
    const Matrix<double> z = level.basis().dense();
    return z.transpose() * Ggn(model, SoftmaxCrossEntropy<double>(), x).dense() * z;
  }
};

}  // namespace

TEST_CASE("D1: EKFAC rotates by U_G^T P U_A, which is not U_G P U_A^T") {
  // With inputs and outputs of other sizes the wrong one has no shape; so they are equal here.
  Rng rng(1);
  const MapData data(3, 3, 2, 7, false, rng);
  EkfacBlock<double> block(data.options());
  data.fit(block, 1.5);
  const auto matrix = block.matrix(0.0);
  const linalg::KroneckerEigen<double>& eigen =
      static_cast<const SpectralMatrix<double>&>(*matrix).eigen();
  const Matrix<double>& u_a = eigen.input_basis().vectors;
  const Matrix<double>& u_g = eigen.output_basis().vectors;
  Matrix<double> right = Matrix<double>::Zero(3, 3), wrong = right;
  for (const Matrix<double>& p : data.gradients()) {
    right += 1.5 / 7 * (u_g.transpose() * p * u_a).cwiseAbs2();
    wrong += 1.5 / 7 * (u_g * p * u_a.transpose()).cwiseAbs2();
  }
  CHECK(relative_error(eigen.grid(), right) < 1e-12);
  CHECK(relative_error(eigen.grid(), wrong) > 0.1);
}

TEST_CASE("D2: the coarse matrix is Z^T F Z, and stays so however often it is updated") {
  Rng rng(8);
  Net model = tanh_network(rng);
  const Matrix<double> x = random_matrix(4, 6, rng);
  for (const CoarseForm form : {CoarseForm::Additive, CoarseForm::Deflated}) {
    Coarse coarse(model, form);
    const Matrix<double> expected = coarse.exact(model, x);
    for (int update = 0; update < 200; ++update) {
      coarse.update(model, x);
      REQUIRE(relative_error(coarse.level.matrix(), expected) < 1e-13);
      REQUIRE(coarse.level.matrix() == coarse.level.matrix().transpose());
    }
    // Off the diagonal it would have grown by a factor of 1 + 0.95 with each.
    CHECK((expected - Matrix<double>(expected.diagonal().asDiagonal())).norm() >
          0.1 * expected.norm());
  }
}

TEST_CASE("D3: the diagonal of the coarse matrix is averaged once, as is every other entry") {
  Rng rng(9);
  Net model = tanh_network(rng);
  for (const CoarseForm form : {CoarseForm::Additive, CoarseForm::Deflated}) {
    Coarse coarse(model, form);
    Matrix<double> average, twice;
    for (Index k = 1; k <= 8; ++k) {
      const Matrix<double> x = random_matrix(4, 1 + k, rng);
      coarse.update(model, x);
      const Matrix<double> fresh = coarse.exact(model, x);
      if (k == 1) average = twice = fresh;
      const double keep = std::min(1 - 1 / static_cast<double>(k), 0.95);
      average = (keep * average + (1 - keep) * fresh).eval();
      twice = (keep * twice + (1 - keep) * fresh).eval();
      twice.diagonal() = keep * twice.diagonal() + (1 - keep) * fresh.diagonal();
    }
    CHECK(relative_error(coarse.level.matrix(), average) < 1e-13);
    CHECK(relative_error(coarse.level.matrix(), twice) > 1e-3);
  }
}

TEST_CASE("D10: a 1x1 convolution of one pixel has the linear layer's block, scale and all") {
  Rng rng(2);
  Rng same(2);
  Net convolution(
      {Unflatten<double>({4, 1, 1}),
       Conv2d<double>({.in_channels = 4, .out_channels = 3, .kernel_size = {1, 1}}, rng),
       Flatten<double>{}});
  Net linear({Linear<double>(4, 3, same)});
  convolution.layers()[1].parameters = linear.layers()[0].parameters;
  const SoftmaxCrossEntropy<double> loss;
  const Matrix<double> x = random_matrix(4, 6, rng);
  const Labels y = random_labels(3, 6, rng);
  for (const FisherType type : {FisherType::Type2, FisherType::Empirical}) {
    const Estimate of_convolution(convolution, loss, x, y, type);
    const Estimate of_linear(linear, loss, x, y, type);
    CHECK(relative_error(dense(of_convolution.block(0)), dense(of_linear.block(0))) < 1e-12);
  }
}

TEST_CASE("D11: convolutions without bias, and Kronecker products of unequal factors, work") {
  Rng rng(3);
  Net model({Unflatten<double>({2, 3, 3}),
             Conv2d<double>({.in_channels = 2, .out_channels = 3, .bias = false}, rng),
             Flatten<double>{}});
  const MeanSquaredError<double> loss;
  const Matrix<double> x = random_matrix(18, 5, rng);
  const Estimate estimate(model, loss, x, random_matrix(3, 5, rng), FisherType::Type2);
  CHECK(estimate.block(0).columns() == 18);
  CHECK(relative_error(dense(estimate.block(0)), Ggn(model, loss, x).dense()) < 1e-12);

  const Matrix<double> a = random_matrix(2, 3, rng), g = random_matrix(4, 5, rng);
  const Matrix<double> v = random_matrix(5, 3, rng);
  const Matrix<double> image = g * v * a.transpose();
  CHECK(relative_error(linalg::kronecker_product<double>(a, g) * v.reshaped(), image.reshaped()) <
        1e-13);
}

TEST_CASE("D13: an EKFAC preconditioner is applied, and with the eigenbasis the right way round") {
  Rng rng(4);
  const MapData data(3, 3, 1, 9, false, rng);
  EkfacBlock<double> block(data.options());
  data.fit(block, 1.0);
  REQUIRE(block.refresh_inverse(0.1));
  Matrix<double> damped = dense_of(block);
  damped.diagonal().array() += 0.1;
  const Matrix<double> v = random_matrix(3, 3, rng);
  Matrix<double> preconditioned = v;
  block.precondition(preconditioned);
  CHECK(relative_error(damped * preconditioned.reshaped(), v.reshaped()) < 1e-12);
  CHECK(relative_error(preconditioned, v) > 0.1);
}

TEST_CASE("D14: the Monte-Carlo Fisher of n samples is not n times too small") {
  Rng rng(5);
  auto model = tanh_network(rng);
  const SoftmaxCrossEntropy<double> loss;
  const Matrix<double> x = random_matrix(4, 40, rng);
  const Labels y = random_labels(3, 40, rng);
  const double exact = dense(Estimate(model, loss, x, y, FisherType::Type2).block(1)).trace();
  for (const FisherType type : {FisherType::MonteCarlo, FisherType::CurvaturePropagation})
    for (const Index samples : {1, 4, 16}) {
      double mean = 0;
      constexpr int kRepeats = 64;
      for (std::uint64_t seed = 0; seed < kRepeats; ++seed)
        mean += dense(Estimate(model, loss, x, y, type, samples, seed).block(1)).trace() / kRepeats;
      INFO(samples << " samples");
      CHECK(std::abs(mean / exact - 1) < 0.1);
    }
}

TEST_CASE("D14: with MSE the sampled gradients have the variance of the Gaussian's Fisher") {
  Rng rng(6);
  Net model({Linear<double>(4, 3, rng)});
  const MeanSquaredError<double> loss({.reduction = Reduction::Sum});
  const Matrix<double> x = random_matrix(4, 5, rng);
  const Estimate estimate(model, loss, x, random_matrix(3, 5, rng), FisherType::MonteCarlo, 20000);
  const Matrix<double> expected = 2.0 * 5 * Matrix<double>::Identity(3, 3);
  CHECK(relative_error(estimate.block(0).output_gradient_factor(), expected) < 0.05);
}

TEST_CASE("D15: blocks do not shrink with the batch or with the number of positions") {
  Rng rng(7);
  Net model({Unflatten<double>({1, 4, 4}),
             Conv2d<double>({.in_channels = 1, .out_channels = 2, .kernel_size = {2, 2}}, rng),
             Flatten<double>{}, Linear<double>(18, 3, rng)});
  const SoftmaxCrossEntropy<double> loss;
  const Matrix<double> x = random_matrix(16, 4, rng);
  const Labels y = random_labels(3, 4, rng);
  const Estimate once(model, loss, x, y, FisherType::Type2);
  const Estimate often(model, loss, x.replicate(1, 8), y.replicate(8, 1), FisherType::Type2);
  const Matrix<double> exact = Ggn(model, loss, x).dense();
  // Neither block is exact here, but both are of the right size: N^2 T^5 too small would be 1e-6.
  for (const std::size_t i : {0U, 1U}) {
    CHECK(relative_error(dense(often.block(i)), dense(once.block(i))) < 1e-12);
    const Matrix<double> block = diagonal_block(exact, model, i == 0 ? 1 : 3);
    CHECK(dense(once.block(i)).trace() / block.trace() > 0.5);
    CHECK(dense(once.block(i)).trace() / block.trace() < 2);
  }
}

}  // namespace kfac::test::pitfalls_test
