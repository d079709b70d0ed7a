#include <kfac/core/schedules.hpp>
#include <kfac/optim/rmsprop.hpp>

#include "optim/first_order.hpp"
#include "optim/toy.hpp"
#include "support/catch.hpp"

namespace kfac::test::rmsprop_test {

using kfac::Index;
using kfac::RmsProp;
using kfac::RmsPropOptions;
using kfac::StepStatus;
using kfac::Vector;
namespace schedules = kfac::schedules;

namespace {

constexpr int kSteps = 7;

/// torch.optim.RMSprop, parameter by parameter, as its documentation writes it, and weight decay
/// apart from it.
Vector<double> reference(const RmsPropOptions<double>& o) {
  auto model = toy_network();
  const auto size = static_cast<std::size_t>(model.gradient().size());
  std::vector<double> square_average(size), momentum_buffer(size);
  return reference_run(
      parameters_of(model), kSteps, [&](double parameter, double gradient, Index i, int step) {
        const double rate = o.learning_rate(step - 1), alpha = o.smoothing(step - 1);
        const double momentum = o.momentum(step - 1), weight_decay = o.weight_decay(step - 1);
        double& v = square_average[static_cast<std::size_t>(i)];
        double& buffer = momentum_buffer[static_cast<std::size_t>(i)];
        const double decay = o.decoupled ? rate * weight_decay * parameter : 0;
        if (!o.decoupled) gradient += weight_decay * parameter;
        v = alpha * v + (1 - alpha) * gradient * gradient;
        const double scaled = gradient / (std::sqrt(v) + o.epsilon(step - 1));
        if (momentum == 0) return parameter - rate * scaled - decay;
        buffer = momentum * buffer + scaled;
        return parameter - rate * buffer - decay;
      });
}

}  // namespace

TEST_CASE("RmsProp: steps are those of torch.optim.RMSprop", "[optim][exact]") {
  const auto options = GENERATE(values<RmsPropOptions<double>>({
      {},
      {.learning_rate = 0.1},
      {.learning_rate = 0.1, .smoothing = 0.5, .epsilon = 1e-2},
      {.learning_rate = 0.1, .smoothing = 0},
      {.learning_rate = 0.02, .momentum = 0.9},
      {.learning_rate = 0.02, .momentum = 0.7, .weight_decay = 0.2},
      {.learning_rate = 0.02, .momentum = 0.7, .weight_decay = 0.2, .decoupled = true},
      {.learning_rate = schedules::cosine(0.1, 0.01, 5),
       .smoothing = schedules::polynomial(0.5, 0.9, 5),
       .epsilon = schedules::step_decay(0.1, 0.5, 2),
       .momentum = schedules::linear_warmup(4, 0.9),
       .weight_decay = schedules::piecewise(0.0, {{3, 0.2}})},
  }));
  CHECK(distance(run<RmsProp<double>>(options, kSteps), reference(options)) < 1e-12);
}

TEST_CASE("RmsProp: every option changes the steps", "[optim]") {
  const RmsPropOptions<double> base{.learning_rate = 0.01};
  const Vector<double> expected = run<RmsProp<double>>(base, kSteps);
  auto changed = base;
  SECTION("learning rate") {
    changed.learning_rate = 0.02;
  }
  SECTION("smoothing") {
    changed.smoothing = 0.9;
  }
  SECTION("epsilon") {
    changed.epsilon = 0.1;
  }
  SECTION("momentum") {
    changed.momentum = 0.5;
  }
  SECTION("weight decay") {
    changed.weight_decay = 0.3;
  }
  SECTION("decoupled weight decay") {
    changed.weight_decay = 0.3;
    const Vector<double> coupled = run<RmsProp<double>>(changed, kSteps);
    changed.decoupled = true;
    CHECK(distance(run<RmsProp<double>>(changed, kSteps), coupled) > 1e-4);
  }
  SECTION("gradient clipping") {
    changed.gradient_clip = schedules::piecewise(1.0, {{3, 0.0}});
  }
  CHECK(distance(run<RmsProp<double>>(changed, kSteps), expected) > 1e-4);
}

TEST_CASE("RmsProp: a gradient of zero gives a step of zero", "[optim]") {
  auto model = toy_network();
  const Vector<double> before = parameters_of(model);
  model.gradient().setZero();
  RmsProp optimizer(model);
  const auto& report = optimizer.step();
  CHECK(report.ok());
  CHECK(report.step_norm == 0);
  CHECK(report.momentum == 0);
  CHECK(parameters_of(model) == before);
}

TEST_CASE("RmsProp: options out of range are named", "[optim][error]") {
  auto model = toy_network();
  const auto make = [&](const RmsPropOptions<double>& options) { RmsProp rule(model, options); };
  CHECK_THROWS_AS(make({.smoothing = 1}), kfac::OptionError);
  CHECK_THROWS_WITH(make({.smoothing = 1}), "kfac::RmsProp: 'smoothing' is 1, expected in [0, 1)");
  CHECK_THROWS_WITH(make({.epsilon = 0}), "kfac::RmsProp: 'epsilon' is 0, expected > 0 and finite");
  CHECK_THROWS_WITH(make({.momentum = -0.5}),
                    "kfac::RmsProp: 'momentum' is -0.5, expected in [0, 1)");
}

TEST_CASE("RmsProp: what every first-order optimizer does", "[optim]") {
  check_first_order<RmsProp<double>>(RmsPropOptions<double>{.learning_rate = 0.1, .momentum = 0.5},
                                     "kfac::RmsProp");
}

}  // namespace kfac::test::rmsprop_test
