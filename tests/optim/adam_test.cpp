#include <kfac/core/schedules.hpp>
#include <kfac/optim/adam.hpp>

#include "optim/first_order.hpp"
#include "optim/toy.hpp"
#include "support/catch.hpp"

namespace kfac::test::adam_test {

using kfac::Adam;
using kfac::AdamOptions;
using kfac::AdamW;
using kfac::AdamWOptions;
using kfac::Index;
using kfac::StepStatus;
using kfac::Vector;
namespace schedules = kfac::schedules;

namespace {

constexpr int kSteps = 7;

/// torch.optim.Adam (or AdamW, `decoupled`), parameter by parameter, as its documentation writes
/// it; where beta changes, averages are divided by the sum of their weights.
template <class Options>
Vector<double> reference(const Options& o, bool decoupled) {
  auto model = toy_network();
  const auto size = static_cast<std::size_t>(model.gradient().size());
  std::vector<double> first_moment(size), second_moment(size);
  const auto bias = [](const kfac::Schedule<double>& beta, int steps) {
    double product = 1;
    for (int step = 0; step < steps; ++step) product *= beta(step);
    return 1 - product;
  };
  return reference_run(
      parameters_of(model), kSteps, [&](double parameter, double gradient, Index i, int step) {
        const double rate = o.learning_rate(step - 1), weight_decay = o.weight_decay(step - 1);
        const double beta1 = o.beta1(step - 1), beta2 = o.beta2(step - 1);
        double& m = first_moment[static_cast<std::size_t>(i)];
        double& v = second_moment[static_cast<std::size_t>(i)];
        if (decoupled)
          parameter -= rate * weight_decay * parameter;
        else
          gradient += weight_decay * parameter;
        m = beta1 * m + (1 - beta1) * gradient;
        v = beta2 * v + (1 - beta2) * gradient * gradient;
        const double unbiased_m = m / bias(o.beta1, step);
        const double unbiased_v = v / bias(o.beta2, step);
        return parameter - rate * unbiased_m / (std::sqrt(unbiased_v) + o.epsilon(step - 1));
      });
}

template <class Options>
void every_option_changes_the_steps(Options base, Vector<double> (*run_with)(const Options&)) {
  const Vector<double> expected = run_with(base);
  SECTION("learning rate") {
    base.learning_rate = 0.02;
  }
  SECTION("beta1") {
    base.beta1 = 0.8;
  }
  SECTION("beta2") {
    base.beta2 = 0.9;
  }
  SECTION("epsilon") {
    base.epsilon = 0.1;
  }
  SECTION("weight decay") {
    base.weight_decay = base.weight_decay + 0.3;
  }
  SECTION("gradient clipping") {
    base.gradient_clip = schedules::piecewise(1.0, {{3, 0.0}});
  }
  SECTION("a schedule") {
    base.learning_rate = schedules::inverse_time(0.01, 0.5);
  }
  CHECK(distance(run_with(base), expected) > 1e-4);
}

}  // namespace

TEST_CASE("Adam: steps are those of torch.optim.Adam", "[optim][exact]") {
  const auto options = GENERATE(values<AdamOptions<double>>({
      {},
      {.learning_rate = 0.1},
      {.learning_rate = 0.1, .beta1 = 0.5, .beta2 = 0.7, .epsilon = 1e-2},
      {.learning_rate = 0.1, .beta1 = 0, .beta2 = 0},
      {.learning_rate = 0.1, .weight_decay = 0.2},
      {.learning_rate = schedules::linear_warmup(3, 0.1),
       .beta1 = schedules::exponential(0.9, 0.8),
       .beta2 = schedules::cosine(0.5, 0.9, 5),
       .epsilon = schedules::step_decay(0.1, 0.5, 2),
       .weight_decay = schedules::polynomial(0.2, 0.0, 4)},
  }));
  CHECK(distance(run<Adam<double>>(options, kSteps), reference(options, false)) < 1e-12);
}

TEST_CASE("AdamW: steps are those of torch.optim.AdamW", "[optim][exact]") {
  const auto options = GENERATE(values<AdamWOptions<double>>({
      {},
      {.learning_rate = 0.1},
      {.learning_rate = 0.1, .beta1 = 0.5, .beta2 = 0.7, .epsilon = 1e-2, .weight_decay = 0},
      {.learning_rate = 0.1, .weight_decay = 0.2},
      {.learning_rate = schedules::linear_warmup(3, 0.1),
       .beta1 = schedules::exponential(0.9, 0.8),
       .beta2 = schedules::cosine(0.5, 0.9, 5),
       .epsilon = schedules::step_decay(0.1, 0.5, 2),
       .weight_decay = schedules::polynomial(0.2, 0.0, 4)},
  }));
  CHECK(distance(run<AdamW<double>>(options, kSteps), reference(options, true)) < 1e-12);
}

TEST_CASE("Adam: every option changes the steps", "[optim]") {
  every_option_changes_the_steps<AdamOptions<double>>(
      {.learning_rate = 0.01},
      [](const AdamOptions<double>& options) { return run<Adam<double>>(options, kSteps); });
}

TEST_CASE("AdamW: every option changes the steps", "[optim]") {
  every_option_changes_the_steps<AdamWOptions<double>>(
      {.learning_rate = 0.01},
      [](const AdamWOptions<double>& options) { return run<AdamW<double>>(options, kSteps); });
}

TEST_CASE("AdamW: weight decay acts apart from the gradient, in Adam within it", "[optim]") {
  auto model = toy_network();
  const Vector<double> before = parameters_of(model);
  model.gradient().setZero();
  AdamW adamw(model, {.learning_rate = 0.1, .weight_decay = 0.5});
  adamw.step();
  CHECK(distance(parameters_of(model), 0.95 * before) < 1e-15);

  auto other = toy_network();
  other.gradient().setZero();
  Adam adam(other, {.learning_rate = 0.1, .weight_decay = 0.5});
  adam.step();
  // The first step of Adam has the size of the learning rate, whatever the gradient's.
  CHECK(((parameters_of(other) - before).array().abs() - 0.1).abs().maxCoeff() < 1e-6);
}

TEST_CASE("Adam: a new learning rate takes effect at once", "[optim]") {
  auto model = toy_network();
  Adam adam(model, {.learning_rate = 0.1});
  adam.set_learning_rate(0.25);
  CHECK(adam.options().learning_rate(0) == 0.25);
  const Vector<double> before = parameters_of(model);
  model.gradient().setOnes();
  adam.step();
  CHECK(distance(parameters_of(model), before.array() - 0.25) < 1e-8);
}

TEST_CASE("Adam: a gradient of zero gives a step of zero", "[optim]") {
  auto model = toy_network();
  const Vector<double> before = parameters_of(model);
  model.gradient().setZero();
  Adam adam(model, {.learning_rate = 0.1});
  const auto& report = adam.step();
  CHECK(report.ok());
  CHECK(report.step_norm == 0);
  CHECK(parameters_of(model) == before);

  AdamW adamw(model, {.learning_rate = 0.1, .weight_decay = 0});
  CHECK(adamw.step().step_norm == 0);
  CHECK(parameters_of(model) == before);
}

TEST_CASE("Adam: a step that fails leaves parameters, moments and step count as they were",
          "[optim]") {
  const AdamOptions<double> options{.learning_rate = 0.1, .weight_decay = 0.1};
  auto model = toy_network();
  auto twin = toy_network();
  Adam adam(model, options);
  Adam untouched(twin, options);
  for (int step = 1; step <= 2; ++step) {
    write_gradient(model, step);
    write_gradient(twin, step);
    adam.step();
    untouched.step();
  }

  write_gradient(model, 3);
  SECTION("the gradient is not finite") {
    model.gradient()(0) = std::numeric_limits<double>::infinity();
    const auto& report = adam.step();
    CHECK(report.status == StepStatus::NonFiniteGradient);
    CHECK(report.layer == "0");
  }
  SECTION("the loss is not finite") {
    CHECK(adam.step(std::numeric_limits<double>::quiet_NaN()).status == StepStatus::NonFiniteLoss);
  }
  SECTION("the step overflows") {
    adam.set_learning_rate(std::numeric_limits<double>::max());
    const auto& report = adam.step();
    CHECK(report.status == StepStatus::NonFiniteStep);
    CHECK(report.step_norm == 0);
    adam.set_learning_rate(options.learning_rate);
  }
  CHECK(parameters_of(model) == parameters_of(twin));

  write_gradient(model, 4);
  write_gradient(twin, 4);
  CHECK(adam.step().ok());
  untouched.step();
  CHECK(parameters_of(model) == parameters_of(twin));
}

TEST_CASE("Adam: options out of range are named", "[optim][error]") {
  auto model = toy_network();
  const auto adam = [&](const AdamOptions<double>& options) { Adam optimizer(model, options); };
  CHECK_THROWS_AS(adam({.learning_rate = 0}), kfac::OptionError);
  CHECK_THROWS_WITH(adam({.learning_rate = 0}),
                    "kfac::Adam: 'learning_rate' is 0, expected > 0 and finite");
  CHECK_THROWS_WITH(adam({.beta1 = 1}), "kfac::Adam: 'beta1' is 1, expected in [0, 1)");
  CHECK_THROWS_WITH(adam({.beta1 = -0.5}), "kfac::Adam: 'beta1' is -0.5, expected in [0, 1)");
  CHECK_THROWS_WITH(adam({.beta2 = 1}), "kfac::Adam: 'beta2' is 1, expected in [0, 1)");
  CHECK_THROWS_WITH(adam({.epsilon = 0}), "kfac::Adam: 'epsilon' is 0, expected > 0 and finite");
  CHECK_THROWS_WITH(adam({.weight_decay = -1}),
                    "kfac::Adam: 'weight_decay' is -1, expected >= 0 and finite");

  const auto adamw = [&](const AdamWOptions<double>& options) { AdamW optimizer(model, options); };
  CHECK_THROWS_WITH(adamw({.learning_rate = -1}),
                    "kfac::AdamW: 'learning_rate' is -1, expected > 0 and finite");
  CHECK_THROWS_WITH(adamw({.beta2 = 2}), "kfac::AdamW: 'beta2' is 2, expected in [0, 1)");

  Adam optimizer(model, {.learning_rate = 0.1});
  CHECK_THROWS_WITH(optimizer.set_learning_rate(-1),
                    "kfac::Adam: 'learning_rate' is -1, expected > 0 and finite");
  CHECK(optimizer.options().learning_rate(0) == 0.1);
}

TEST_CASE("Adam: what every first-order optimizer does", "[optim]") {
  check_first_order<Adam<double>>(AdamOptions<double>{.learning_rate = 0.1}, "kfac::Adam");
}

TEST_CASE("AdamW: what every first-order optimizer does", "[optim]") {
  check_first_order<AdamW<double>>(AdamWOptions<double>{.learning_rate = 0.1, .weight_decay = 0},
                                   "kfac::AdamW");
}

}  // namespace kfac::test::adam_test
