#include <kfac/attribution/measurements.hpp>

#include "support/catch.hpp"
#include "support/exact.hpp"
#include "support/message_of.hpp"

namespace kfac::test::measurements_test {

namespace {

/// The gradient of `value(outputs)`, a number for each column, by central differences.
template <class Value>
Matrix<double> by_differences(const Matrix<double>& outputs, Value&& value) {
  constexpr double kStep = 1e-5;
  Matrix<double> result(outputs.rows(), outputs.cols());
  for (Index k = 0; k < outputs.rows(); ++k) {
    Matrix<double> up = outputs;
    Matrix<double> down = outputs;
    up.row(k).array() += kStep;
    down.row(k).array() -= kStep;
    result.row(k) = (value(up) - value(down)).transpose() / (2 * kStep);
  }
  return result;
}

template <class M, class Targets>
Matrix<double> gradient_of(const M& measurement, const Matrix<double>& outputs,
                           const Targets& targets) {
  Matrix<double> result(outputs.rows(), outputs.cols());
  measurement(outputs, targets, MatrixRef<double>(result));
  return result;
}

}  // namespace

TEST_CASE("LossMeasurement: the gradient of each example's loss by itself, for all reductions") {
  Rng rng(1);
  for_each_loss([&](const auto& loss) {
    const Matrix<double> outputs = normal<double>(3, 5, rng);
    const auto targets = targets_for(loss, 3, 5, rng);
    const auto alone = [&](const Matrix<double>& at) {
      Vector<double> values(5);
      for (Index n = 0; n < 5; ++n)
        values(n) = loss.value(Matrix<double>(at.col(n)), some(targets, n, 1));
      return values;
    };
    CHECK(relative_error(gradient_of(LossMeasurement{loss}, outputs, targets),
                         by_differences(outputs, alone)) < 1e-9);
  });
}

TEST_CASE("Margin and LogProbability: values as defined, gradients as by differences") {
  Rng rng(2);
  const Matrix<double> outputs = 3 * normal<double>(4, 6, rng);
  Labels labels(6);
  labels << 0, 1, 2, 3, 0, 2;
  const Vector<double> margins = Margin{}.values(outputs, labels);
  const Vector<double> logarithms = LogProbability{}.values(outputs, labels);
  for (Index n = 0; n < 6; ++n) {
    const Vector<double> exponentials = outputs.col(n).array().exp();
    const double p = exponentials(labels(n)) / exponentials.sum();
    CHECK(logarithms(n) == Approx(std::log(p)).epsilon(1e-12));
    CHECK(margins(n) == Approx(std::log(p / (1 - p))).epsilon(1e-10));
  }
  CHECK(relative_error(gradient_of(Margin{}, outputs, labels),
                       by_differences(outputs, [&](const Matrix<double>& at) {
                         return Margin{}.values(at, labels);
                       })) < 1e-9);
  CHECK(relative_error(gradient_of(LogProbability{}, outputs, labels),
                       by_differences(outputs, [&](const Matrix<double>& at) {
                         return LogProbability{}.values(at, labels);
                       })) < 1e-9);
}

TEST_CASE("Margin and LogProbability: large logits neither overflow nor lose the margin") {
  Matrix<double> outputs(3, 2);
  outputs << 1000, -1000, 0, 0, -1000, 1000;
  const Labels labels = Labels::Zero(2);
  CHECK(Margin{}.values(outputs, labels)(0) == Approx(1000));
  CHECK(Margin{}.values(outputs, labels)(1) == Approx(-2000));
  CHECK(LogProbability{}.values(outputs, labels)(1) == Approx(-2000));
  CHECK(gradient_of(Margin{}, outputs, labels).allFinite());
  CHECK(gradient_of(LogProbability{}, outputs, labels).allFinite());
  CHECK(gradient_of(Margin{}, outputs, labels)(2, 1) == Approx(-1));
}

TEST_CASE("Margin and LogProbability: labels that do not fit are exceptions") {
  const Matrix<double> outputs = Matrix<double>::Zero(3, 2);
  CHECK(message_of<ShapeError>([&] { gradient_of(Margin{}, outputs, Labels(Labels::Zero(3))); }) ==
        "kfac::Margin: 'labels' has 3 entries, expected 2");
  CHECK(message_of<ValueError>([&] {
          gradient_of(LogProbability{}, outputs, Labels(Labels::Constant(2, 3)));
        }) == "kfac::LogProbability: 'labels' has 3 at 0, expected 0 to 2");
  CHECK_THROWS_AS((Margin{}.values(outputs, Labels(Labels::Constant(2, -1)))), ValueError);
}

}  // namespace kfac::test::measurements_test
