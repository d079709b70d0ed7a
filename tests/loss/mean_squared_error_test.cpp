#include <cmath>
#include <limits>
#include <string>

#include <kfac/loss/mean_squared_error.hpp>
#include <kfac/testing/loss_battery.hpp>

#include "support/catch.hpp"
#include "support/random.hpp"

namespace kfac::test::mean_squared_error_test {

using kfac::Index;
using kfac::Matrix;
using kfac::MeanSquaredError;
using kfac::Reduction;
using kfac::test::normal;

namespace {

/// The sum of (f - y)^2 over all entries.
template <class S>
long double sum_of_squares(const Matrix<S>& f, const Matrix<S>& y) {
  long double sum = 0;
  for (Index i = 0; i < f.size(); ++i) {
    const auto output = static_cast<long double>(f.data()[i]);
    const auto target = static_cast<long double>(y.data()[i]);
    sum += (output - target) * (output - target);
  }
  return sum;
}

}  // namespace

TEMPLATE_TEST_CASE("MeanSquaredError: passes the battery", "[loss][property]", float, double) {
  using S = TestType;
  const auto reduction = GENERATE(Reduction::Mean, Reduction::Sum, Reduction::ExampleMean);
  const auto seed = GENERATE(range(std::uint64_t{0}, std::uint64_t{4}));
  kfac::Rng rng(seed);
  const Index outputs = 1 + rng.below(6);
  const Index batch = 1 + rng.below(6);
  const MeanSquaredError<S> loss({.reduction = reduction});
  const kfac::testing::LossCheck check = kfac::testing::check_loss(
      loss, normal<S>(outputs, batch, rng), normal<S>(outputs, batch, rng), rng);
  INFO(outputs << " x " << batch << ", seed " << seed << '\n' << check.report());
  CHECK(check.passes(std::same_as<S, float> ? 1e-3 : 1e-8));
}

TEMPLATE_TEST_CASE("MeanSquaredError: the mean is over all entries and has no 1/2, as in PyTorch",
                   "[loss][exact]", float, double) {
  using S = TestType;
  kfac::Rng rng(3);
  const Matrix<S> f = normal<S>(4, 7, rng);
  const Matrix<S> y = normal<S>(4, 7, rng);
  const double sum = static_cast<double>(sum_of_squares(f, y));
  const double accuracy = 10 * static_cast<double>(std::numeric_limits<S>::epsilon());
  CHECK(MeanSquaredError<S>{}.value(f, y) == Approx(sum / 28).epsilon(accuracy));
  CHECK(MeanSquaredError<S>({.reduction = Reduction::Sum}).value(f, y) ==
        Approx(sum).epsilon(accuracy));
}

TEST_CASE("MeanSquaredError: a case by hand", "[loss][exact]") {
  Matrix<double> f(2, 1), y(2, 1);
  f << 1, 2;
  y << 4, 0;
  const MeanSquaredError<double> mean;
  CHECK(mean.value(f, y) == 6.5);  // (9 + 4) / 2
  CHECK(mean.gradient(f, y) == Eigen::Vector2d(-3, 2));
  CHECK(mean.scale(2, 1) == 1);

  const MeanSquaredError<double> sum({.reduction = Reduction::Sum});
  CHECK(sum.value(f, y) == 13);
  CHECK(sum.gradient(f, y) == Eigen::Vector2d(-6, 4));
  CHECK(sum.scale(2, 1) == 2);

  const MeanSquaredError<double> example_mean({.reduction = Reduction::ExampleMean});
  CHECK(example_mean.value(f.replicate(1, 4), y.replicate(1, 4)) == 13);
  CHECK(example_mean.gradient(f.replicate(1, 4), y.replicate(1, 4)).col(3) ==
        Eigen::Vector2d(-1.5, 1));
  CHECK(example_mean.scale(2, 4) == 0.5);
}

TEST_CASE("MeanSquaredError: an entry of the square root is a unit vector", "[loss][exact]") {
  const MeanSquaredError<double> loss;
  REQUIRE(loss.hessian_sqrt_columns(3) == 3);
  Matrix<double> column(3, 2), expected(3, 2);
  loss.hessian_sqrt(Matrix<double>::Zero(3, 2), 1, column);
  expected << 0, 0, 1, 1, 0, 0;
  CHECK(column == expected);
}

TEMPLATE_TEST_CASE("MeanSquaredError: outputs of magnitude 1e4 are exact", "[loss][exact]", float,
                   double) {
  using S = TestType;
  Matrix<S> f(2, 2), y(2, 2);
  f << S(1e4), S(-1e4), 0, S(1e4);
  y << 0, 0, 0, S(1e4);
  const MeanSquaredError<S> loss({.reduction = Reduction::Sum});
  CHECK(loss.value(f, y) == S(2e8));
  CHECK(loss.gradient(f, y) == Matrix<S>(S(2) * (f - y)));

  kfac::Rng rng(5);
  const Matrix<S> v = normal<S>(2, 2, rng);
  Matrix<S> product(2, 2);
  loss.hessian_product(f, v, product);
  CHECK(product == v);

  // Targets are normal around the outputs.
  const int draws = 5000;
  double sum = 0;
  double squares = 0;
  for (int draw = 0; draw < draws; ++draw) {
    const Eigen::MatrixXd noise = (loss.sample(f, rng) - f).template cast<double>();
    sum += noise.sum();
    squares += noise.squaredNorm();
  }
  CHECK(sum == Approx(0).margin(5 * std::sqrt(4.0 * draws)));
  CHECK(squares == Approx(4.0 * draws).margin(5 * std::sqrt(2 * 4.0 * draws)));
}

TEST_CASE("MeanSquaredError: mean and sum have one trajectory of directions", "[loss][property]") {
  kfac::Rng rng(4);
  const Matrix<double> f = normal<double>(3, 5, rng);
  const Matrix<double> y = normal<double>(3, 5, rng);
  const MeanSquaredError<double> mean, sum({.reduction = Reduction::Sum});
  CHECK((15 * mean.gradient(f, y)).isApprox(sum.gradient(f, y), 1e-14));
  CHECK(15 * mean.scale(3, 5) == Approx(sum.scale(3, 5)).epsilon(1e-15));
}

TEST_CASE("MeanSquaredError: misuse is named", "[loss][error]") {
  const MeanSquaredError<double> loss;
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
             "kfac::MeanSquaredError: 'outputs' has no entries, expected at least one example");
  message_at(f, Matrix<double>::Zero(2, 4),
             "kfac::MeanSquaredError: 'targets' is 2x4, expected 2x3");
  message_at(f, Matrix<double>::Zero(3, 2),
             "kfac::MeanSquaredError: 'targets' is 3x2, expected 2x3");
  Matrix<double> y = f;
  y(1, 2) = std::numeric_limits<double>::quiet_NaN();
  message_at(f, y, "kfac::MeanSquaredError: 'targets' is nan at (1, 2), expected finite numbers");
  y(1, 2) = -std::numeric_limits<double>::infinity();
  message_at(f, y, "kfac::MeanSquaredError: 'targets' is -inf at (1, 2), expected finite numbers");

  CHECK_THROWS_AS(loss.check(Matrix<double>(2, 0), Matrix<double>(2, 0)), kfac::ShapeError);
  CHECK_THROWS_AS(loss.check(f, Matrix<double>::Zero(2, 4)), kfac::ShapeError);
  CHECK_THROWS_AS(loss.check(f, y), kfac::ValueError);
}

}  // namespace kfac::test::mean_squared_error_test
