#include <kfac/loss/mean_squared_error.hpp>
#include <kfac/loss/softmax_cross_entropy.hpp>
#include <kfac/optim/adam.hpp>
#include <kfac/optim/rmsprop.hpp>
#include <kfac/optim/sgd.hpp>
#include <kfac/optim/train_step.hpp>

#include "optim/toy.hpp"
#include "support/catch.hpp"

namespace kfac::test::train_step_test {

using kfac::Index;
using kfac::Matrix;
using kfac::StepStatus;
using kfac::Vector;

namespace {

auto linear_model() {
  kfac::Rng rng(5);
  return kfac::Sequential{kfac::Linear<double>(3, 2, rng)};
}

Matrix<double> normal(Index rows, Index columns) {
  kfac::Rng rng(6);
  Matrix<double> values(rows, columns);
  rng.fill_normal(values);
  return values;
}

const kfac::MeanSquaredError<double> kSquaredError;

}  // namespace

TEST_CASE("train_step: is one gradient step on the batch, by hand", "[optim][exact]") {
  auto model = linear_model();
  const Matrix<double> x = normal(3, 4);
  const Matrix<double> y = normal(2, 4);
  const Vector<double> before = parameters_of(model);  // W by columns, then b

  double loss = 0;
  Vector<double> gradient = Vector<double>::Zero(8);
  for (Index n = 0; n < 4; ++n)
    for (Index k = 0; k < 2; ++k) {
      double output = before(6 + k);
      for (Index i = 0; i < 3; ++i) output += before(2 * i + k) * x(i, n);
      const double difference = output - y(k, n);
      loss += difference * difference / 8;
      for (Index i = 0; i < 3; ++i) gradient(2 * i + k) += 2 * difference * x(i, n) / 8;
      gradient(6 + k) += 2 * difference / 8;
    }

  kfac::Sgd sgd(model, {.learning_rate = 0.3});
  const auto& report = kfac::train_step(model, kSquaredError, sgd, x, y);
  CHECK(report.ok());
  CHECK(report.loss == Approx(loss).epsilon(1e-14));
  CHECK(report.gradient_norm == Approx(gradient.norm()).epsilon(1e-14));
  CHECK(report.step_norm == Approx(0.3 * gradient.norm()).epsilon(1e-14));
  CHECK(report.layer_step_norms.at(0) == report.step_norm);
  CHECK(report.seconds.forward > 0);
  CHECK(report.seconds.gradient > 0);
  CHECK(report.seconds.update > 0);
  CHECK(report.seconds.total() ==
        Approx(report.seconds.forward + report.seconds.gradient + report.seconds.update));
  CHECK(distance(parameters_of(model), before - 0.3 * gradient) < 1e-14);
}

TEST_CASE("train_step: labels are learned with every first-order optimizer", "[optim]") {
  const Matrix<double> x = normal(2, 12);
  kfac::Labels y(12);
  for (Index n = 0; n < 12; ++n) y(n) = x(0, n) > 0 ? (x(1, n) > 0 ? 2 : 1) : 0;
  const kfac::SoftmaxCrossEntropy<double> loss;
  const auto trained = [&](auto& model, auto optimizer) {
    const double first = kfac::train_step(model, loss, optimizer, x, y).loss;
    for (int step = 0; step < 200; ++step) kfac::train_step(model, loss, optimizer, x, y);
    const double last = kfac::train_step(model, loss, optimizer, x, y).loss;
    CHECK(last < 0.2 * first);
  };
  auto model = toy_network();
  SECTION("Sgd") {
    trained(model, kfac::Sgd(model, {.learning_rate = 0.5, .momentum = 0.9}));
  }
  SECTION("Adam") {
    trained(model, kfac::Adam(model, {.learning_rate = 0.1}));
  }
  SECTION("AdamW") {
    trained(model, kfac::AdamW(model, {.learning_rate = 0.1}));
  }
  SECTION("RmsProp") {
    trained(model, kfac::RmsProp(model, {.learning_rate = 0.02, .momentum = 0.5}));
  }
}

TEST_CASE("train_step: nothing is announced, and tracking is as before", "[optim]") {
  struct Counter : kfac::Observer<double> {
    int calls = 0;
    void on_input(const std::string&, const kfac::SharedBatch<double>&) override { ++calls; }
    void on_output_gradient(const std::string&, const kfac::SharedBatch<double>&) override {
      ++calls;
    }
  };
  auto model = linear_model();
  Counter counter;
  model.layers().front().hooks->attach(counter);
  kfac::Sgd sgd(model);
  kfac::train_step(model, kSquaredError, sgd, normal(3, 4), normal(2, 4));
  CHECK(counter.calls == 0);
  CHECK(model.workspace().mode.tracking);
  model.forward(normal(3, 4));
  CHECK(counter.calls == 1);
}

TEST_CASE("train_step: numbers that go wrong are a status, with the parameters untouched",
          "[optim]") {
  auto model = linear_model();
  kfac::Sgd sgd(model, {.learning_rate = 0.1});
  const Matrix<double> x = normal(3, 4);
  const Matrix<double> y = normal(2, 4);
  SECTION("a loss that overflows though its gradient does not") {
    model.layers().front().parameters.setConstant(1e160);
    const Vector<double> before = parameters_of(model);
    const auto& report = kfac::train_step(model, kSquaredError, sgd, x, y);
    CHECK(report.status == StepStatus::NonFiniteLoss);
    CHECK(std::isinf(report.loss));
    CHECK(model.gradient().allFinite());
    CHECK(parameters_of(model) == before);
  }
  SECTION("a step that overflows") {
    sgd.set_learning_rate(std::numeric_limits<double>::max());
    const Vector<double> before = parameters_of(model);
    const auto& report = kfac::train_step(model, kSquaredError, sgd, Matrix<double>(1e3 * x), y);
    CHECK(report.status == StepStatus::NonFiniteStep);
    CHECK(report.layer == "0");
    CHECK(std::isfinite(report.loss));
    CHECK(parameters_of(model) == before);
  }
}

TEST_CASE("train_step: misuse throws and changes nothing", "[optim][error]") {
  auto model = linear_model();
  kfac::Sgd sgd(model, {.learning_rate = 0.1, .momentum = 0.9});
  const Matrix<double> x = normal(3, 4);
  const Matrix<double> y = normal(2, 4);
  kfac::train_step(model, kSquaredError, sgd, x, y);
  const Vector<double> before = parameters_of(model);
  const auto step = [&](const Matrix<double>& inputs, const Matrix<double>& targets) {
    kfac::train_step(model, kSquaredError, sgd, inputs, targets);
  };
  Matrix<double> bad = x;
  bad(2, 1) = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_WITH(step(bad, y),
                    "kfac::Network::forward: 'x' is nan at (2, 1), expected finite numbers");
  CHECK_THROWS_AS(step(Matrix<double>(3, 0), Matrix<double>(2, 0)), kfac::ShapeError);
  CHECK_THROWS_WITH(step(normal(5, 4), y),
                    "kfac::Linear: 'input' has shape 5, expected 3 features on the last axis "
                    "(layer '0')");
  CHECK_THROWS_WITH(step(x, normal(2, 3)),
                    "kfac::MeanSquaredError: 'targets' is 2x3, expected 2x4");
  CHECK(parameters_of(model) == before);
  CHECK(model.workspace().mode.tracking);

  auto twin = linear_model();
  kfac::Sgd untouched(twin, {.learning_rate = 0.1, .momentum = 0.9});
  kfac::train_step(twin, kSquaredError, untouched, x, y);
  kfac::train_step(twin, kSquaredError, untouched, x, y);
  step(x, y);
  CHECK(parameters_of(model) == parameters_of(twin));
}

}  // namespace kfac::test::train_step_test
