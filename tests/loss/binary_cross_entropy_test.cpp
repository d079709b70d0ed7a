#include <cmath>
#include <limits>
#include <string>

#include <kfac/loss/binary_cross_entropy.hpp>
#include <kfac/testing/loss_battery.hpp>

#include "support/catch.hpp"
#include "support/random.hpp"

namespace kfac::test::binary_cross_entropy_test {

using kfac::BinaryCrossEntropy;
using kfac::Index;
using kfac::Matrix;
using kfac::Reduction;
using kfac::test::normal;

namespace {

/// Probabilities, not only 0 and 1.
template <class S>
Matrix<S> uniform(Index rows, Index columns, kfac::Rng& rng) {
  Matrix<S> values(rows, columns);
  rng.fill_uniform(values, 0, 1);
  return values;
}

template <class S>
long double sigmoid(S f) {
  return 1 / (1 + std::exp(-static_cast<long double>(f)));
}

template <class S>
double accuracy() {
  return 50 * static_cast<double>(std::numeric_limits<S>::epsilon());
}

}  // namespace

TEMPLATE_TEST_CASE("BinaryCrossEntropy: passes the battery", "[loss][property]", float, double) {
  using S = TestType;
  const auto reduction = GENERATE(Reduction::Mean, Reduction::Sum, Reduction::ExampleMean);
  const auto seed = GENERATE(range(std::uint64_t{0}, std::uint64_t{4}));
  kfac::Rng rng(seed);
  const Index outputs = 1 + rng.below(6);
  const Index batch = 1 + rng.below(6);
  const BinaryCrossEntropy<S> loss({.reduction = reduction});
  const kfac::testing::LossCheck check = kfac::testing::check_loss(
      loss, normal<S>(outputs, batch, rng), uniform<S>(outputs, batch, rng), rng);
  INFO(outputs << " x " << batch << ", seed " << seed << '\n' << check.report());
  CHECK(check.passes(std::same_as<S, float> ? 1e-3 : 1e-8));
}

TEMPLATE_TEST_CASE("BinaryCrossEntropy: the mean is over all entries, as in PyTorch",
                   "[loss][exact]", float, double) {
  using S = TestType;
  kfac::Rng rng(3);
  const Matrix<S> f = normal<S>(4, 7, rng);
  const Matrix<S> y = uniform<S>(4, 7, rng);
  long double sum = 0;
  for (Index i = 0; i < f.size(); ++i) {
    const long double p = sigmoid(f.data()[i]);
    const auto target = static_cast<long double>(y.data()[i]);
    sum -= target * std::log(p) + (1 - target) * std::log(1 - p);
  }
  CHECK(BinaryCrossEntropy<S>{}.value(f, y) ==
        Approx(static_cast<double>(sum / 28)).epsilon(accuracy<S>()));
  CHECK(BinaryCrossEntropy<S>({.reduction = Reduction::Sum}).value(f, y) ==
        Approx(static_cast<double>(sum)).epsilon(accuracy<S>()));
  CHECK(BinaryCrossEntropy<S>({.reduction = Reduction::ExampleMean}).value(f, y) ==
        Approx(static_cast<double>(sum / 7)).epsilon(accuracy<S>()));
}

TEMPLATE_TEST_CASE("BinaryCrossEntropy: gradient and Hessian are those of the formulas",
                   "[loss][exact]", float, double) {
  using S = TestType;
  kfac::Rng rng(3);
  const Matrix<S> f = normal<S>(2, 5, rng) * S(4);
  const Matrix<S> y = uniform<S>(2, 5, rng);
  const Matrix<S> mean = BinaryCrossEntropy<S>{}.gradient(f, y);
  const BinaryCrossEntropy<S> loss({.reduction = Reduction::Sum});
  const Matrix<S> sum = loss.gradient(f, y);
  Matrix<S> hessian(2, 5), root(2, 5);
  loss.hessian_product(f, Matrix<S>::Ones(2, 5), hessian);
  for (Index k = 0; k < 2; ++k) {
    loss.hessian_sqrt(f, k, root);
    for (Index n = 0; n < 5; ++n) {
      const auto p = static_cast<double>(sigmoid(f(k, n)));
      const double difference = p - static_cast<double>(y(k, n));
      CHECK(mean(k, n) == Approx(difference / 10).margin(accuracy<S>() / 10));
      CHECK(sum(k, n) == Approx(difference).margin(accuracy<S>()));
      CHECK(hessian(k, n) == Approx(p * (1 - p)).epsilon(accuracy<S>()));
      CHECK(root(k, n) == Approx(std::sqrt(p * (1 - p))).epsilon(accuracy<S>()));
      CHECK(root(1 - k, n) == 0);
    }
  }
}

TEMPLATE_TEST_CASE("BinaryCrossEntropy: a small curvature is not lost to rounding", "[loss][exact]",
                   float, double) {
  using S = TestType;
  // 1 - p is below half an epsilon of 1, and p (1 - p) still exp(-40).
  Matrix<S> f(1, 2), product(1, 2);
  f << S(40), S(-40);
  BinaryCrossEntropy<S>{}.hessian_product(f, Matrix<S>::Ones(1, 2), product);
  CHECK(product(0, 0) == Approx(std::exp(-40.0)).epsilon(1e-5));
  CHECK(product(0, 1) == Approx(std::exp(-40.0)).epsilon(1e-5));
}

TEMPLATE_TEST_CASE("BinaryCrossEntropy: logits of magnitude 1e4 give the limits", "[loss][exact]",
                   float, double) {
  using S = TestType;
  const S big = S(1e4);
  // Certain and right, certain and wrong, both ways round; and half right. The row is longer than
  // any SIMD packet of 256 bits, so that both of Eigen's code paths are taken.
  Matrix<S> f(1, 9), y(1, 9), expected(1, 9);
  f << big, -big, big, -big, big, -big, 0, big, -big;
  y << 1, 0, 0, 1, S(0.5), S(0.5), 1, 1, 1;
  const BinaryCrossEntropy<S> loss({.reduction = Reduction::Sum});
  const S values[] = {0, 0, big, big, big / 2, big / 2, S(std::log(2.0)), 0, big};
  for (Index n = 0; n < 9; ++n)
    CHECK(loss.value(f.middleCols(n, 1), y.middleCols(n, 1)) ==
          Approx(static_cast<double>(values[n])).epsilon(accuracy<S>()));
  CHECK(loss.value(f, y) == Approx(4e4 + std::log(2.0)).epsilon(accuracy<S>()));

  expected << 0, 0, 1, -1, S(0.5), S(-0.5), S(-0.5), 0, -1;
  CHECK(loss.gradient(f, y).isApprox(expected, S(accuracy<S>())));

  Matrix<S> product(1, 9);
  loss.hessian_product(f, Matrix<S>::Constant(1, 9, 2), product);
  expected << 0, 0, 0, 0, 0, 0, S(0.5), 0, 0;
  CHECK((product - expected).cwiseAbs().maxCoeff() <= S(accuracy<S>()));
  loss.hessian_sqrt(f, 0, product);
  CHECK((product - expected).cwiseAbs().maxCoeff() <= S(accuracy<S>()));

  kfac::Rng rng(2);
  for (int draw = 0; draw < 100; ++draw) {
    const Matrix<S> sample = loss.sample(f, rng);
    loss.sampled_gradient(f, rng, product);
    for (Index n = 0; n < 9; ++n) {
      if (f(0, n) == 0) {
        CHECK((sample(0, n) == 0 || sample(0, n) == 1));
        CHECK(std::abs(product(0, n)) == S(0.5));
      } else {
        CHECK(sample(0, n) == (f(0, n) > 0 ? 1 : 0));
        CHECK(product(0, n) == 0);
      }
    }
  }
}

TEST_CASE("BinaryCrossEntropy: targets are drawn with the model's probabilities",
          "[loss][property]") {
  Matrix<double> f(1, 3);
  f << -1.5, 0.2, 3;
  const BinaryCrossEntropy<double> loss;
  kfac::Rng rng(4);
  const int draws = 20000;
  Matrix<double> ones = Matrix<double>::Zero(1, 3);
  for (int draw = 0; draw < draws; ++draw) ones += loss.sample(f, rng);
  for (Index n = 0; n < 3; ++n) {
    const auto p = static_cast<double>(sigmoid(f(0, n)));
    CHECK(std::abs(ones(0, n) - draws * p) < 5 * std::sqrt(draws * p * (1 - p)));
  }
}

TEST_CASE("BinaryCrossEntropy: misuse is named", "[loss][error]") {
  const BinaryCrossEntropy<double> loss;
  const Matrix<double> f = Matrix<double>::Zero(2, 3);
  const auto message_at = [&](const Matrix<double>& outputs, const Matrix<double>& targets,
                              const std::string& message) {
    Matrix<double> into = Matrix<double>::Constant(outputs.rows(), outputs.cols(), 7);
    CHECK_THROWS_WITH(loss.check(outputs, targets), message);
    CHECK_THROWS_WITH(loss.value(outputs, targets), message);
    CHECK_THROWS_WITH(loss.gradient(outputs, targets, into), message);
    CHECK((into.array() == 7).all());
  };
  message_at(Matrix<double>(2, 0), Matrix<double>(2, 0),
             "kfac::BinaryCrossEntropy: 'outputs' has no entries, expected at least one example");
  message_at(f, Matrix<double>::Zero(2, 4),
             "kfac::BinaryCrossEntropy: 'targets' is 2x4, expected 2x3");
  Matrix<double> y = Matrix<double>::Constant(2, 3, 0.5);
  y(0, 1) = std::numeric_limits<double>::quiet_NaN();
  message_at(f, y, "kfac::BinaryCrossEntropy: 'targets' is nan at (0, 1), expected finite numbers");
  y(0, 1) = -0.25;
  message_at(f, y, "kfac::BinaryCrossEntropy: 'targets' spans -0.25 to 0.5, expected 0 to 1");
  y(0, 1) = 1.5;
  message_at(f, y, "kfac::BinaryCrossEntropy: 'targets' spans 0.5 to 1.5, expected 0 to 1");

  CHECK_THROWS_AS(loss.check(Matrix<double>(2, 0), Matrix<double>(2, 0)), kfac::ShapeError);
  CHECK_THROWS_AS(loss.check(f, Matrix<double>::Zero(2, 4)), kfac::ShapeError);
  CHECK_THROWS_AS(loss.check(f, y), kfac::ValueError);
}

}  // namespace kfac::test::binary_cross_entropy_test
