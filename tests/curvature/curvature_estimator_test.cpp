#include <utility>
#include <vector>

#include <kfac/curvature/curvature_estimator.hpp>
#include <kfac/curvature/ekfac_block.hpp>
#include <kfac/curvature/kronecker_fit_block.hpp>

#include "support/blocks.hpp"
#include "support/catch.hpp"

namespace kfac::test::curvature_estimator_test {

namespace {

auto network(Rng& rng) {
  return Sequential{Linear<double>(3, 4, rng), Tanh<double>{}, Dropout<double>(0.5, rng),
                    Linear<double>(4, 2, rng)};
}
using Model = decltype(network(std::declval<Rng&>()));
using Mse = MeanSquaredError<double>;
using Estimator = CurvatureEstimator<Model, Mse>;
using Pair = std::pair<Matrix<double>, Matrix<double>>;

/// The same examples in batches of 1, 2, 3, ...
std::vector<Pair> in_parts(const Pair& whole) {
  std::vector<Pair> parts;
  for (Index first = 0, size = 1; first < whole.first.cols(); first += size++) {
    const Index count = std::min(size, whole.first.cols() - first);
    parts.emplace_back(whole.first.middleCols(first, count), whole.second.middleCols(first, count));
  }
  return parts;
}

}  // namespace

TEST_CASE("CurvatureEstimator: data in batches of any sizes give the curvature of all at once") {
  Rng rng(1);
  Model model = network(rng);
  const Pair whole{random_matrix(3, 11, rng), random_matrix(2, 11, rng)};
  const std::vector<BlockFactory<double>> kinds{
      block_factory<KroneckerBlock<double>>(), block_factory<EkfacBlock<double>>(),
      block_factory<KroneckerFitBlock<double>>(), block_factory<DiagonalBlock<double>>()};
  for (const Reduction reduction : {Reduction::Mean, Reduction::Sum, Reduction::ExampleMean})
    for (const FisherType fisher : {FisherType::Type2, FisherType::Empirical})
      for (const auto& kind : kinds) {
        const Mse loss({.reduction = reduction});
        Estimator at_once(model, loss, {.fisher = fisher}, kind);
        Estimator in_batches(model, loss, {.fisher = fisher}, kind);
        at_once.fit(whole.first, whole.second);
        in_batches.fit(in_parts(whole));
        for (std::size_t i = 0; i < 2; ++i) {
          const CurvatureBlock<double>& expected = *at_once.layers()[i]->blocks()[0];
          INFO(expected.kind());
          CHECK(relative_error(dense_of(*in_batches.layers()[i]->blocks()[0]), dense_of(expected)) <
                1e-10);
        }
      }
}

TEST_CASE("CurvatureEstimator: a data set's own batches are walked as often as the blocks want") {
  Rng rng(2);
  Sequential model{Linear<double>(2, 3, rng), Tanh<double>{}, Linear<double>(3, 2, rng)};
  const auto moons = datasets::two_moons<double>({.examples = 30}, rng);
  const SoftmaxCrossEntropy<double> loss;
  CurvatureEstimator all(model, loss, {}, block_factory<EkfacBlock<double>>());
  CurvatureEstimator parts(model, loss, {}, block_factory<EkfacBlock<double>>());
  all.fit(moons.inputs, moons.targets);
  parts.fit(batches(moons, 7, rng));
  for (std::size_t i = 0; i < 2; ++i)
    CHECK(relative_error(dense_of(*parts.layers()[i]->blocks()[0]),
                         dense_of(*all.layers()[i]->blocks()[0])) < 1e-10);
}

TEST_CASE("CurvatureEstimator: sampled estimates depend on the seed and on nothing else") {
  Rng rng(3);
  Model model = network(rng);
  const Mse loss;
  const Pair batch{random_matrix(3, 6, rng), random_matrix(2, 6, rng)};
  const auto estimate = [&](std::uint64_t seed, FisherType type) {
    Estimator estimator(model, loss, {.fisher = type, .samples = 2, .seed = seed},
                        block_factory<EkfacBlock<double>>());
    estimator.fit(batch.first, batch.second);
    return dense_of(*estimator.layers()[0]->blocks()[0]);
  };
  for (const FisherType type : {FisherType::MonteCarlo, FisherType::CurvaturePropagation}) {
    const Matrix<double> first = estimate(5, type);
    CHECK(estimate(5, type) == first);
    CHECK(estimate(6, type) != first);
  }
}

TEST_CASE("CurvatureEstimator: a second fit forgets the first") {
  Rng rng(4);
  Model model = network(rng);
  const Mse loss;
  for (const auto& kind :
       {block_factory<KroneckerBlock<double>>(), block_factory<EkfacBlock<double>>(),
        block_factory<KroneckerFitBlock<double>>()}) {
    Estimator estimator(model, loss, {}, kind), fresh(model, loss, {}, kind);
    estimator.fit(random_matrix(3, 6, rng), random_matrix(2, 6, rng));
    const Pair batch{random_matrix(3, 9, rng), random_matrix(2, 9, rng)};
    estimator.fit(batch.first, batch.second);
    fresh.fit(batch.first, batch.second);
    CHECK(relative_error(dense_of(*estimator.layers()[1]->blocks()[0]),
                         dense_of(*fresh.layers()[1]->blocks()[0])) < 1e-13);
  }
}

TEST_CASE(
    "CurvatureEstimator: the model's mode and gradient and a preconditioner stay as they were") {
  Rng rng(5);
  Model model = network(rng);
  model.eval();
  Model twin = model;
  const Mse loss;
  const Pair batch{random_matrix(3, 6, rng), random_matrix(2, 6, rng)};
  Preconditioner preconditioner(model, {.damping = 0.1});
  Preconditioner undisturbed(twin, {.damping = 0.1});
  Estimator estimator(model, loss);

  model.backward(loss.gradient(model.forward(batch.first), batch.second));
  twin.backward(loss.gradient(twin.forward(batch.first), batch.second));
  const Vector<double> gradient = model.gradient();
  estimator.fit(random_matrix(3, 4, rng), random_matrix(2, 4, rng));
  CHECK(model.gradient() == gradient);
  CHECK_FALSE(model.workspace().mode.training);
  REQUIRE(preconditioner.step().ok());
  REQUIRE(undisturbed.step().ok());
  CHECK(model.gradient() == twin.gradient());
}

TEST_CASE("CurvatureEstimator: bad input is an exception") {
  Rng rng(6);
  Model model = network(rng);
  const Mse loss;
  const auto with_no_samples = [&] { Estimator(model, loss, {.samples = 0}); };
  CHECK_THROWS_MATCHES(
      with_no_samples(), OptionError,
      Catch::Matchers::Message("kfac::CurvatureEstimator: 'samples' is 0, expected >= 1"));
  Estimator estimator(model, loss);
  const std::vector<Pair> none;
  CHECK_THROWS_MATCHES(
      estimator.fit(none), StateError,
      Catch::Matchers::Message("kfac::CurvatureEstimator::end_pass: no batch was added before it"));
  CHECK_THROWS_AS(estimator.fit(random_matrix(3, 4, rng), random_matrix(2, 5, rng)), ShapeError);
  CHECK_THROWS_AS(estimator.fit(Matrix<double>(3, 0), Matrix<double>(2, 0)), ShapeError);
  Matrix<double> targets = random_matrix(2, 4, rng);
  targets(1, 2) = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_AS(estimator.fit(random_matrix(3, 4, rng), targets), ValueError);
  model.layers()[3].parameters.setConstant(1e200);  // finite outputs, curvature beyond double
  CHECK_THROWS_AS(estimator.fit(random_matrix(3, 4, rng), random_matrix(2, 4, rng)), ValueError);
}

}  // namespace kfac::test::curvature_estimator_test
