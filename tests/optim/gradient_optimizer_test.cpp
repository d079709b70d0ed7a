#include <kfac/core/schedules.hpp>
#include <kfac/loss/mean_squared_error.hpp>
#include <kfac/optim/adam.hpp>
#include <kfac/optim/gradient_optimizer.hpp>
#include <kfac/optim/rmsprop.hpp>
#include <kfac/optim/sgd.hpp>

#include "optim/toy.hpp"
#include "support/catch.hpp"
#include "support/saved_state.hpp"

namespace kfac::test::gradient_optimizer_test {

using kfac::GradientOptimizer;
using kfac::Index;
using kfac::make_optimizer;
using kfac::Matrix;
using kfac::StepStatus;
using kfac::Vector;

namespace {

using Error = kfac::MeanSquaredError<double>;
const Error kSquaredError;

Matrix<double> normal(Index rows, Index columns) {
  kfac::Rng rng(6);
  Matrix<double> values(rows, columns);
  rng.fill_normal(values);
  return values;
}

/// What `train_step` makes of five steps is what the optimizer makes of them.
template <template <class> class Rule, class Options>
void check_steps(const Options& options) {
  auto model = toy_network();
  auto twin = toy_network();
  auto optimizer = make_optimizer<Rule>(model, kSquaredError, options);
  Rule rule(twin, options);
  const Matrix<double> x = normal(2, 4), y = normal(3, 4);
  for (int step = 0; step < 5; ++step) {
    const double loss = optimizer.step(x, y).loss;
    CHECK(kfac::train_step(twin, kSquaredError, rule, x, y).loss == loss);
    CHECK(parameters_of(model) == parameters_of(twin));
  }
  CHECK(optimizer.rule().steps() == 5);
  CHECK(optimizer.options().learning_rate(0) == options.learning_rate(0));
}

}  // namespace

TEST_CASE("GradientOptimizer: steps are those of its rule", "[optim][exact]") {
  SECTION("Sgd") {
    check_steps<kfac::Sgd>(kfac::SgdOptions<double>{.learning_rate = 0.1, .momentum = 0.9});
  }
  SECTION("Adam") {
    check_steps<kfac::Adam>(kfac::AdamOptions<double>{.learning_rate = 0.1});
  }
  SECTION("AdamW") {
    check_steps<kfac::AdamW>(kfac::AdamWOptions<double>{.learning_rate = 0.1});
  }
  SECTION("RmsProp") {
    check_steps<kfac::RmsProp>(kfac::RmsPropOptions<double>{.learning_rate = 0.1});
  }
}

TEST_CASE("GradientOptimizer: the rule is one template argument", "[optim]") {
  auto model = toy_network();
  GradientOptimizer<kfac::Adam, ToyNetwork<>, Error> adam(model, kSquaredError,
                                                          {.learning_rate = 0.25});
  CHECK(adam.step(normal(2, 4), normal(3, 4)).learning_rate == 0.25);
  GradientOptimizer<kfac::Sgd, ToyNetwork<>, Error> sgd(model, kSquaredError);
  CHECK(sgd.step(normal(2, 4), normal(3, 4)).learning_rate == 1e-3);
}

TEST_CASE("GradientOptimizer: the report has the loss and where the time went", "[optim]") {
  auto model = toy_network();
  auto optimizer = make_optimizer<kfac::Sgd>(model, kSquaredError, {.learning_rate = 0.1});
  const Matrix<double> x = normal(2, 4), y = normal(3, 4);
  const double loss = kSquaredError.value(model.forward(x), y);
  const auto& report = optimizer.step(x, y);
  CHECK(report.ok());
  CHECK(report.loss == loss);
  CHECK(report.seconds.forward > 0);
  CHECK(report.seconds.gradient > 0);
  CHECK(report.seconds.update > 0);
  CHECK(report.seconds.factors == 0);
  CHECK(optimizer.step(x, y).loss < loss);
}

TEST_CASE("GradientOptimizer: a batch in slices is stepped on as in one piece", "[optim][exact]") {
  const auto reduction =
      GENERATE(kfac::Reduction::Mean, kfac::Reduction::Sum, kfac::Reduction::ExampleMean);
  const Error loss({.reduction = reduction});
  const kfac::Dataset<double, Matrix<double>> data{normal(2, 11), normal(3, 11)};
  auto model = toy_network();
  auto twin = toy_network();
  auto optimizer = make_optimizer<kfac::Sgd>(model, loss, {.learning_rate = 0.05});
  auto reference = make_optimizer<kfac::Sgd>(twin, loss, {.learning_rate = 0.05});
  const Index size = GENERATE(as<Index>{}, 1, 4, 11);
  for (int step = 0; step < 3; ++step) {
    const auto& report = optimizer.step(kfac::slices(data, size));
    const auto& expected = reference.step(data.inputs, data.targets);
    CHECK(report.loss == Approx(expected.loss).epsilon(1e-13));
    CHECK(report.gradient_norm == Approx(expected.gradient_norm).epsilon(1e-13));
    CHECK(report.seconds.forward > 0);
    CHECK(report.seconds.gradient > 0);
  }
  CHECK(distance(parameters_of(model), parameters_of(twin)) < 1e-13);
}

TEST_CASE("GradientOptimizer: examples may have a shape", "[optim]") {
  kfac::Rng rng(3);
  kfac::Sequential model{kfac::Linear<double>(2, 3, rng)};
  const Matrix<double> x = normal(8, 2), y = normal(12, 2);
  auto twin = model;
  auto optimizer = make_optimizer<kfac::Sgd>(model, kSquaredError, {.learning_rate = 0.5});
  CHECK(optimizer.step(x, y, kfac::Shape{4, 2}).ok());
  // Four positions of two features are as many examples.
  auto reference = make_optimizer<kfac::Sgd>(twin, kSquaredError, {.learning_rate = 0.5});
  reference.step(x.reshaped(2, 8), y.reshaped(3, 8));
  CHECK(distance(parameters_of(model), parameters_of(twin)) < 1e-15);

  auto sliced = make_optimizer<kfac::Sgd>(model, kSquaredError, {.learning_rate = 0.5});
  const kfac::Dataset<double, Matrix<double>> data{x, y};
  sliced.step(kfac::slices(data, 1, kfac::Shape{4, 2}));
  reference.step(x.reshaped(2, 8), y.reshaped(3, 8));
  CHECK(distance(parameters_of(model), parameters_of(twin)) < 1e-14);
}

TEST_CASE("GradientOptimizer: a new learning rate, or schedule, takes effect at once", "[optim]") {
  auto model = toy_network();
  auto optimizer = make_optimizer<kfac::Sgd>(model, kSquaredError, {.learning_rate = 0.1});
  const Matrix<double> x = normal(2, 4), y = normal(3, 4);
  optimizer.set_learning_rate(0.25);
  CHECK(optimizer.step(x, y).learning_rate == 0.25);
  optimizer.set_learning_rate(kfac::schedules::exponential(0.5, 0.5));
  CHECK(optimizer.step(x, y).learning_rate == 0.25);
  CHECK(optimizer.step(x, y).learning_rate == 0.125);
  CHECK_THROWS_WITH(optimizer.set_learning_rate(0),
                    "kfac::Sgd: 'learning_rate' is 0, expected > 0 and finite");
}

TEST_CASE("GradientOptimizer: a run that is resumed takes the same steps to the last bit",
          "[optim]") {
  auto model = toy_network();
  auto optimizer = make_optimizer<kfac::RmsProp>(model, kSquaredError, {.momentum = 0.5});
  const Matrix<double> x = normal(2, 4), y = normal(3, 4);
  for (int step = 0; step < 3; ++step) optimizer.step(x, y);
  const SavedState saved(optimizer);
  auto resumed = model;
  auto other = make_optimizer<kfac::RmsProp>(resumed, kSquaredError, {.momentum = 0.5});
  saved.restore(other);
  for (int step = 0; step < 3; ++step) {
    optimizer.step(x, y);
    other.step(x, y);
  }
  CHECK(parameters_of(model) == parameters_of(resumed));
  CHECK(SavedState(other) == SavedState(optimizer));
}

TEST_CASE("GradientOptimizer: misuse throws and changes nothing", "[optim][error]") {
  auto model = toy_network();
  auto optimizer = make_optimizer<kfac::Adam>(model, kSquaredError, {.learning_rate = 0.1});
  const Matrix<double> x = normal(2, 4), y = normal(3, 4);
  optimizer.step(x, y);
  const Vector<double> before = parameters_of(model);
  const SavedState saved(optimizer);
  CHECK_THROWS_AS(optimizer.step(normal(3, 4), y), kfac::ShapeError);
  CHECK_THROWS_AS(optimizer.step(x, normal(3, 5)), kfac::ShapeError);
  CHECK_THROWS_AS(optimizer.step(Matrix<double>(2, 0), Matrix<double>(3, 0)), kfac::ShapeError);
  const Matrix<double> infinite = Matrix<double>::Constant(2, 4, HUGE_VAL);
  CHECK_THROWS_AS(optimizer.step(infinite, y), kfac::ValueError);
  CHECK_THROWS_WITH(optimizer.step(std::vector<kfac::Slice<double, Matrix<double>>>{}),
                    "kfac::GradientOptimizer::step: 'slices' is empty, expected at least one");
  const Matrix<double> few = normal(3, 3);
  CHECK_THROWS_AS(optimizer.step({{x, y}, {x, few}}), kfac::ShapeError);
  CHECK(parameters_of(model) == before);
  CHECK(SavedState(optimizer) == saved);
  CHECK_THROWS_WITH(make_optimizer<kfac::Adam>(model, kSquaredError, {.beta1 = 1}),
                    "kfac::Adam: 'beta1' is 1, expected in [0, 1)");
}

TEST_CASE("GradientOptimizer: the summary has a line for each layer with parameters", "[optim]") {
  auto model = toy_network();
  const auto optimizer = make_optimizer<kfac::AdamW>(model, kSquaredError);
  CHECK(optimizer.summary() ==
        "0  Linear  12 parameters  AdamW\n"
        "2  Linear  12 parameters  AdamW\n");
}

}  // namespace kfac::test::gradient_optimizer_test
