#include <kfac/optim/parameter_step.hpp>

#include "optim/toy.hpp"
#include "support/catch.hpp"

namespace kfac::test::parameter_step_test {

using kfac::Index;
using kfac::LayerView;
using kfac::ParameterStep;
using kfac::StepStatus;
using kfac::Vector;

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

}  // namespace

TEST_CASE("ParameterStep: a step is added to the parameters, layer by layer", "[optim]") {
  auto model = toy_network();
  ParameterStep<double> step(model);
  const Vector<double> before = parameters_of(model);
  write_gradient(model, 1);
  REQUIRE(step.begin(0.75));
  step.delta() = Vector<double>::LinSpaced(before.size(), -1, 1);
  const Vector<double> delta = step.delta();
  REQUIRE(step.finish());

  CHECK(parameters_of(model) == before + delta);
  const auto& report = step.report();
  CHECK(report.ok());
  CHECK(report.layer.empty());
  CHECK(report.loss == 0.75);
  CHECK(report.kl_scale == 1);
  CHECK(report.gradient_norm == Approx(model.gradient().norm()));
  CHECK(report.step_norm == Approx(delta.norm()));
  // Twelve parameters in layer 0, none in 1, twelve in 2.
  REQUIRE(before.size() == 24);
  REQUIRE(report.layer_step_norms.size() == 3);
  CHECK(report.layer_step_norms[0] == Approx(delta.head(12).norm()));
  CHECK(report.layer_step_norms[1] == 0);
  CHECK(report.layer_step_norms[2] == Approx(delta.tail(12).norm()));
}

TEST_CASE("ParameterStep: layers come with where their parameters lie", "[optim]") {
  auto model = toy_network();
  const ParameterStep<double> step(model);
  std::vector<std::string> names;
  std::vector<Index> offsets;
  step.for_each_layer([&](const LayerView<double>& layer, Index offset) {
    names.push_back(layer.name);
    offsets.push_back(offset);
  });
  CHECK(names == std::vector<std::string>{"0", "1", "2"});
  CHECK(offsets == std::vector<Index>{0, 12, 12});
}

TEST_CASE("ParameterStep: multiples of the parameters are added to a flat vector", "[optim]") {
  auto model = toy_network();
  const ParameterStep<double> step(model);
  Vector<double> flat = Vector<double>::Ones(24);
  step.add_parameters(0.5, flat);
  CHECK(distance(flat, 0.5 * parameters_of(model) + Vector<double>::Ones(24)) < 1e-15);
}

TEST_CASE("ParameterStep: a loss that is not given is none", "[optim]") {
  auto model = toy_network();
  ParameterStep<double> step(model);
  CHECK(step.begin({}));
  CHECK(std::isnan(step.report().loss));
}

TEST_CASE("ParameterStep: a loss that is not finite ends the step", "[optim]") {
  auto model = toy_network();
  ParameterStep<double> step(model);
  const double loss = GENERATE(as<double>{}, kNaN, std::numeric_limits<double>::infinity());
  CHECK_FALSE(step.begin(loss));
  CHECK(step.report().status == StepStatus::NonFiniteLoss);
  CHECK(std::isnan(step.report().loss) == std::isnan(loss));
}

TEST_CASE("ParameterStep: the first layer whose gradient is not finite is named", "[optim]") {
  auto model = toy_network();
  ParameterStep<double> step(model);
  model.gradient().setOnes();
  model.gradient()(12) = std::numeric_limits<double>::infinity();
  CHECK_FALSE(step.begin({}));
  CHECK(step.report().status == StepStatus::NonFiniteGradient);
  CHECK(step.report().layer == "2");
  model.gradient()(11) = kNaN;
  CHECK_FALSE(step.begin({}));
  CHECK(step.report().layer == "0");
}

TEST_CASE("ParameterStep: the first layer whose step is not finite is named, and none is taken",
          "[optim]") {
  auto model = toy_network();
  ParameterStep<double> step(model);
  const Vector<double> before = parameters_of(model);
  REQUIRE(step.begin({}));
  step.delta().setOnes();
  step.delta()(23) = kNaN;
  CHECK_FALSE(step.finish());
  CHECK(step.report().status == StepStatus::NonFiniteStep);
  CHECK(step.report().layer == "2");
  CHECK(step.report().step_norm == 0);
  CHECK(step.report().layer_step_norms == std::vector<double>(3, 0));
  CHECK(parameters_of(model) == before);
}

TEST_CASE("ParameterStep: the next report forgets the failure before it", "[optim]") {
  auto model = toy_network();
  ParameterStep<double> step(model);
  model.gradient().setConstant(kNaN);
  REQUIRE_FALSE(step.begin(2.0));
  model.gradient().setZero();
  REQUIRE(step.begin({}));
  CHECK(step.report().ok());
  CHECK(step.report().layer.empty());
  CHECK(std::isnan(step.report().loss));
}

TEST_CASE("ParameterStep: a finite gradient is not refused because its squares overflow",
          "[optim]") {
  auto model = toy_network<float>();
  ParameterStep<float> step(model);
  model.gradient().setConstant(1e25f);
  REQUIRE(step.begin({}));
  CHECK(step.report().gradient_norm == Approx(1e25 * std::sqrt(24.0)));
  step.delta().setConstant(-1e25f);
  REQUIRE(step.finish());
  CHECK(step.report().step_norm == Approx(1e25 * std::sqrt(24.0)));
  CHECK(step.report().layer_step_norms[2] == Approx(1e25 * std::sqrt(12.0)));
}

TEST_CASE("StepStatus: each has words of its own", "[optim]") {
  std::vector<std::string> words;
  for (const StepStatus status :
       {StepStatus::Ok, StepStatus::NonFiniteLoss, StepStatus::NonFiniteGradient,
        StepStatus::NonFiniteFactor, StepStatus::FactorizationFailed, StepStatus::NonFiniteStep})
    words.emplace_back(kfac::describe(status));
  CHECK(words == std::vector<std::string>{"ok", "the loss is not finite",
                                          "the gradient is not finite",
                                          "a Kronecker factor is not finite",
                                          "a damped Kronecker factor is not positive definite",
                                          "the step is not finite"});
}

}  // namespace kfac::test::parameter_step_test
