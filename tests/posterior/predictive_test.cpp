#include <cmath>

#include <kfac/nn/linear.hpp>
#include <kfac/posterior/predictive.hpp>
#include <kfac/testing/relative_error.hpp>

#include "posterior/posteriors.hpp"
#include "support/catch.hpp"
#include "support/message_of.hpp"

namespace kfac::test::predictive {

using testing::relative_error;

constexpr double kTight = 1e-13;

PosteriorCase classifier(Index examples = 5, std::uint64_t seed = 1) {
  return posterior_case(NetworkKind::Mlp, PosteriorKind::Kronecker, LossKind::SoftmaxCrossEntropy,
                        examples, {.prior_precision = {0.2}}, seed);
}

Prediction<double> predicted(PosteriorCase& c, const PredictOptions& options) {
  return predict(c.model, c.posterior, c.x, c.shape, options);
}

TEST_CASE("predict: probabilities are the link's of the outputs' distribution", "[posterior]") {
  PosteriorCase c = classifier();
  const auto f = output_distribution(c.model, c.posterior, c.x, c.shape);
  const auto of = [&](Link link) {
    const Prediction<double> prediction = predicted(c, {.link = link, .samples = 31, .seed = 3});
    CHECK(prediction.f.mean == f.mean);
    CHECK(prediction.f.covariances == f.covariances);
    CHECK(prediction.variances.size() == 0);
    CHECK((prediction.probabilities.colwise().sum().array() - 1).abs().maxCoeff() < kTight);
    return prediction.probabilities;
  };
  CHECK(of(Link::Probit) == probit_probabilities(f));
  CHECK(of(Link::MonteCarlo) == monte_carlo_probabilities(f, link_draws(3, 31, 3)));
  CHECK(of(Link::Bridge) == bridge_probabilities(f));
  CHECK(of(Link::NormalizedBridge) == bridge_probabilities(f, true));
  CHECK(of(Link::Plugin) == softmax(f.mean));
  // The default is probit, and the shape of vectors need not be given.
  CHECK(predict(c.model, c.posterior, c.x).probabilities == probit_probabilities(f));
}

TEST_CASE("predict: samples and their seed are those of the Monte-Carlo link", "[posterior]") {
  PosteriorCase c = classifier();
  const auto of = [&](Index samples, std::uint64_t seed) {
    return predicted(c, {.link = Link::MonteCarlo, .samples = samples, .seed = seed}).probabilities;
  };
  CHECK(of(20, 1) == of(20, 1));
  CHECK(of(20, 1) != of(20, 2));
  CHECK(of(20, 1) != of(22, 1));
  // What is predicted for an example does not depend on the others.
  const Matrix<double> all = of(20, 1);
  const Prediction<double> last = predict(c.model, c.posterior, c.x.rightCols(1), c.shape,
                                          {.link = Link::MonteCarlo, .samples = 20, .seed = 1});
  CHECK(relative_error(last.probabilities, Matrix<double>(all.rightCols(1))) < 1e-12);
}

TEST_CASE("predict: of variances alone outputs are independent", "[posterior]") {
  PosteriorCase c = classifier();
  const auto of = [&](Link link, OutputCovariance covariance) {
    return predicted(c, {.link = link, .covariance = covariance}).probabilities;
  };
  CHECK(relative_error(of(Link::Probit, OutputCovariance::Variances),
                       of(Link::Probit, OutputCovariance::PerExample)) < kTight);
  CHECK(relative_error(of(Link::MonteCarlo, OutputCovariance::Variances),
                       of(Link::MonteCarlo, OutputCovariance::PerExample)) > 1e-4);
  const Prediction<double> joint = predicted(c, {.covariance = OutputCovariance::Joint});
  CHECK(relative_error(joint.f.joint, c.covariance) < 1e-10);
  CHECK(relative_error(joint.probabilities, of(Link::Probit, OutputCovariance::PerExample)) <
        kTight);
}

TEST_CASE("predict: of several positions each has its own probabilities", "[posterior]") {
  PosteriorCase c = posterior_case(NetworkKind::PerToken, PosteriorKind::Kronecker,
                                   LossKind::BinaryCrossEntropy, 4, {}, 2);
  const auto f = output_distribution(c.model, c.posterior, c.x, c.shape);
  for (const Link link : {Link::Probit, Link::MonteCarlo, Link::Bridge}) {
    const Matrix<double> p =
        predicted(c, {.link = link, .classes = 2, .samples = 10}).probabilities;
    REQUIRE(p.rows() == 6);
    for (Index n = 0; n < 4; ++n)
      for (Index position = 0; position < 3; ++position) {
        OutputDistribution<double> one{f.mean.col(n).segment(2 * position, 2),
                                       f.variances.col(n).segment(2 * position, 2),
                                       f.covariance(n).block(2 * position, 2 * position, 2, 2),
                                       {}};
        Matrix<double> expected = probit_probabilities(one);
        if (link == Link::MonteCarlo)
          expected = monte_carlo_probabilities(one, link_draws(2, 10, 0));
        if (link == Link::Bridge) expected = bridge_probabilities(one);
        CHECK(relative_error(Matrix<double>(p.col(n).segment(2 * position, 2)), expected) < kTight);
      }
  }
}

TEST_CASE("predict: independent classes have a probability each", "[posterior]") {
  PosteriorCase c = posterior_case(NetworkKind::Mlp, PosteriorKind::Ekfac,
                                   LossKind::BinaryCrossEntropy, 4, {}, 3);
  const auto f = output_distribution(c.model, c.posterior, c.x, c.shape);
  const auto of = [&](Link link) {
    return predicted(c, {.link = link, .outputs = Classes::Independent, .samples = 9})
        .probabilities;
  };
  CHECK(of(Link::Probit) == sigmoid_probit_probabilities(f));
  CHECK(of(Link::MonteCarlo) == sigmoid_monte_carlo_probabilities(f, link_draws(3, 9, 0)));
  CHECK(relative_error(of(Link::Plugin), Matrix<double>(f.mean.unaryExpr([](double z) {
                         return 1 / (1 + std::exp(-z));
                       }))) < kTight);
}

TEST_CASE("predict: variances of regression contain the noise unless they are not to",
          "[posterior]") {
  PosteriorCase c = posterior_case(NetworkKind::Mlp, PosteriorKind::Kronecker,
                                   LossKind::SquaredError, 6, {.observation_noise = 0.4}, 4);
  const Prediction<double> total = predicted(c, {});
  const Prediction<double> function = predicted(c, {.observation_noise = false});
  const Matrix<double> diagonal = c.covariance.diagonal().reshaped(3, 6);
  CHECK(relative_error(function.variances, diagonal) < 1e-10);
  CHECK(relative_error(total.variances, Matrix<double>(diagonal.array() + 0.16)) < 1e-10);
  CHECK(relative_error(total.f.mean, c.outputs) < kTight);
  CHECK(relative_error(total.f.variances, diagonal) < 1e-10);
  CHECK(total.probabilities.size() == 0);
}

TEST_CASE("predict: in pieces that fit a limit it is the same", "[posterior]") {
  PosteriorCase c = classifier(60);
  const double all = predictive_memory(c.model, c.posterior, c.shape, 60).total();
  const Prediction<double> whole = predicted(c, {.link = Link::MonteCarlo});
  const Prediction<double> pieces =
      predicted(c, {.link = Link::MonteCarlo, .memory_limit = 0.5 * all});
  CHECK(relative_error(pieces.probabilities, whole.probabilities) < 1e-12);
  CHECK_THROWS_AS(predicted(c, {.memory_limit = 50}), MemoryError);
}

TEST_CASE("predict: of floats it is that of doubles", "[posterior]") {
  Rng rng(5);
  DynamicSequential<float> model;
  model.push_back(Linear<float>(3, 4, rng));
  model.push_back(Linear<float>(4, 2, rng));
  DynamicSequential<double> reference;
  reference.push_back(Linear<double>(3, 4, rng));
  reference.push_back(Linear<double>(4, 2, rng));
  const Vector<float> flat = flat_parameters(model);
  set_flat_parameters(reference, flat.cast<double>());
  CurvatureEstimate<float> estimate;
  for (const ParameterBlock& block : parameter_blocks(model)) {
    BlockEstimate<float>& of = estimate.blocks.emplace_back();
    of.block = block;
    of.diagonal = Matrix<float>::Ones(block.outputs, block.columns());
  }
  const Laplace<float> posterior(std::move(estimate), flat);
  const Matrix<float> x = Matrix<float>::Random(3, 7);
  const Matrix<float> p = predict(model, posterior, x).probabilities;
  const Matrix<double> expected =
      predict(reference, unit_posterior(reference), x.cast<double>()).probabilities;
  CHECK((p.cast<double>() - expected).cwiseAbs().maxCoeff() < 1e-6);
}

TEST_CASE("predict: options out of range are named", "[posterior]") {
  PosteriorCase c = classifier(2);
  const auto message = [&](const PredictOptions& options) {
    return message_of<OptionError>([&] { predicted(c, options); });
  };
  CHECK(message({.samples = 0}) == "kfac::predict: 'samples' is 0, expected >= 1");
  CHECK(message({.classes = -1}) == "kfac::predict: 'classes' is -1, expected >= 0");
  CHECK(message({.memory_limit = 0}) == "kfac::predict: 'memory_limit' is 0, expected > 0");
  CHECK(message({.link = Link::Bridge, .outputs = Classes::Independent}) ==
        "kfac::predict: 'link' is a bridge, expected another for independent classes");
  CHECK(message_of<ShapeError>([&] { predicted(c, {.classes = 2}); }) ==
        "kfac::predict: the network has 3 outputs, expected a multiple of 'classes', 2");
}

}  // namespace kfac::test::predictive
