#include <cmath>

#include <kfac/posterior/links.hpp>
#include <kfac/testing/relative_error.hpp>

#include "support/catch.hpp"
#include "support/message_of.hpp"
#include "support/random.hpp"

namespace kfac::test::links {

using testing::relative_error;

constexpr double kTight = 1e-13;

/// Random means and covariances.
OutputDistribution<double> random_distribution(Index outputs, Index examples, Rng& rng) {
  OutputDistribution<double> f{normal<double>(outputs, examples, rng), {}, {}, {}};
  f.covariances.resize(outputs, outputs * examples);
  f.variances.resize(outputs, examples);
  for (Index n = 0; n < examples; ++n) {
    const Matrix<double> root = normal<double>(outputs, outputs, rng);
    const Matrix<double> covariance = root * root.transpose();
    f.covariances.middleCols(n * outputs, outputs) = covariance;
    f.variances.col(n) = covariance.diagonal();
  }
  return f;
}

/// Of one example.
OutputDistribution<double> one(const Vector<double>& mean, const Matrix<double>& covariance) {
  return {mean, covariance.diagonal(), covariance, {}};
}

/// The mean of sigmoid(z) over z ~ N(mean, variance), by the trapezoidal rule.
double mean_of_sigmoid(double mean, double variance) {
  constexpr int kPoints = 4000;
  constexpr double kWidth = 10;
  double sum = 0;
  double weight = 0;
  for (int i = 0; i <= kPoints; ++i) {
    const double z = kWidth * (2.0 * i / kPoints - 1);
    const double density = std::exp(-z * z / 2);
    sum += density / (1 + std::exp(-(mean + std::sqrt(variance) * z)));
    weight += density;
  }
  return sum / weight;
}

double sigmoid(double z) {
  return 1 / (1 + std::exp(-z));
}

TEST_CASE("Links: probit divides each logit by its own factor", "[posterior]") {
  Rng rng(1);
  const OutputDistribution<double> f = random_distribution(4, 6, rng);
  const Matrix<double> p = probit_probabilities(f);
  const double factor = std::acos(-1.0) / 8;
  for (Index n = 0; n < 6; ++n) {
    Vector<double> expected(4);
    for (Index k = 0; k < 4; ++k)
      expected(k) = std::exp(f.mean(k, n) / std::sqrt(1 + factor * f.covariance(n)(k, k)));
    expected /= expected.sum();
    CHECK(relative_error(Vector<double>(p.col(n)), expected) < kTight);
  }
  OutputDistribution<double> diagonal = f;
  diagonal.covariances.resize(0, 0);
  CHECK(probit_probabilities(diagonal) == p);
}

TEST_CASE("Links: Monte-Carlo is the integral, by quadrature for two classes", "[posterior]") {
  const Matrix<double> covariance{{3, 1}, {1, 2}};
  const Vector<double> mean{{1.3, -0.4}};
  // softmax of two logits is the sigmoid of their difference, whose variance is 3 + 2 - 2.
  const double expected = mean_of_sigmoid(1.7, 3);
  const Matrix<double> p =
      monte_carlo_probabilities(one(mean, covariance), link_draws(2, 200000, 5));
  CHECK(p(0, 0) == Approx(expected).margin(2e-3));
  CHECK(p.sum() == Approx(1).epsilon(kTight));
  // What the correlation does is seen.
  OutputDistribution<double> independent = one(mean, covariance);
  independent.covariances.resize(0, 0);
  CHECK(monte_carlo_probabilities(independent, link_draws(2, 200000, 5))(0, 0) ==
        Approx(mean_of_sigmoid(1.7, 5)).margin(2e-3));
}

TEST_CASE("Links: Monte-Carlo of more classes is the mean of many softmaxes", "[posterior]") {
  Rng rng(2);
  const OutputDistribution<double> f = random_distribution(3, 2, rng);
  const Matrix<double> p = monte_carlo_probabilities(f, link_draws(3, 100000, 6));
  for (Index n = 0; n < 2; ++n) {
    const Matrix<double> root = f.covariance(n).llt().matrixL();
    Vector<double> expected = Vector<double>::Zero(3);
    constexpr int kSamples = 100000;
    for (int i = 0; i < kSamples; ++i)
      expected += softmax(f.mean.col(n) + root * normal<double>(3, 1, rng)) / kSamples;
    CHECK((p.col(n) - expected).cwiseAbs().maxCoeff() < 4e-3);
  }
}

TEST_CASE("Links: Monte-Carlo takes singular covariances", "[posterior]") {
  const Vector<double> mean{{0.5, 0.1, -0.3}};
  const Matrix<double> draws = link_draws(3, 1000, 7);
  const Matrix<double> zero = Matrix<double>::Zero(3, 3);
  CHECK(relative_error(monte_carlo_probabilities(one(mean, zero), draws), softmax(mean)) < kTight);
  // A shift of all logits together changes nothing.
  const Matrix<double> shift = Matrix<double>::Constant(3, 3, 4);
  CHECK(relative_error(monte_carlo_probabilities(one(mean, shift), draws), softmax(mean)) < 1e-12);
}

TEST_CASE("Links: a root of a positive semi-definite matrix is one", "[posterior]") {
  Rng rng(3);
  for (Index rank = 0; rank <= 5; ++rank) {
    const Matrix<double> half = normal<double>(5, rank, rng);
    const Matrix<double> s = half * half.transpose();
    const Matrix<double> root = detail::semidefinite_root(s);
    CHECK((root * root.transpose() - s).norm() < 1e-12 * (1 + s.norm()));
  }
}

TEST_CASE("Links: draws are the same for the same seed, and of two signs", "[posterior]") {
  const Matrix<double> draws = link_draws(3, 7, 11);
  CHECK(draws == link_draws(3, 7, 11));
  CHECK(draws != link_draws(3, 7, 12));
  CHECK(draws.rightCols(3) == -draws.leftCols(3));
  CHECK(link_draws(2, 1, 0).cols() == 1);
}

TEST_CASE("Links: the bridge of two and three classes is as computed by hand", "[posterior]") {
  // Projected to a sum of 0: means 3/8 and -3/8, variances 7/16 and 7/16.
  const OutputDistribution<double> two =
      one(Vector<double>{{1, 0}}, Matrix<double>{{2, 0.5}, {0.5, 1}});
  CHECK(bridge_probabilities(two)(0, 0) == Approx(sigmoid(0.75)).epsilon(kTight));
  CHECK(bridge_probabilities(two, true)(0, 0) ==
        Approx(sigmoid(0.75 / std::sqrt(7.0 / 16))).epsilon(kTight));

  // Means 1/2, 1 and -3/2, variances 5/6, 4/3 and 3/2.
  const OutputDistribution<double> three =
      one(Vector<double>{{1, 2, 0}}, Matrix<double>(Vector<double>{{1, 2, 3}}.asDiagonal()));
  const auto shares = [](double scale) {
    const double a = 0.5 / std::sqrt(scale), b = 1 / std::sqrt(scale), c = -1.5 / std::sqrt(scale);
    const double sum = (std::exp(-a) + std::exp(-b) + std::exp(-c)) / 9;
    Vector<double> alpha{{(1.0 / 3 + std::exp(a) * sum) / (5.0 / 6),
                          (1.0 / 3 + std::exp(b) * sum) / (4.0 / 3),
                          (1.0 / 3 + std::exp(c) * sum) / (3.0 / 2)}};
    return Vector<double>(alpha / alpha.sum());
  };
  CHECK(relative_error(Vector<double>(bridge_probabilities(three)), shares(1)) < kTight);
  const double scale = (5.0 / 6 + 4.0 / 3 + 3.0 / 2) / 3 / std::sqrt(1.5);
  CHECK(relative_error(Vector<double>(bridge_probabilities(three, true)), shares(scale)) < kTight);
}

TEST_CASE("Links: the bridge does not overflow, and probabilities sum to 1", "[posterior]") {
  Rng rng(4);
  OutputDistribution<double> f = random_distribution(10, 20, rng);
  f.mean *= 30;
  for (const bool normalized : {false, true}) {
    const Matrix<double> p = bridge_probabilities(f, normalized);
    CHECK(p.allFinite());
    CHECK(p.minCoeff() >= 0);
    CHECK((p.colwise().sum().array() - 1).abs().maxCoeff() < kTight);
  }
}

TEST_CASE("Links: of independent outputs they are the sigmoid's", "[posterior]") {
  Rng rng(5);
  const OutputDistribution<double> f = random_distribution(3, 4, rng);
  const Matrix<double> probit = sigmoid_probit_probabilities(f);
  const Matrix<double> sampled = sigmoid_monte_carlo_probabilities(f, link_draws(3, 100000, 1));
  for (Index n = 0; n < 4; ++n)
    for (Index k = 0; k < 3; ++k) {
      const double variance = f.variances(k, n);
      CHECK(probit(k, n) ==
            Approx(sigmoid(f.mean(k, n) / std::sqrt(1 + std::acos(-1.0) / 8 * variance)))
                .epsilon(kTight));
      const double expected = mean_of_sigmoid(f.mean(k, n), variance);
      CHECK(sampled(k, n) == Approx(expected).margin(3e-3));
      CHECK(probit(k, n) == Approx(expected).margin(0.02));
    }
}

TEST_CASE("Links: of floats they are those of doubles", "[posterior]") {
  Rng rng(6);
  const OutputDistribution<double> f = random_distribution(4, 5, rng);
  const OutputDistribution<float> g{
      f.mean.cast<float>(), f.variances.cast<float>(), f.covariances.cast<float>(), {}};
  const Matrix<double> draws = link_draws(4, 50, 2);
  const auto close = [](const Matrix<float>& actual, const Matrix<double>& expected) {
    return (actual.cast<double>() - expected).cwiseAbs().maxCoeff() < 1e-5;
  };
  CHECK(close(probit_probabilities(g), probit_probabilities(f)));
  CHECK(close(monte_carlo_probabilities(g, draws), monte_carlo_probabilities(f, draws)));
  CHECK(close(bridge_probabilities(g), bridge_probabilities(f)));
}

TEST_CASE("Links: what is no distribution is named", "[posterior]") {
  Rng rng(7);
  const OutputDistribution<double> f = random_distribution(3, 2, rng);
  OutputDistribution<double> bad = f;
  bad.variances.resize(2, 2);
  CHECK(message_of<ShapeError>([&] { probit_probabilities(bad); }) ==
        "kfac::probit_probabilities: 'variances' is 2x2, expected 3x2");
  bad = f;
  bad.variances(1, 1) = -1;
  CHECK(message_of<ValueError>([&] { probit_probabilities(bad); }) ==
        "kfac::probit_probabilities: 'variances' has an entry -1, expected >= 0");
  bad = f;
  bad.mean(0, 1) = std::nan("");
  CHECK(message_of<ValueError>([&] {
          bridge_probabilities(bad);
        }).starts_with("kfac::bridge_probabilities: 'mean' is nan at (0, 1)"));
  CHECK(message_of<ShapeError>([&] { monte_carlo_probabilities(f, link_draws(2, 5, 0)); }) ==
        "kfac::monte_carlo_probabilities: 'draws' has 2 rows, expected 3");
  CHECK(message_of<ShapeError>([&] { monte_carlo_probabilities(f, link_draws(3, 0, 0)); }) ==
        "kfac::monte_carlo_probabilities: 'draws' has 0 samples, expected at least 1");
  CHECK(message_of<ValueError>([&] {
          bridge_probabilities(one(Vector<double>{{1, 0}}, Matrix<double>::Zero(2, 2)));
        }) ==
        "kfac::bridge_probabilities: 'covariances' is singular at example 0, expected positive "
        "definite");
  CHECK(message_of<ShapeError>([&] {
          bridge_probabilities(one(Vector<double>{{1}}, Matrix<double>::Ones(1, 1)));
        }) == "kfac::bridge_probabilities: 'mean' has 1 outputs, expected at least 2");
}

}  // namespace kfac::test::links
