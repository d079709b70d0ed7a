#include <cmath>
#include <new>

#include <kfac/nn/linear.hpp>
#include <kfac/posterior/predictive_samples.hpp>
#include <kfac/testing/relative_error.hpp>

#include "posterior/posteriors.hpp"
#include "support/catch.hpp"
#include "support/message_of.hpp"

namespace kfac::test::predictive_samples {

using testing::relative_error;

PosteriorCase classifier() {
  return posterior_case(NetworkKind::Mlp, PosteriorKind::Kronecker, LossKind::SoftmaxCrossEntropy,
                        2, {.prior_precision = {0.2}}, 1);
}

TEST_CASE("Samples: functions have the mean and the joint covariance they are drawn with",
          "[posterior]") {
  PosteriorCase c = classifier();
  constexpr Index kSamples = 40000;
  for (const OutputCovariance wanted :
       {OutputCovariance::Joint, OutputCovariance::PerExample, OutputCovariance::Variances}) {
    INFO("covariance " << static_cast<int>(wanted));
    const auto f = output_distribution(c.model, c.posterior, c.x, c.shape, wanted);
    Rng rng(6);
    const std::vector<Matrix<double>> drawn = sample_outputs(f, kSamples, rng);
    Matrix<double> expected = Matrix<double>::Zero(6, 6);
    if (wanted == OutputCovariance::Joint) expected = f.joint;
    if (wanted != OutputCovariance::Joint)
      for (Index n = 0; n < 2; ++n) expected.block(3 * n, 3 * n, 3, 3) = f.covariance(n);
    Vector<double> mean = Vector<double>::Zero(6);
    Matrix<double> moments = Matrix<double>::Zero(6, 6);
    for (const Matrix<double>& sample : drawn) {
      const Vector<double> change = (sample - f.mean).reshaped();
      mean += change / kSamples;
      moments += change * change.transpose() / kSamples;
    }
    const double scale = expected.diagonal().maxCoeff();
    CHECK(mean.cwiseAbs().maxCoeff() < 4 * std::sqrt(scale / kSamples));
    CHECK((moments - expected).cwiseAbs().maxCoeff() < 6 * scale / std::sqrt(kSamples));
    Rng again(6);
    CHECK(sample_outputs(f, 2, again)[1] == drawn[1]);
  }
}

TEST_CASE("Samples: of observations they have the noise, or are probabilities", "[posterior]") {
  PosteriorCase c = posterior_case(NetworkKind::Mlp, PosteriorKind::Kronecker,
                                   LossKind::SquaredError, 2, {.observation_noise = 0.5}, 7);
  constexpr Index kSamples = 20000;
  const std::vector<Matrix<double>> certain(kSamples, c.outputs);
  std::vector<Matrix<double>> observed = certain;
  Rng rng(8);
  sample_observations(observed, c.posterior, rng);
  double squares = 0;
  for (const Matrix<double>& sample : observed)
    squares += (sample - c.outputs).squaredNorm() / (6.0 * kSamples);
  CHECK(squares == Approx(0.25).epsilon(0.02));
  observed = certain;
  sample_observations(observed, c.posterior, rng, {.observation_noise = false});
  CHECK(observed == certain);

  PosteriorCase labels = classifier();
  observed = {labels.outputs};
  sample_observations(observed, labels.posterior, rng);
  CHECK(observed[0] == softmax(labels.outputs));
}

/// A linear network of 3 inputs and 2 outputs, whose linearisation is itself.
struct LinearCase {
  DynamicSequential<double> model;
  Matrix<double> x;

  LinearCase() {
    Rng rng(9);
    model.push_back(Linear<double>(3, 2, rng));
    x = Matrix<double>(3, 4);
    rng.fill_normal(x);
  }
  Laplace<double> posterior(LaplaceOptions<double> options) {
    CurvatureEstimate<double> estimate = unit_posterior(model).curvature();
    return {std::move(estimate), flat_parameters(model), std::move(options)};
  }
};

TEST_CASE("Network samples: of a linear network they are those of its linearisation",
          "[posterior]") {
  LinearCase c;
  const Laplace<double> posterior =
      c.posterior({.likelihood = Likelihood::Regression, .observation_noise = 0.6});
  constexpr Index kSamples = 40000;
  const Prediction<double> exact = predict(c.model, posterior, c.x);
  const Prediction<double> sampled =
      predict_by_sampling(c.model, posterior, c.x, {.samples = kSamples, .seed = 2});
  const double root = std::sqrt(static_cast<double>(kSamples));
  const double deviation = std::sqrt(exact.variances.maxCoeff());
  CHECK((sampled.f.mean - exact.f.mean).cwiseAbs().maxCoeff() < 5 * deviation / root);
  CHECK((sampled.variances - exact.variances).cwiseAbs().maxCoeff() <
        8 * deviation * deviation / root);
  CHECK(relative_error(sampled.variances, Matrix<double>(sampled.f.variances.array() + 0.36)) <
        1e-13);

  const Laplace<double> labels = c.posterior({});
  const Matrix<double> integral =
      predict(c.model, labels, c.x, {.link = Link::MonteCarlo, .samples = kSamples}).probabilities;
  const Matrix<double> mean =
      predict_by_sampling(c.model, labels, c.x, {.samples = kSamples}).probabilities;
  CHECK((mean - integral).cwiseAbs().maxCoeff() < 5 / root);
}

TEST_CASE("Network samples: the network has its own parameters afterwards", "[posterior]") {
  LinearCase c;
  const Laplace<double> posterior = c.posterior({});
  const Vector<double> own = 2 * flat_parameters(c.model);
  set_flat_parameters(c.model, own);
  Rng rng(3);
  const auto outputs = sample_networks(c.model, posterior, c.x, {3}, 5, rng);
  CHECK(outputs.size() == 5);
  CHECK(outputs[0] != outputs[1]);
  CHECK(flat_parameters(c.model) == own);
  Rng again(3);
  CHECK(sample_networks(c.model, posterior, c.x, {3}, 2, again)[1] == outputs[1]);
  CHECK_THROWS_AS(for_each_sampled_network(c.model, posterior, c.x, {3}, 5, rng,
                                           [](const auto&) { throw std::bad_alloc(); }),
                  std::bad_alloc);
  CHECK(flat_parameters(c.model) == own);
  const auto seeded = [&](std::uint64_t seed) {
    return predict_by_sampling(c.model, posterior, c.x, {.samples = 4, .seed = seed}).probabilities;
  };
  CHECK(seeded(1) == seeded(1));
  CHECK(seeded(1) != seeded(2));
}

TEST_CASE("Samples: what does not fit is named", "[posterior]") {
  PosteriorCase c = classifier();
  Rng rng(1);
  CHECK(message_of<OptionError>([&] {
          sample_outputs(output_distribution(c.model, c.posterior, c.x, c.shape), 0, rng);
        }) == "kfac::sample_outputs: 'samples' is 0, expected >= 1");
  CHECK(message_of<OptionError>([&] {
          sample_networks(c.model, c.posterior, c.x, c.shape, 0, rng);
        }) == "kfac::for_each_sampled_network: 'samples' is 0, expected >= 1");
  LinearCase other;
  CHECK(message_of<ShapeError>([&] {
          sample_networks(other.model, c.posterior, c.x, c.shape, 1, rng);
        }).starts_with("kfac::for_each_sampled_network: 'estimate' has"));
}

}  // namespace kfac::test::predictive_samples
