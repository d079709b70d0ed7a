#include <cmath>
#include <string>
#include <utility>

#include <kfac/curvature/parameter_block.hpp>
#include <kfac/scientific/pinn_optimizer.hpp>

#include "support/catch.hpp"
#include "support/eigensolver.hpp"
#include "support/exact.hpp"
#include "support/pinn_direction.hpp"
#include "support/pinn_problem.hpp"

namespace kfac::test::pinn_optimizer_test {

TEST_CASE("PinnOptimizer: both terms have the factors of their announced vectors") {
  PinnProblem problem(1);
  PinnOptimizer optimizer(problem.residual, problem.model,
                          {.interior_weight = 3.0, .boundary_weight = 0.5});
  auto layers = problem.residual.layers();
  struct Listener : Observer<double> {
    Matrix<double> a, g;
    void on_input(const std::string&, const SharedBatch<double>& x) override { a = x.matrix(); }
    void on_output_gradient(const std::string&, const SharedBatch<double>& x) override {
      g = x.matrix();
    }
  };
  Listener interior, boundary;
  layers[2].hooks->attach(interior);
  problem.model.layers()[2].hooks->attach(boundary);
  problem.residual.forward(problem.interior.inputs);
  problem.residual.backward(Matrix<double>::Ones(1, 12));
  problem.model.forward(problem.boundary.inputs);
  problem.model.backward(Matrix<double>::Ones(1, 7));
  const Matrix<double> heard = interior.a;
  optimizer.step(problem.interior, problem.boundary);
  CHECK(interior.a == heard);  // others hear nothing of the optimizer's passes

  const auto [first, second] = optimizer.factors(2, 0.0);
  CHECK(relative_error(first.a, (interior.a * interior.a.transpose() / 48).eval()) < 1e-14);
  CHECK(relative_error(first.g, (3 * interior.g * interior.g.transpose() / 12).eval()) < 1e-14);
  Matrix<double> augmented(6, 7);
  augmented << boundary.a, Matrix<double>::Ones(1, 7);
  CHECK(relative_error(second.a, (augmented * augmented.transpose() / 7).eval()) < 1e-14);
  CHECK(relative_error(second.g, (0.5 * boundary.g * boundary.g.transpose() / 7).eval()) < 1e-14);
}

TEST_CASE("PinnOptimizer: the direction is the dense inverse of the sum of two damped products") {
  for (const double damping : {1e-2, 1e-6}) {
    PinnProblem problem(2);
    const DensePinn at(problem, 1, 2);
    const Vector<double> before = flat_parameters(problem.model);
    PinnOptimizer optimizer(
        problem.residual, problem.model,
        {.step = PinnStep::LineSearch, .damping = damping, .momentum = 0, .boundary_weight = 2.0});
    const auto& report = optimizer.step(problem.interior, problem.boundary);
    REQUIRE(report.ok());
    REQUIRE(report.learning_rate > 0);
    CHECK(report.loss == Approx(at.loss).epsilon(1e-13));
    CHECK(report.loss == report.interior_loss + report.boundary_loss);
    const Vector<double> change = flat_parameters(problem.model) - before;
    const Vector<double> expected =
        report.learning_rate * direction(optimizer, at.gradient, damping);
    CHECK(relative_error(change, expected) < 1e-8);
    CHECK(optimizer.loss(problem.interior, problem.boundary) < report.loss);
  }
}

TEST_CASE("PinnOptimizer: length and momentum minimise the dense quadratic model") {
  PinnProblem problem(3);
  // Damping so large that the model is right.
  constexpr double kDamping = 0.3;
  PinnOptimizer optimizer(problem.residual, problem.model, {.damping = kDamping});
  Vector<double> velocity = Vector<double>::Zero(problem.model.parameter_count());
  for (int step = 0; step < 4; ++step) {
    const DensePinn at(problem, 1, 1);
    const Vector<double> before = flat_parameters(problem.model);
    const auto& report = optimizer.step(problem.interior, problem.boundary);
    REQUIRE(report.ok());
    REQUIRE(report.evaluations == 1);
    Matrix<double> v(before.size(), 2);
    v << direction(optimizer, at.gradient, kDamping), velocity;
    Matrix<double> model = v.transpose() * at.ggn * v + kDamping * v.transpose() * v;
    if (step == 0) model(1, 1) = 1;
    const Vector<double> w = -model.ldlt().solve(v.transpose() * at.gradient);
    CHECK(report.learning_rate == Approx(w(0)).epsilon(1e-9));
    CHECK(report.momentum == Approx(w(1)).epsilon(1e-9).margin(1e-12));
    const Vector<double> change = v * w;
    CHECK(relative_error((flat_parameters(problem.model) - before).eval(), change) < 1e-9);
    CHECK(report.predicted_change ==
          Approx(change.dot(at.gradient) + 0.5 * change.dot(at.ggn * change)).epsilon(1e-9));
    velocity = change;
  }
}

TEST_CASE("PinnOptimizer: in single precision") {
  PinnProblem<float> problem(11);
  PinnOptimizer optimizer(problem.residual, problem.model, {.damping = 1e-5f});
  const float before = optimizer.loss(problem.interior, problem.boundary);
  for (int step = 0; step < 30; ++step)
    REQUIRE(optimizer.step(problem.interior, problem.boundary).ok());
  CHECK(optimizer.loss(problem.interior, problem.boundary) < 0.5f * before);
}

}  // namespace kfac::test::pinn_optimizer_test
