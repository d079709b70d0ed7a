#include "support/catch.hpp"
#include "support/networks.hpp"

// Where K-FAC equals the exact block, and where it must not. The exact matrices come from the dense
// Jacobian alone.

#include <kfac/curvature/ggn.hpp>
#include <kfac/nn/conv.hpp>
#include <kfac/nn/flatten.hpp>

namespace kfac::test::theorems_test {

namespace {

auto linear_network(Rng& rng, bool bias = true) {
  return Sequential{Linear<double>(4, 5, rng, {.bias = bias}), Linear<double>(5, 3, rng),
                    Linear<double>(3, 2, rng)};
}

auto tanh_network(Rng& rng, Index outputs = 3) {
  return Sequential{Linear<double>(4, 5, rng), Tanh<double>{}, Linear<double>(5, 4, rng),
                    Tanh<double>{}, Linear<double>(4, outputs, rng)};
}

/// The largest relative error of a layer's A (x) G against its exact block.
template <class Model, class LossType>
std::vector<double> errors_against(const Matrix<double>& exact, Model& model,
                                   const Estimate<Model, LossType>& estimate) {
  std::vector<double> errors;
  const auto layers = model.layers();
  for (std::size_t i = 0, k = 0; i < layers.size(); ++i)
    if (layers[i].kronecker)
      errors.push_back(relative_error(dense(estimate.block(k++)), diagonal_block(exact, model, i)));
  return errors;
}

}  // namespace

TEST_CASE("T2: in deep linear networks with MSE, type-2 K-FAC is the exact GGN block") {
  for (const std::uint64_t seed : {1U, 2U, 3U, 4U, 5U}) {
    Rng rng(seed);
    auto model = linear_network(rng, seed % 2 == 0);
    const Reduction reduction = seed < 3 ? Reduction::Mean : Reduction::Sum;
    const MeanSquaredError<double> loss({.reduction = reduction});
    const Index batch = 1 + rng.below(9);
    const Matrix<double> x = random_matrix(4, batch, rng);
    const Matrix<double> y = random_matrix(2, batch, rng);
    const Estimate estimate(model, loss, x, y, FisherType::Type2);
    for (const double error : errors_against(Ggn(model, loss, x).dense(), model, estimate))
      CHECK(error < 1e-10);
  }
}

TEST_CASE("T1: for one example, type-2 K-FAC is the exact GGN block of any network and loss") {
  Rng rng(7);
  auto model = tanh_network(rng);
  const Matrix<double> x = random_matrix(4, 1, rng);
  const auto check = [&](const auto& loss, const auto& y) {
    const Estimate estimate(model, loss, x, y, FisherType::Type2);
    for (const double error : errors_against(Ggn(model, loss, x).dense(), model, estimate))
      CHECK(error < 1e-10);
  };
  check(MeanSquaredError<double>(), random_matrix(3, 1, rng));
  check(SoftmaxCrossEntropy<double>(), random_labels(3, 1, rng));
  check(BinaryCrossEntropy<double>({.reduction = Reduction::Sum}),
        Matrix<double>(Matrix<double>::Constant(3, 1, 0.25)));
}

TEST_CASE("T1: for one example, empirical K-FAC is the empirical Fisher block") {
  Rng rng(8);
  auto model = tanh_network(rng);
  const SoftmaxCrossEntropy<double> loss;
  const Matrix<double> x = random_matrix(4, 1, rng);
  const Labels y = random_labels(3, 1, rng);
  Ggn exact(model, loss, x);
  const Matrix<double> fisher = outer_products(exact, {loss.gradient(exact.outputs(), y)}, 1.0);
  const Estimate estimate(model, loss, x, y, FisherType::Empirical);
  for (const double error : errors_against(fisher, model, estimate)) CHECK(error < 1e-10);
}

TEST_CASE("T1: for one example, Monte-Carlo K-FAC is the Fisher of the same samples") {
  Rng rng(9);
  auto model = tanh_network(rng);
  const SoftmaxCrossEntropy<double> loss;
  const Matrix<double> x = random_matrix(4, 1, rng);
  const Labels y = random_labels(3, 1, rng);
  constexpr Index kSamples = 4;
  Ggn exact(model, loss, x);
  Rng same(31);
  std::vector<Matrix<double>> vectors;
  for (Index sample = 0; sample < kSamples; ++sample) {
    Matrix<double> v(3, 1);
    loss.sampled_gradient(exact.outputs(), same, v);
    vectors.push_back(v / std::sqrt(static_cast<double>(kSamples)));
  }
  const Matrix<double> fisher = outer_products(exact, vectors, 1.0);
  const Estimate estimate(model, loss, x, y, FisherType::MonteCarlo, kSamples, 31);
  for (const double error : errors_against(fisher, model, estimate)) CHECK(error < 1e-10);
}

TEST_CASE("T11: with MSE the last linear layer's type-2 block is exact in any network") {
  Rng rng(10);
  auto model = tanh_network(rng);
  const MeanSquaredError<double> loss;
  const Matrix<double> x = random_matrix(4, 6, rng);
  const Estimate estimate(model, loss, x, random_matrix(3, 6, rng), FisherType::Type2);
  CHECK(errors_against(Ggn(model, loss, x).dense(), model, estimate).back() < 1e-10);
}

TEST_CASE("T13: a kernel as large as the image is a linear layer on the flattened image") {
  Rng rng(11);
  Rng same(11);
  Sequential convolution{
      Unflatten<double>({2, 3, 4}),
      Conv2d<double>({.in_channels = 2, .out_channels = 5, .kernel_size = {3, 4}}, rng),
      Flatten<double>{}};
  Sequential linear{Linear<double>(24, 5, same)};
  convolution.layers()[1].parameters = linear.layers()[0].parameters;
  const MeanSquaredError<double> loss;
  const Matrix<double> x = random_matrix(24, 4, rng);
  const Matrix<double> y = random_matrix(5, 4, rng);
  const Estimate of_convolution(convolution, loss, x, y, FisherType::Type2);
  const Estimate of_linear(linear, loss, x, y, FisherType::Type2);
  CHECK(relative_error(dense(of_convolution.block(0)), dense(of_linear.block(0))) < 1e-12);
}

TEST_CASE("T14: from mean to sum, G and so the block is multiplied by the number of targets") {
  Rng rng(12);
  auto model = tanh_network(rng);
  const Matrix<double> x = random_matrix(4, 6, rng);
  const auto check = [&](const auto& mean, const auto& sum, const auto& y, double targets) {
    for (const FisherType type :
         {FisherType::Type2, FisherType::MonteCarlo, FisherType::Empirical}) {
      const Estimate of_mean(model, mean, x, y, type, 2, 5);
      const Estimate of_sum(model, sum, x, y, type, 2, 5);
      for (std::size_t i = 0; i < of_mean.size(); ++i)
        CHECK(relative_error(dense(of_sum.block(i)), targets * dense(of_mean.block(i))) < 1e-12);
    }
  };
  const LossOptions sum{.reduction = Reduction::Sum};
  check(MeanSquaredError<double>(), MeanSquaredError<double>(sum), random_matrix(3, 6, rng), 18);
  check(SoftmaxCrossEntropy<double>(), SoftmaxCrossEntropy<double>(sum), random_labels(3, 6, rng),
        6);
}

TEST_CASE("With a mean loss, a batch and the same batch twice have the same curvature") {
  Rng rng(13);
  auto model = tanh_network(rng);
  const SoftmaxCrossEntropy<double> loss;
  const Matrix<double> x = random_matrix(4, 5, rng);
  const Labels y = random_labels(3, 5, rng);
  Matrix<double> twice(4, 10);
  twice << x, x;
  Labels labels(10);
  labels << y, y;
  for (const FisherType type : {FisherType::Type2, FisherType::Empirical}) {
    const Estimate once(model, loss, x, y, type);
    const Estimate doubled(model, loss, twice, labels, type);
    for (std::size_t i = 0; i < once.size(); ++i)
      CHECK(relative_error(dense(doubled.block(i)), dense(once.block(i))) < 1e-12);
  }
}

TEST_CASE("Monte-Carlo K-FAC converges to type-2 as one over the root of the samples") {
  Rng rng(14);
  auto model = tanh_network(rng);
  const Matrix<double> x = random_matrix(4, 6, rng);
  const auto error = [&](const auto& loss, const auto& y, Index samples) {
    const Estimate exact(model, loss, x, y, FisherType::Type2);
    double square = 0;
    constexpr int kRepeats = 6;
    for (std::uint64_t seed = 0; seed < kRepeats; ++seed) {
      const Estimate sampled(model, loss, x, y, FisherType::MonteCarlo, samples, seed);
      const double e = relative_error(dense(sampled.block(1)), dense(exact.block(1)));
      square += e * e / kRepeats;
    }
    return std::sqrt(square);
  };
  const auto check = [&](const auto& loss, const auto& y) {
    const double few = error(loss, y, 16);
    const double many = error(loss, y, 16 * 64);
    CHECK(many < 0.1);
    CHECK(few / many > 8 / 2.0);
    CHECK(few / many < 8 * 2.0);
  };
  check(SoftmaxCrossEntropy<double>(), random_labels(3, 6, rng));
  check(MeanSquaredError<double>(), random_matrix(3, 6, rng));
  check(BinaryCrossEntropy<double>(), Matrix<double>(Matrix<double>::Constant(3, 6, 1.0)));
}

TEST_CASE("Negative control: with several examples and nonlinear layers K-FAC is not the GGN") {
  Rng rng(15);
  auto model = tanh_network(rng);
  const SoftmaxCrossEntropy<double> loss;
  const Matrix<double> x = random_matrix(4, 6, rng);
  const Estimate estimate(model, loss, x, random_labels(3, 6, rng), FisherType::Type2);
  for (const double error : errors_against(Ggn(model, loss, x).dense(), model, estimate)) {
    CHECK(error > 1e-3);
    CHECK(error < 0.9);
  }
}

TEST_CASE("Negative control: empirical K-FAC is not the empirical Fisher of deep linear networks") {
  Rng rng(16);
  auto model = linear_network(rng);
  const MeanSquaredError<double> loss;
  const Matrix<double> x = random_matrix(4, 6, rng);
  const Matrix<double> y = random_matrix(2, 6, rng);
  Ggn exact(model, loss, x);
  const double r = loss.scale(2, 6);
  const Matrix<double> fisher = outer_products(exact, {loss.gradient(exact.outputs(), y) / r}, r);
  const Estimate estimate(model, loss, x, y, FisherType::Empirical);
  for (const double error : errors_against(fisher, model, estimate)) CHECK(error > 0.1);
}

TEST_CASE("Negative control: the first convolution of a padded network is not exact") {
  Rng rng(17);
  Sequential model{Unflatten<double>({1, 4, 4}),
                   Conv2d<double>({.in_channels = 1, .out_channels = 2, .padding = {1, 1}}, rng),
                   Conv2d<double>({.in_channels = 2, .out_channels = 2, .padding = {1, 1}}, rng),
                   Flatten<double>{}};
  const MeanSquaredError<double> loss;
  const Matrix<double> x = random_matrix(16, 3, rng);
  const Estimate estimate(model, loss, x, random_matrix(32, 3, rng), FisherType::Type2);
  CHECK(errors_against(Ggn(model, loss, x).dense(), model, estimate).front() > 0.01);
}

}  // namespace kfac::test::theorems_test
