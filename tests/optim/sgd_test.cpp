#include <kfac/core/schedules.hpp>
#include <kfac/optim/sgd.hpp>

#include "optim/first_order.hpp"
#include "optim/toy.hpp"
#include "support/catch.hpp"

namespace kfac::test::sgd_test {

using kfac::Index;
using kfac::Sgd;
using kfac::SgdOptions;
using kfac::StepStatus;
using kfac::Vector;
namespace schedules = kfac::schedules;

namespace {

constexpr int kSteps = 7;

/// torch.optim.SGD, parameter by parameter, as its documentation writes it, and weight decay apart
/// from it.
Vector<double> reference(const SgdOptions<double>& o) {
  auto model = toy_network();
  std::vector<double> momentum_buffer(static_cast<std::size_t>(model.gradient().size()));
  return reference_run(
      parameters_of(model), kSteps, [&](double parameter, double gradient, Index i, int step) {
        const double rate = o.learning_rate(step - 1);
        const double momentum = o.momentum(step - 1);
        const double weight_decay = o.weight_decay(step - 1);
        double& buffer = momentum_buffer[static_cast<std::size_t>(i)];
        if (weight_decay != 0 && !o.decoupled) gradient += weight_decay * parameter;
        buffer = step > 1 ? momentum * buffer + gradient : gradient;
        gradient = o.nesterov ? gradient + momentum * buffer : buffer;
        return parameter - rate * gradient - (o.decoupled ? rate * weight_decay * parameter : 0);
      });
}

}  // namespace

TEST_CASE("Sgd: steps are those of torch.optim.SGD", "[optim][exact]") {
  const auto options = GENERATE(values<SgdOptions<double>>({
      {.learning_rate = 0.1},
      {.learning_rate = 0.03, .weight_decay = 0.2},
      {.learning_rate = 0.1, .momentum = 0.9},
      {.learning_rate = 0.1, .momentum = 0.7, .weight_decay = 0.3},
      {.learning_rate = 0.1, .momentum = 0.9, .nesterov = true},
      {.learning_rate = 0.05, .momentum = 0.8, .nesterov = true, .weight_decay = 0.1},
      {.learning_rate = 0.1, .momentum = 0.9, .weight_decay = 0.3, .decoupled = true},
      {.learning_rate = schedules::exponential(0.1, 0.5, 3),
       .momentum = schedules::polynomial(0.5, 0.9, 5),
       .nesterov = true,
       .weight_decay = [](Index step) { return 0.1 * static_cast<double>(step); }},
  }));
  CHECK(distance(run<Sgd<double>>(options, kSteps), reference(options)) < 1e-12);
}

TEST_CASE("Sgd: every option changes the steps", "[optim]") {
  const SgdOptions<double> base{.learning_rate = 0.1, .momentum = 0.5};
  const Vector<double> expected = run<Sgd<double>>(base, kSteps);
  auto changed = base;
  SECTION("learning rate") {
    changed.learning_rate = 0.2;
  }
  SECTION("momentum") {
    changed.momentum = 0.6;
  }
  SECTION("Nesterov's momentum") {
    changed.nesterov = true;
  }
  SECTION("weight decay") {
    changed.weight_decay = 0.01;
  }
  SECTION("weight decay apart from the momentum") {
    changed.weight_decay = 0.1;
    const Vector<double> coupled = run<Sgd<double>>(changed, kSteps);
    changed.decoupled = true;
    CHECK(distance(run<Sgd<double>>(changed, kSteps), coupled) > 1e-4);
  }
  SECTION("gradient clipping") {
    changed.gradient_clip = 0.5;
  }
  SECTION("a schedule") {
    changed.learning_rate = schedules::step_decay(0.1, 0.5, 3);
  }
  CHECK(distance(run<Sgd<double>>(changed, kSteps), expected) > 1e-4);
}

TEST_CASE("Sgd: by default it is plain gradient descent", "[optim]") {
  auto model = toy_network();
  const Vector<double> before = parameters_of(model);
  Sgd sgd(model);
  write_gradient(model, 1);
  sgd.step();
  CHECK(distance(parameters_of(model), before - 1e-3 * model.gradient()) < 1e-15);
}

TEST_CASE("Sgd: a new learning rate takes effect at once", "[optim]") {
  auto model = toy_network();
  Sgd sgd(model, {.learning_rate = 0.1});
  sgd.set_learning_rate(0.25);
  CHECK(sgd.options().learning_rate(0) == 0.25);
  const Vector<double> before = parameters_of(model);
  write_gradient(model, 1);
  sgd.step();
  CHECK(distance(parameters_of(model), before - 0.25 * model.gradient()) < 1e-15);
}

TEST_CASE("Sgd: a gradient of zero gives a step of zero", "[optim]") {
  auto model = toy_network();
  const Vector<double> before = parameters_of(model);
  Sgd sgd(model, {.learning_rate = 0.1, .momentum = 0.9, .nesterov = GENERATE(false, true)});
  model.gradient().setZero();
  const auto& report = sgd.step();
  CHECK(report.ok());
  CHECK(report.gradient_norm == 0);
  CHECK(report.step_norm == 0);
  CHECK(parameters_of(model) == before);
}

TEST_CASE("Sgd: a step that fails leaves parameters and velocity as they were", "[optim]") {
  const SgdOptions<double> options{.learning_rate = 0.1,
                                   .momentum = 0.9,
                                   .nesterov = GENERATE(false, true),
                                   .weight_decay = 0.1};
  auto model = toy_network();
  auto twin = toy_network();
  Sgd sgd(model, options);
  Sgd untouched(twin, options);
  for (int step = 1; step <= 2; ++step) {
    write_gradient(model, step);
    write_gradient(twin, step);
    sgd.step();
    untouched.step();
  }

  write_gradient(model, 3);
  SECTION("the gradient is not finite") {
    model.gradient()(model.gradient().size() - 1) = std::numeric_limits<double>::quiet_NaN();
    const auto& report = sgd.step();
    CHECK(report.status == StepStatus::NonFiniteGradient);
    CHECK(report.layer == "2");
  }
  SECTION("the loss is not finite") {
    const auto& report = sgd.step(std::numeric_limits<double>::infinity());
    CHECK(report.status == StepStatus::NonFiniteLoss);
    CHECK(report.layer.empty());
  }
  SECTION("the step overflows") {
    sgd.set_learning_rate(1e300);
    model.gradient()(0) = 1e10;
    const auto& report = sgd.step();
    CHECK(report.status == StepStatus::NonFiniteStep);
    CHECK(report.layer == "0");
    CHECK(report.step_norm == 0);
    sgd.set_learning_rate(options.learning_rate);
  }
  CHECK(parameters_of(model) == parameters_of(twin));

  write_gradient(model, 4);
  write_gradient(twin, 4);
  CHECK(sgd.step().ok());
  untouched.step();
  CHECK(parameters_of(model) == parameters_of(twin));
}

TEST_CASE("Sgd: options out of range are named", "[optim][error]") {
  auto model = toy_network();
  const auto make = [&](const SgdOptions<double>& options) { Sgd sgd(model, options); };
  CHECK_THROWS_AS(make({.learning_rate = 0}), kfac::OptionError);
  CHECK_THROWS_WITH(make({.learning_rate = 0}),
                    "kfac::Sgd: 'learning_rate' is 0, expected > 0 and finite");
  CHECK_THROWS_WITH(make({.learning_rate = std::numeric_limits<double>::infinity()}),
                    "kfac::Sgd: 'learning_rate' is inf, expected > 0 and finite");
  CHECK_THROWS_WITH(make({.momentum = 1}), "kfac::Sgd: 'momentum' is 1, expected in [0, 1)");
  CHECK_THROWS_WITH(make({.momentum = -0.5}), "kfac::Sgd: 'momentum' is -0.5, expected in [0, 1)");
  CHECK_THROWS_WITH(make({.nesterov = true}),
                    "kfac::Sgd: 'momentum' is 0, expected > 0 with nesterov");
  CHECK_THROWS_WITH(make({.weight_decay = -1}),
                    "kfac::Sgd: 'weight_decay' is -1, expected >= 0 and finite");

  Sgd sgd(model, {.learning_rate = 0.1});
  CHECK_THROWS_WITH(sgd.set_learning_rate(-1),
                    "kfac::Sgd: 'learning_rate' is -1, expected > 0 and finite");
  CHECK(sgd.options().learning_rate(0) == 0.1);
}

TEST_CASE("Sgd: what every first-order optimizer does", "[optim]") {
  check_first_order<Sgd<double>>(SgdOptions<double>{.learning_rate = 0.1, .momentum = 0.9},
                                 "kfac::Sgd");
}

TEST_CASE("Sgd: schedules are asked at the steps that were taken", "[optim]") {
  auto model = toy_network();
  Sgd sgd(model, {.learning_rate = schedules::piecewise(0.5, {{1, 0.25}}),
                  .momentum = schedules::piecewise(0.0, {{1, 0.75}})});
  write_gradient(model, 1);
  CHECK(sgd.step().learning_rate == 0.5);
  CHECK(sgd.step().momentum == 0.75);
  const auto& report = sgd.step();
  CHECK(report.step == 2);
  CHECK(report.learning_rate == 0.25);
}

TEST_CASE("Sgd: decoupled weight decay is not remembered by the momentum", "[optim][exact]") {
  auto model = toy_network();
  const Vector<double> before = parameters_of(model);
  Sgd sgd(model, {.learning_rate = 0.5, .momentum = 0.9, .weight_decay = 0.25, .decoupled = true});
  model.gradient().setZero();
  sgd.step();
  sgd.step();
  CHECK(distance(parameters_of(model), 0.875 * 0.875 * before) < 1e-15);
}

TEST_CASE("Sgd: Nesterov's momentum needs momentum at every step", "[optim][error]") {
  auto model = toy_network();
  const SgdOptions<double> options{.momentum = schedules::piecewise(0.5, {{1, 0.0}}),
                                   .nesterov = true};
  Sgd sgd(model, options);
  write_gradient(model, 1);
  sgd.step();
  CHECK_THROWS_WITH(sgd.step(), "kfac::Sgd: 'momentum' is 0 at step 1, expected > 0 with nesterov");
}

}  // namespace kfac::test::sgd_test
