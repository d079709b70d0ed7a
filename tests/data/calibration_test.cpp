#include <cmath>

#include <kfac/core/random.hpp>
#include <kfac/data/calibration.hpp>
#include <kfac/data/roc.hpp>
#include <kfac/data/temperature_scaling.hpp>

#include "support/catch.hpp"
#include "support/message_of.hpp"
#include "support/random.hpp"

namespace kfac::test::calibration {

constexpr double kTight = 1e-14;

/// Five examples of three classes: confidences 0.5, 0.6, 0.7, 0.95 and 1, of which the second is
/// wrong.
struct Case {
  Matrix<double> probabilities{
      {0.5, 0.3, 0.1, 0.95, 0.0}, {0.3, 0.6, 0.2, 0.05, 0.0}, {0.2, 0.1, 0.7, 0.0, 1.0}};
  Labels labels{{0, 0, 2, 0, 2}};
};

TEST_CASE("Calibration: accuracy, log-likelihood and Brier score are those of a hand-made case",
          "[data]") {
  const Case c;
  CHECK(accuracy(c.probabilities, c.labels) == Approx(4.0 / 5).epsilon(kTight));
  const double nll =
      -(std::log(0.5) + std::log(0.3) + std::log(0.7) + std::log(0.95) + std::log(1.0)) / 5;
  CHECK(negative_log_likelihood(c.probabilities, c.labels) == Approx(nll).epsilon(kTight));
  const double brier =
      ((0.25 + 0.09 + 0.04) + (0.49 + 0.36 + 0.01) + (0.01 + 0.04 + 0.09) + (0.0025 + 0.0025) + 0) /
      5;
  CHECK(brier_score(c.probabilities, c.labels) == Approx(brier).epsilon(kTight));
  CHECK(confidences(c.probabilities) == Vector<double>{{0.5, 0.6, 0.7, 0.95, 1.0}});
  const Vector<double> entropy = entropies(c.probabilities);
  CHECK(entropy(4) == 0);
  CHECK(entropy(3) == Approx(-0.95 * std::log(0.95) - 0.05 * std::log(0.05)).epsilon(kTight));

  Labels impossible = c.labels;
  impossible(4) = 0;
  CHECK(std::isinf(negative_log_likelihood(c.probabilities, impossible)));
}

TEST_CASE("Calibration: bins are of equal width and closed above", "[data]") {
  const Case c;
  const std::vector<ReliabilityBin> bins = reliability_bins(c.probabilities, c.labels, 10);
  REQUIRE(bins.size() == 10);
  // 0.5 is the fifth's upper end, 0.6 the sixth's and 0.7 the seventh's; 0.95 and 1 are the last's.
  for (const std::size_t i : {0U, 1U, 2U, 3U, 7U, 8U}) CHECK(bins[i].examples == 0);
  CHECK(bins[4].examples == 1);
  CHECK(bins[5].examples == 1);
  CHECK(bins[5].accuracy == 0);
  CHECK(bins[9].examples == 2);
  CHECK(bins[9].confidence == Approx(0.975).epsilon(kTight));
  CHECK(bins[9].accuracy == 1);
  CHECK(bins[9].lower == Approx(0.9));
  CHECK(bins[9].upper == 1);
  const double expected = (0.5 + 0.6 + 0.3 + 2 * 0.025) / 5;
  CHECK(expected_calibration_error(c.probabilities, c.labels, 10) ==
        Approx(expected).epsilon(kTight));
  CHECK(maximum_calibration_error(c.probabilities, c.labels, 10) == Approx(0.6).epsilon(kTight));
}

TEST_CASE("Calibration: the error is of 15 bins unless another number is asked for", "[data]") {
  // 0.51 and 0.53 share the eighth of 15 bins, from 0.4667 to 0.5333, where what one is above its
  // accuracy the other is below: they cancel. Of 50 bins each has its own.
  const Matrix<double> probabilities{{0.51, 0.53}, {0.49, 0.47}};
  const Labels labels{{0, 1}};
  CHECK(expected_calibration_error(probabilities, labels) == Approx(0.02).epsilon(1e-12));
  CHECK(expected_calibration_error(probabilities, labels, 50) ==
        Approx((0.49 + 0.53) / 2).epsilon(1e-12));
  CHECK(maximum_calibration_error(probabilities, labels) == Approx(0.02).epsilon(1e-12));
}

TEST_CASE("Calibration: probabilities drawn from are calibrated", "[data]") {
  Rng rng(1);
  constexpr Index kExamples = 20000;
  const Matrix<double> probabilities = softmax(normal<double>(4, kExamples, rng));
  Labels labels(kExamples);
  for (Index n = 0; n < kExamples; ++n) {
    double left = rng.uniform();
    int k = 0;
    while (k < 3 && (left -= probabilities(k, n)) > 0) ++k;
    labels(n) = k;
  }
  CHECK(expected_calibration_error(probabilities, labels) < 0.02);
  CHECK(expected_calibration_error(softmax(3 * probabilities.array().log().matrix()), labels) >
        0.15);
}

TEST_CASE("Calibration: the log-likelihood of regression is the normal density's", "[data]") {
  const Matrix<double> mean{{1, 2}, {0, -1}};
  const Matrix<double> variance{{1, 0.25}, {4, 2}};
  const Matrix<double> targets{{1.5, 2}, {2, -1}};
  const double pi = std::acos(-1.0);
  const double expected = (0.5 * (std::log(2 * pi * 1) + std::log(2 * pi * 0.25) +
                                  std::log(2 * pi * 4) + std::log(2 * pi * 2)) +
                           0.125 + 0.5) /
                          4;
  CHECK(gaussian_negative_log_likelihood(mean, variance, targets) ==
        Approx(expected).epsilon(kTight));
}

TEST_CASE("AUROC: is the share of pairs in the right order, ties counting a half", "[data]") {
  const Vector<double> negative{{0.1, 0.4, 0.4, 0.8}};
  const Vector<double> positive{{0.4, 0.9, 0.8}};
  // 0.4 is above 0.1 and ties with two; 0.9 is above all; 0.8 is above three and ties with one.
  const double expected = (1 + 2 * 0.5 + 4 + 3 + 0.5) / 12;
  CHECK(auroc(negative, positive) == Approx(expected).epsilon(kTight));
  CHECK(auroc(positive, negative) == Approx(1 - expected).epsilon(kTight));
  CHECK(auroc(negative, negative) == Approx(0.5).epsilon(kTight));

  const std::vector<RocPoint> curve = roc_curve(negative, positive);
  REQUIRE(curve.size() == 5);  // of the four scores and the start
  CHECK(curve.front().false_positives == 0);
  CHECK(curve.front().true_positives == 0);
  CHECK(curve[2].threshold == 0.8);
  CHECK(curve[2].false_positives == Approx(0.25));
  CHECK(curve[2].true_positives == Approx(2.0 / 3));
  CHECK(curve.back().false_positives == 1);
  CHECK(curve.back().true_positives == 1);
}

TEST_CASE("AUROC: is every pair's order on random scores with ties", "[data]") {
  Rng rng(2);
  for (int repeat = 0; repeat < 20; ++repeat) {
    Vector<double> negative(1 + rng.below(20)), positive(1 + rng.below(20));
    for (double& value : negative) value = static_cast<double>(rng.below(6));
    for (double& value : positive) value = static_cast<double>(rng.below(8));
    double pairs = 0;
    for (const double n : negative)
      for (const double p : positive) pairs += p > n ? 1 : p == n ? 0.5 : 0;
    CHECK(auroc(negative, positive) ==
          Approx(pairs / static_cast<double>(negative.size() * positive.size())).epsilon(1e-13));
  }
}

TEST_CASE("Temperature scaling: the gradient is zero at the temperature of least loss", "[data]") {
  Rng rng(3);
  for (const double scale : {0.05, 1.0, 30.0}) {
    const Index examples = 200;
    const Matrix<double> logits = normal<double>(3, examples, rng);
    Labels labels(examples);
    for (Index n = 0; n < examples; ++n) {
      Index best = 0;
      logits.col(n).maxCoeff(&best);
      labels(n) = static_cast<int>(rng.uniform() < 0.7 ? best : rng.below(3));
    }
    const Matrix<double> outputs = scale * logits;
    const TemperatureFit fit = fit_temperature(outputs, labels);
    const auto nll = [&](double temperature) {
      return negative_log_likelihood(softmax(outputs / temperature), labels);
    };
    INFO("scale " << scale << ", T " << fit.temperature << ", steps " << fit.iterations);
    CHECK(std::abs(fit.gradient) <= 1e-12 * outputs.cwiseAbs().maxCoeff());
    CHECK(fit.negative_log_likelihood == Approx(nll(fit.temperature)).epsilon(1e-12));
    const double step = 1e-5 * fit.temperature;
    CHECK(std::abs(nll(fit.temperature + step) - nll(fit.temperature - step)) < 1e-11);
    for (const double factor : {0.5, 0.9, 1.1, 2.0})
      CHECK(nll(factor * fit.temperature) > fit.negative_log_likelihood);
    // The scale of the logits is undone.
    CHECK(fit.temperature / scale ==
          Approx(fit_temperature(logits, labels).temperature).epsilon(1e-9));
  }
}

TEST_CASE("Temperature scaling: where all are right the temperature is the least there is",
          "[data]") {
  const Matrix<double> outputs{{1, 0}, {0, 1}};
  CHECK(fit_temperature(outputs, Labels{{0, 1}}).temperature < 0.1);
  CHECK(fit_temperature(outputs, Labels{{1, 0}}).temperature == Approx(1000).epsilon(1e-6));
}

TEST_CASE("softmax: is safe for logits of any size, and of floats", "[data]") {
  const Matrix<float> p = softmax(Matrix<float>{{1e30F, 0}, {-1e30F, 0}});
  CHECK(p(0, 0) == 1);
  CHECK(p(1, 0) == 0);
  CHECK(p(0, 1) == Approx(0.5));
  CHECK(negative_log_likelihood(p, Labels{{0, 0}}) == Approx(std::log(2.0) / 2));
}

TEST_CASE("Calibration: what cannot be scored is named", "[data]") {
  const Case c;
  CHECK(message_of<ShapeError>([&] { accuracy(Matrix<double>(3, 0), Labels()); }) ==
        "kfac::accuracy: 'probabilities' has no examples");
  CHECK(message_of<ShapeError>([&] { brier_score(c.probabilities, c.labels.head(4)); }) ==
        "kfac::brier_score: 'labels' has 4 entries, expected 5");
  CHECK(message_of<ValueError>([&] {
          negative_log_likelihood(c.probabilities, Labels{{0, 1, 2, 3, 0}});
        }) == "kfac::negative_log_likelihood: 'labels' has label 3 at 3, expected 0 to 2");
  CHECK(message_of<ValueError>([&] { entropies(2 * c.probabilities); }) ==
        "kfac::entropies: 'probabilities' spans 0 to 2, expected 0 to 1");
  CHECK(message_of<OptionError>([&] {
          expected_calibration_error(c.probabilities, c.labels, 0);
        }) == "kfac::reliability_bins: 'bins' is 0, expected >= 1");
  const Matrix<double> ones = Matrix<double>::Ones(2, 2);
  CHECK(message_of<ValueError>([&] { gaussian_negative_log_likelihood(ones, 0 * ones, ones); }) ==
        "kfac::gaussian_negative_log_likelihood: 'variance' has an entry 0, expected > 0");
  CHECK(message_of<ShapeError>([&] { auroc(Vector<double>(), Vector<double>::Ones(1)); }) ==
        "kfac::roc_curve: 'negative' is empty");
  CHECK(message_of<ValueError>([&] {
          auroc(Vector<double>::Ones(1), Vector<double>::Constant(1, std::nan("")));
        }).starts_with("kfac::roc_curve: 'positive' is nan"));
  CHECK(message_of<ValueError>([&] { fit_temperature(c.probabilities, Labels::Constant(5, 7)); }) ==
        "kfac::fit_temperature: 'labels' has label 7 at 0, expected 0 to 2");
}

}  // namespace kfac::test::calibration
