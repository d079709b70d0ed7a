#include <cmath>
#include <initializer_list>
#include <limits>
#include <string>
#include <vector>

#include <kfac/loss/softmax_cross_entropy.hpp>
#include <kfac/testing/loss_battery.hpp>

#include "support/catch.hpp"
#include "support/random.hpp"

namespace kfac::test::softmax_cross_entropy_test {

using kfac::Index;
using kfac::Labels;
using kfac::Matrix;
using kfac::Reduction;
using kfac::SoftmaxCrossEntropy;
using kfac::test::normal;

namespace {

Labels random_labels(Index classes, Index batch, kfac::Rng& rng) {
  Labels labels(batch);
  for (int& label : labels) label = static_cast<int>(rng.below(classes));
  return labels;
}

Labels labels_of(std::initializer_list<int> labels) {
  return Eigen::Map<const Labels>(labels.begin(), static_cast<Index>(labels.size()));
}

/// exp(f_k) / sum_j exp(f_j), as it is written.
template <class S>
long double probability(const Matrix<S>& f, Index k, Index n) {
  long double total = 0;
  for (Index j = 0; j < f.rows(); ++j) total += std::exp(static_cast<long double>(f(j, n)));
  return std::exp(static_cast<long double>(f(k, n))) / total;
}

template <class S>
double accuracy() {
  return 50 * static_cast<double>(std::numeric_limits<S>::epsilon());
}

/// Equal, but for numbers too small to be normal ones, which Eigen's exponential may give for 0.
template <class S>
bool equal_but_for_underflow(const Matrix<S>& a, const Matrix<S>& b) {
  return ((a - b).array().abs() <= 2 * std::numeric_limits<S>::min()).all();
}

}  // namespace

TEMPLATE_TEST_CASE("SoftmaxCrossEntropy: passes the battery", "[loss][property]", float, double) {
  using S = TestType;
  const auto reduction = GENERATE(Reduction::Mean, Reduction::Sum, Reduction::ExampleMean);
  const auto seed = GENERATE(range(std::uint64_t{0}, std::uint64_t{4}));
  kfac::Rng rng(seed);
  const Index classes = 2 + rng.below(5);
  const Index batch = 1 + rng.below(6);
  const SoftmaxCrossEntropy<S> loss({.reduction = reduction});
  const kfac::testing::LossCheck check = kfac::testing::check_loss(
      loss, normal<S>(classes, batch, rng), random_labels(classes, batch, rng), rng);
  INFO(classes << " x " << batch << ", seed " << seed << '\n' << check.report());
  CHECK(check.passes(std::same_as<S, float> ? 1e-3 : 1e-8));
}

TEMPLATE_TEST_CASE("SoftmaxCrossEntropy: the mean is over the labels, as in PyTorch",
                   "[loss][exact]", float, double) {
  using S = TestType;
  kfac::Rng rng(3);
  const Matrix<S> f = normal<S>(4, 7, rng);
  const Labels y = random_labels(4, 7, rng);
  long double sum = 0;
  for (Index n = 0; n < 7; ++n) sum -= std::log(probability(f, y(n), n));
  CHECK(SoftmaxCrossEntropy<S>{}.value(f, y) ==
        Approx(static_cast<double>(sum / 7)).epsilon(accuracy<S>()));
  CHECK(SoftmaxCrossEntropy<S>({.reduction = Reduction::Sum}).value(f, y) ==
        Approx(static_cast<double>(sum)).epsilon(accuracy<S>()));
}

TEMPLATE_TEST_CASE("SoftmaxCrossEntropy: the gradient is probabilities less the label",
                   "[loss][exact]", float, double) {
  using S = TestType;
  kfac::Rng rng(3);
  const Matrix<S> f = normal<S>(4, 7, rng);
  const Labels y = random_labels(4, 7, rng);
  const Matrix<S> mean = SoftmaxCrossEntropy<S>{}.gradient(f, y);
  const Matrix<S> sum = SoftmaxCrossEntropy<S>({.reduction = Reduction::Sum}).gradient(f, y);
  for (Index n = 0; n < 7; ++n)
    for (Index k = 0; k < 4; ++k) {
      const auto expected = static_cast<double>(probability(f, k, n)) - (k == y(n) ? 1 : 0);
      CHECK(mean(k, n) == Approx(expected / 7).epsilon(accuracy<S>()));
      CHECK(sum(k, n) == Approx(expected).epsilon(accuracy<S>()));
    }
}

TEST_CASE("SoftmaxCrossEntropy: without a preference the value is the logarithm of the classes",
          "[loss][exact]") {
  const SoftmaxCrossEntropy<double> loss;
  CHECK(loss.value(Matrix<double>::Constant(10, 3, 0.3), labels_of({0, 4, 9})) ==
        Approx(std::log(10.0)).epsilon(1e-14));
}

TEST_CASE("SoftmaxCrossEntropy: the Hessian is diag(p) - p p^T", "[loss][exact]") {
  kfac::Rng rng(6);
  const Matrix<double> f = normal<double>(3, 2, rng);
  const SoftmaxCrossEntropy<double> loss;
  Matrix<double> product(3, 2);
  for (Index k = 0; k < 3; ++k) {
    Matrix<double> unit = Matrix<double>::Zero(3, 2);
    unit.row(k).setOnes();
    loss.hessian_product(f, unit, product);
    for (Index n = 0; n < 2; ++n)
      for (Index j = 0; j < 3; ++j) {
        const long double p = probability(f, j, n);
        const long double expected = (j == k ? p : 0) - p * probability(f, k, n);
        CHECK(product(j, n) == Approx(static_cast<double>(expected)).epsilon(1e-14));
      }
  }
}

TEMPLATE_TEST_CASE("SoftmaxCrossEntropy: adding a number to all logits changes nothing",
                   "[loss][property]", float, double) {
  using S = TestType;
  kfac::Rng rng(8);
  const Matrix<S> f = (normal<S>(4, 5, rng) * S(64)).array().round() / S(64);  // exact sums
  const Labels y = random_labels(4, 5, rng);
  const auto shift = GENERATE(as<S>{}, S(1e4), S(-1e4));
  const Matrix<S> shifted = f.array() + shift;
  const SoftmaxCrossEntropy<S> loss;
  CHECK(loss.value(shifted, y) == loss.value(f, y));
  CHECK(loss.gradient(shifted, y) == loss.gradient(f, y));
}

TEMPLATE_TEST_CASE("SoftmaxCrossEntropy: logits of magnitude 1e4 give the limits", "[loss][exact]",
                   float, double) {
  using S = TestType;
  const S big = S(1e4);
  // Certain and right; certain and wrong; torn between two classes.
  Matrix<S> f(3, 3);
  f << big, big, big,   //
      -big, -big, big,  //
      0, 0, -big;
  const Labels y = labels_of({0, 1, 1});
  const SoftmaxCrossEntropy<S> loss({.reduction = Reduction::Sum});
  CHECK(loss.value(f.leftCols(1), y.head(1)) == 0);
  CHECK(loss.value(f.middleCols(1, 1), y.segment(1, 1)) == 2 * big);
  CHECK(loss.value(f.rightCols(1), y.tail(1)) == Approx(std::log(2.0)).epsilon(accuracy<S>()));

  Matrix<S> expected(3, 3);
  expected << 0, 1, S(0.5),  //
      0, -1, S(-0.5),        //
      0, 0, 0;
  CHECK(equal_but_for_underflow(loss.gradient(f, y), expected));

  Matrix<S> v(3, 3), product(3, 3);
  v << 1, 1, 1,  //
      2, 2, 2,   //
      3, 3, 3;
  loss.hessian_product(f, v, product);
  expected << 0, 0, S(-0.25),  // p_k (v_k - 1.5)
      0, 0, S(0.25),           //
      0, 0, 0;
  CHECK(equal_but_for_underflow(product, expected));

  Matrix<S> sum = Matrix<S>::Zero(3, 3), column(3, 3);
  for (Index k = 0; k < 3; ++k) {
    loss.hessian_sqrt(f, k, column);
    for (Index n = 0; n < 3; ++n) sum.col(n) += column.col(n) * column.col(n).dot(v.col(n));
  }
  CHECK(sum.isApprox(expected, S(accuracy<S>())));

  kfac::Rng rng(2);
  int second = 0;
  const int draws = 1000;
  for (int draw = 0; draw < draws; ++draw) {
    const Labels sample = loss.sample(f, rng);
    REQUIRE(sample(0) == 0);
    REQUIRE(sample(1) == 0);
    REQUIRE((sample(2) == 0 || sample(2) == 1));
    second += sample(2);
    loss.sampled_gradient(f, rng, column);
    expected << 0, 0, S(0.5), 0, 0, S(0.5), 0, 0, 0;
    REQUIRE(equal_but_for_underflow(Matrix<S>(column.cwiseAbs()), expected));
  }
  CHECK(std::abs(second - draws / 2) < 5 * std::sqrt(draws / 4.0));
}

TEMPLATE_TEST_CASE("SoftmaxCrossEntropy: labels are drawn with the model's probabilities",
                   "[loss][property]", float, double) {
  using S = TestType;
  kfac::Rng rng(12);
  const Matrix<S> f = normal<S>(5, 1, rng);
  const SoftmaxCrossEntropy<S> loss;
  const int draws = 20000;
  std::vector<int> counts(5);
  for (int draw = 0; draw < draws; ++draw)
    ++counts[static_cast<std::size_t>(loss.sample(f, rng)(0))];
  for (Index k = 0; k < 5; ++k) {
    const auto p = static_cast<double>(probability(f, k, 0));
    CHECK(std::abs(counts[static_cast<std::size_t>(k)] - draws * p) <
          5 * std::sqrt(draws * p * (1 - p)));
  }
}

TEST_CASE("SoftmaxCrossEntropy: rounding does not make an impossible class possible", "[loss]") {
  // 61 times 1/61 in float is 1 - 5.6e-8; the first number of this seed lies above that.
  const std::uint64_t seed = 330027;
  REQUIRE(kfac::Rng(seed).uniform() > 61 * static_cast<double>(1.0f / 61.0f));
  Matrix<float> f = Matrix<float>::Zero(62, 1);
  f(61, 0) = -1e4f;
  const SoftmaxCrossEntropy<float> loss;
  kfac::Rng rng(seed);
  CHECK(loss.sample(f, rng)(0) < 61);
  kfac::Rng again(seed);
  Matrix<float> gradient(62, 1);
  loss.sampled_gradient(f, again, gradient);
  CHECK(gradient(61, 0) >= 0);
}

TEST_CASE("SoftmaxCrossEntropy: one class leaves nothing to learn", "[loss]") {
  const SoftmaxCrossEntropy<double> loss;
  kfac::Rng rng(1);
  const Matrix<double> f = normal<double>(1, 3, rng);
  CHECK(loss.value(f, Labels::Zero(3)) == 0);
  CHECK(loss.gradient(f, Labels::Zero(3)).isZero(0));
  CHECK(loss.sample(f, rng) == Labels::Zero(3));
}

TEST_CASE("SoftmaxCrossEntropy: misuse is named", "[loss][error]") {
  const SoftmaxCrossEntropy<double> loss;
  const Matrix<double> f = Matrix<double>::Zero(10, 3);
  const auto message_at = [&](const Matrix<double>& outputs, const Labels& targets,
                              const std::string& message) {
    Matrix<double> into = Matrix<double>::Constant(outputs.rows(), outputs.cols(), 7);
    CHECK_THROWS_WITH(loss.check(outputs, targets), message);
    CHECK_THROWS_WITH(loss.value(outputs, targets), message);
    CHECK_THROWS_WITH(loss.gradient(outputs, targets, into), message);
    CHECK((into.array() == 7).all());
  };
  message_at(Matrix<double>(10, 0), Labels(0),
             "kfac::SoftmaxCrossEntropy: 'outputs' has no entries, expected at least one example");
  message_at(f, labels_of({0, 1}), "kfac::SoftmaxCrossEntropy: 'targets' has 2 labels, expected 3");
  message_at(f, labels_of({0, 10, 2}),
             "kfac::SoftmaxCrossEntropy: 'targets' has label 10 at 1, expected 0 to 9");
  message_at(f, labels_of({0, 9, -1}),
             "kfac::SoftmaxCrossEntropy: 'targets' has label -1 at 2, expected 0 to 9");

  CHECK_THROWS_AS(loss.check(Matrix<double>(10, 0), Labels(0)), kfac::ShapeError);
  CHECK_THROWS_AS(loss.check(f, labels_of({0, 1})), kfac::ShapeError);
  CHECK_THROWS_AS(loss.check(f, labels_of({0, 10, 2})), kfac::ValueError);
}

}  // namespace kfac::test::softmax_cross_entropy_test
