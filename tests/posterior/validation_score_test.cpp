#include <cmath>

#include <kfac/nn/linear.hpp>
#include <kfac/posterior/validation_score.hpp>

#include "posterior/posteriors.hpp"
#include "support/catch.hpp"
#include "support/message_of.hpp"

namespace kfac::test::validation_score {

/// The case's data in slices of three.
template <class Targets>
std::vector<Slice<double, Targets>> thirds(const PosteriorCase& c, const Targets& targets) {
  std::vector<Slice<double, Targets>> result;
  for (Index first = 0; first < c.x.cols(); first += 3) {
    const Index count = std::min<Index>(3, c.x.cols() - first);
    result.emplace_back(ConstMatrixMap<double>(c.x.col(first).data(), c.x.rows(), count),
                        detail::targets_of(targets, c.x.cols(), first, count), c.shape);
  }
  return result;
}

TEST_CASE("ValidationScore: is the mean negative log-likelihood of what is predicted",
          "[posterior]") {
  PosteriorCase c = posterior_case(NetworkKind::Random, PosteriorKind::Kronecker,
                                   LossKind::SoftmaxCrossEntropy, 8, {}, 1);
  const Labels labels = c.targets.reshaped().cast<int>();
  for (const Link link : {Link::Probit, Link::MonteCarlo, Link::Bridge, Link::Plugin}) {
    const PredictOptions options{.link = link, .samples = 20, .seed = 4};
    ValidationScore score(c.model, thirds(c, labels), options);
    ValidationScore forgetful(c.model, thirds(c, labels), options, 0);
    Laplace<double> posterior = c.posterior;
    for (const double delta : {0.1, 1.0, 10.0}) {
      posterior.set_prior_precision(delta);
      const Matrix<double> p = predict(c.model, posterior, c.x, c.shape, options).probabilities;
      double expected = 0;
      for (Index n = 0; n < 8; ++n) expected -= std::log(p(labels(n), n)) / 8;
      CHECK(score(posterior) == Approx(expected).epsilon(1e-12));
      CHECK(forgetful(posterior) == Approx(expected).epsilon(1e-12));
    }
  }
}

TEST_CASE("ValidationScore: what it keeps is made anew for another curvature or mean",
          "[posterior]") {
  PosteriorCase c = posterior_case(NetworkKind::Mlp, PosteriorKind::Kronecker,
                                   LossKind::SoftmaxCrossEntropy, 8, {}, 2);
  const PosteriorCase other = posterior_case(NetworkKind::Mlp, PosteriorKind::Diagonal,
                                             LossKind::SoftmaxCrossEntropy, 8, {}, 2);
  const Labels labels = c.targets.reshaped().cast<int>();
  ValidationScore score(c.model, thirds(c, labels));
  const double kronecker = score(c.posterior);
  const double diagonal = score(other.posterior);
  CHECK(kronecker != diagonal);
  CHECK(diagonal == ValidationScore(c.model, thirds(c, labels))(other.posterior));
  CHECK(score(c.posterior) == kronecker);

  CHECK(message_of<StateError>([&] {
          set_flat_parameters(c.model, 0.5 * c.posterior.mean());
          score(c.posterior);
        }).starts_with("kfac::ValidationScore: 'model' has other parameters"));
  Laplace<double> moved = c.posterior;
  moved.set_mean(0.5 * c.posterior.mean(), {});
  CHECK(score(moved) == ValidationScore(c.model, thirds(c, labels))(moved));
  CHECK(score(moved) != kronecker);
}

TEST_CASE("ValidationScore: of regression it is the normal density's, with the noise",
          "[posterior]") {
  PosteriorCase c = posterior_case(NetworkKind::Mlp, PosteriorKind::Full, LossKind::SquaredError, 7,
                                   {.observation_noise = 0.3}, 3);
  // The option is for predictions: observations always have noise.
  ValidationScore score(c.model, thirds(c, c.targets), {.observation_noise = false});
  const Prediction<double> prediction = predict(c.model, c.posterior, c.x, c.shape);
  double expected = 0;
  for (Index n = 0; n < 7; ++n)
    for (Index k = 0; k < 3; ++k) {
      const double variance = prediction.variances(k, n);
      const double error = c.targets(k, n) - prediction.f.mean(k, n);
      expected += 0.5 * (std::log(2 * std::acos(-1.0) * variance) + error * error / variance) / 21;
    }
  CHECK(score(c.posterior) == Approx(expected).epsilon(1e-12));
}

TEST_CASE("ValidationScore: of independent classes and of positions it is each target's mean",
          "[posterior]") {
  PosteriorCase c = posterior_case(NetworkKind::PerToken, PosteriorKind::Kronecker,
                                   LossKind::BinaryCrossEntropy, 4, {}, 5);
  {
    const PredictOptions options{.outputs = Classes::Independent};
    const Matrix<double> p = predict(c.model, c.posterior, c.x, c.shape, options).probabilities;
    const double expected =
        -(c.targets.array() * p.array().log() + (1 - c.targets.array()) * (1 - p.array()).log())
             .mean();
    CHECK(ValidationScore(c.model, thirds(c, c.targets), options)(c.posterior) ==
          Approx(expected).epsilon(1e-12));
  }
  const PredictOptions options{.classes = 2};
  const Matrix<double> p = predict(c.model, c.posterior, c.x, c.shape, options).probabilities;
  Labels labels(12);
  double expected = 0;
  for (Index i = 0; i < 12; ++i) {
    labels(i) = static_cast<int>(i % 3 == 0);
    expected -= std::log(p.reshaped(2, 12)(labels(i), i)) / 12;
  }
  CHECK(ValidationScore(c.model, thirds(c, labels), options)(c.posterior) ==
        Approx(expected).epsilon(1e-12));
}

TEST_CASE("ValidationScore: what does not fit is named", "[posterior]") {
  PosteriorCase c = posterior_case(NetworkKind::Mlp, PosteriorKind::Kronecker,
                                   LossKind::SoftmaxCrossEntropy, 3, {}, 6);
  const Labels labels = c.targets.reshaped().cast<int>();
  CHECK(message_of<ShapeError>([&] {
          ValidationScore(c.model, std::vector<Slice<double, Labels>>{});
        }) == "kfac::ValidationScore: 'slices' is empty, expected at least one");
  CHECK(message_of<OptionError>([&] {
          ValidationScore(c.model, thirds(c, labels), {.samples = 0});
        }) == "kfac::ValidationScore: 'samples' is 0, expected >= 1");
  CHECK(message_of<OptionError>([&] { ValidationScore(c.model, thirds(c, labels), {}, -1); }) ==
        "kfac::ValidationScore: 'cache' is -1, expected >= 0");
  CHECK(message_of<ValueError>([&] {
          ValidationScore(c.model, thirds(c, Labels(Labels::Constant(3, 7))))(c.posterior);
        }) == "kfac::ValidationScore: 'labels' has label 7 at 0, expected 0 to 2");
  const Matrix<double> matrix = Matrix<double>::Ones(3, 3);
  CHECK(message_of<ValueError>([&] { ValidationScore(c.model, thirds(c, matrix))(c.posterior); }) ==
        "kfac::ValidationScore: 'targets' are a matrix, expected labels for exclusive classes");
  CHECK(message_of<ValueError>([&] {
          ValidationScore(c.model, thirds(c, labels),
                          {.outputs = Classes::Independent})(c.posterior);
        }) ==
        "kfac::ValidationScore: 'targets' are labels, expected them for exclusive classes "
        "alone");
}

}  // namespace kfac::test::validation_score
