#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include <kfac/curvature/parameter_block.hpp>
#include <kfac/scientific/pinn_options.hpp>

#include "support/catch.hpp"
#include "support/eigensolver.hpp"
#include "support/exact.hpp"
#include "support/message_of.hpp"
#include "support/pinn_direction.hpp"
#include "support/pinn_problem.hpp"
#include "support/saved_state.hpp"

namespace kfac::test::pinn_options_test {

TEST_CASE("PinnOptimizer: damping of 1e-15 in double gives no NaN, and too little is a status") {
  for (const PinnStep kind : {PinnStep::LineSearch, PinnStep::QuadraticModel}) {
    PinnProblem problem(6);
    PinnOptimizer optimizer(problem.residual, problem.model, {.step = kind, .damping = 1e-15});
    const double before = optimizer.loss(problem.interior, problem.boundary);
    for (int step = 0; step < 60; ++step) {
      const auto& report = optimizer.step(problem.interior, problem.boundary);
      REQUIRE(report.ok());
      REQUIRE(std::isfinite(report.loss));
      REQUIRE(report.damping >= 1e-15);
    }
    CHECK(flat_parameters(problem.model).allFinite());
    CHECK(optimizer.loss(problem.interior, problem.boundary) < 0.5 * before);
  }
  // So little that the factors of fewer points than inputs are singular.
  for (const Index retries : {0, 30}) {
    PinnProblem problem(7);
    const Points<double> few{problem.interior.inputs.leftCols(1),
                             problem.interior.targets.leftCols(1)};
    PinnOptimizer optimizer(problem.residual, problem.model,
                            {.damping = 1e-60, .damping_retries = retries + 60 * (retries > 0)});
    const Vector<double> before = flat_parameters(problem.model);
    const auto& report = optimizer.step(few, few);
    CHECK(report.ok() == (retries > 0));
    CHECK(std::isfinite(report.damping));
    if (retries > 0) {
      CHECK(report.damping > 1e-40);
      continue;
    }
    CHECK(report.status == StepStatus::FactorizationFailed);
    CHECK(report.layer == "0");
    CHECK(flat_parameters(problem.model) == before);
  }
}

TEST_CASE("PinnOptimizer: each option does what it says") {
  const auto after = [](PinnOptions<double> options, int steps) {
    PinnProblem problem(8);
    PinnOptimizer optimizer(problem.residual, problem.model, std::move(options));
    for (int step = 0; step < steps; ++step)
      REQUIRE(optimizer.step(problem.interior, problem.boundary).ok());
    return std::pair{flat_parameters(problem.model), optimizer.report()};
  };
  const auto [plain, report] = after({.step = PinnStep::LineSearch, .momentum = 0}, 2);
  CHECK(after({.step = PinnStep::QuadraticModel}, 2).first != plain);
  CHECK(after({.step = PinnStep::LineSearch, .momentum = 0.9}, 2).first != plain);
  CHECK(after({.step = PinnStep::LineSearch, .momentum = 0.9}, 1).first ==
        after({.step = PinnStep::LineSearch, .momentum = 0}, 1).first);
  CHECK(after({.step = PinnStep::LineSearch, .factor_decay = 0, .momentum = 0}, 2).first != plain);
  CHECK(after({.step = PinnStep::LineSearch, .factor_decay = 0, .momentum = 0}, 1).first ==
        after({.step = PinnStep::LineSearch, .momentum = 0}, 1).first);
  const auto [all, tried] = after(
      {.step = PinnStep::LineSearch,
       .momentum = 0,
       .line_search = {.largest = 4, .ratio = 0.25, .points = 9, .choice = LineSearchChoice::Best}},
      1);
  CHECK(tried.evaluations == 9);
  const double power = std::log2(tried.learning_rate / 4) / std::log2(0.25);
  CHECK(power == Approx(std::round(power)).margin(1e-12));
  const auto first = after({.step = PinnStep::LineSearch, .momentum = 0}, 1).second;
  const auto weighted =
      after(
          {.step = PinnStep::LineSearch, .momentum = 0, .interior_weight = 2, .boundary_weight = 5},
          1)
          .second;
  CHECK(weighted.interior_loss == Approx(2 * first.interior_loss));
  CHECK(weighted.boundary_loss == Approx(5 * first.boundary_loss));

  // The momentum of two steps: the direction of the second has what is kept of the first.
  PinnProblem problem(8);
  PinnOptimizer optimizer(problem.residual, problem.model,
                          {.step = PinnStep::LineSearch, .damping = 1e-3, .momentum = 0.6});
  const Vector<double> start = flat_parameters(problem.model);
  const auto one = optimizer.step(problem.interior, problem.boundary);
  const Vector<double> middle = flat_parameters(problem.model);
  const DensePinn at(problem, 1, 1);
  const auto two = optimizer.step(problem.interior, problem.boundary);
  REQUIRE(one.learning_rate * two.learning_rate > 0);
  const Vector<double> expected = two.learning_rate * (direction(optimizer, at.gradient, 1e-3) +
                                                       0.6 * (middle - start) / one.learning_rate);
  CHECK(relative_error((flat_parameters(problem.model) - middle).eval(), expected) < 1e-8);
}

TEST_CASE("PinnOptimizer: a restored run goes on as the other did") {
  PinnProblem problem(9);
  PinnOptimizer optimizer(problem.residual, problem.model);
  for (int step = 0; step < 3; ++step) optimizer.step(problem.interior, problem.boundary);
  const SavedState state(optimizer);
  const Vector<double> parameters = flat_parameters(problem.model);
  optimizer.step(problem.interior, problem.boundary);
  const Vector<double> expected = flat_parameters(problem.model);

  PinnOptimizer resumed(problem.residual, problem.model);
  set_flat_parameters(problem.model, parameters);
  state.restore(resumed);
  resumed.step(problem.interior, problem.boundary);
  CHECK(flat_parameters(problem.model) == expected);
  CHECK(resumed.steps() == 4);
}

TEST_CASE("PinnOptimizer: bad input is an exception or a status that changes nothing") {
  PinnProblem problem(10);
  auto& model = problem.model;
  auto& residual = problem.residual;
  const Points<double>& interior = problem.interior;
  const Points<double>& boundary = problem.boundary;
  PinnOptimizer optimizer(residual, model);
  Vector<double> before = flat_parameters(model);
  CHECK(message_of<ShapeError>([&] {
          optimizer.step({interior.inputs, interior.targets.leftCols(3)}, boundary);
        }) == "kfac::PinnOptimizer: 'interior.targets' has 3 columns, expected 12");
  CHECK(message_of<ShapeError>([&] {
          optimizer.step(interior, {boundary.inputs, Matrix<double>::Zero(2, 7)});
        }) == "kfac::PinnOptimizer: 'boundary.targets' is 2x7, expected 1x7");
  Points<double> bad = boundary;
  bad.targets(0, 3) = std::numeric_limits<double>::quiet_NaN();
  CHECK(message_of<ValueError>([&] { optimizer.step(interior, bad); }) ==
        "kfac::PinnOptimizer: 'boundary.targets' is nan at (0, 3), expected finite numbers");
  auto other = model;
  CHECK(message_of<ValueError>([&] {
          PinnOptimizer wrong(residual, other);
        }).starts_with("kfac::PinnOptimizer: 'boundary' has parameters of its own"));
  CHECK_THROWS_AS(PinnOptimizer(residual, residual), ValueError);
  CHECK(flat_parameters(model) == before);
  CHECK(optimizer.steps() == 0);

  const auto refused = [&](PinnOptions<double> options) {
    return message_of<OptionError>([&] { PinnOptimizer wrong(residual, model, options); });
  };
  CHECK(refused({.damping = 0}) == "kfac::PinnOptimizer: 'damping' is 0, expected > 0 and finite");
  CHECK(refused({.damping_retries = -1}) ==
        "kfac::PinnOptimizer: 'damping_retries' is -1, expected >= 0");
  CHECK(refused({.factor_decay = 1}) ==
        "kfac::PinnOptimizer: 'factor_decay' is 1, expected in [0, 1)");
  CHECK(refused({.momentum = -1}) == "kfac::PinnOptimizer: 'momentum' is -1, expected in [0, 1)");
  CHECK(refused({.line_search = {.ratio = 1}}) ==
        "kfac::PinnOptimizer: 'line_search.ratio' is 1, expected in (0, 1)");
  CHECK(refused({.interior_weight = 0}) ==
        "kfac::PinnOptimizer: 'interior_weight' is 0, expected > 0 and finite");
  CHECK(refused({.boundary_weight = -1}) ==
        "kfac::PinnOptimizer: 'boundary_weight' is -1, expected > 0 and finite");

  const double needed = pinn_memory(residual, 12, model, 7, 2).total();
  CHECK(needed > 5000);
  PinnOptimizer small(residual, model, {.memory_limit = needed - 1});
  CHECK(message_of<MemoryError>([&] {
          small.step(interior, boundary);
        }).starts_with("kfac::PinnOptimizer: 'memory_limit' is "));
  PinnOptimizer enough(residual, model, {.memory_limit = needed});
  CHECK(enough.step(interior, boundary).ok());

  model.layers()[4].parameters(0) = 1e200;
  before = flat_parameters(model);
  CHECK(optimizer.step(interior, boundary).status == StepStatus::NonFiniteLoss);
  CHECK(flat_parameters(model) == before);
}

}  // namespace kfac::test::pinn_options_test
