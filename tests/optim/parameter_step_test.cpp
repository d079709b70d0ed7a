#include <kfac/nn/conv.hpp>
#include <kfac/nn/flatten.hpp>
#include <kfac/optim/parameter_step.hpp>

#include "optim/toy.hpp"
#include "support/catch.hpp"

namespace kfac::test::parameter_step_test {

using kfac::Index;
using kfac::LayerView;
using kfac::ParameterInfo;
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

TEST_CASE("ParameterStep: weight decay is for the parameters that are picked", "[optim][exact]") {
  Rng rng(11);
  auto model = Sequential{
      Conv2d<double>({.in_channels = 4, .out_channels = 6, .kernel_size = {1, 1}, .groups = 2},
                     rng),
      Flatten<double>{}, Linear<double>(6, 2, rng), Linear<double>(2, 2, rng, {.bias = false})};
  ParameterStep<double> step(model);
  const Vector<double> parameters = parameters_of(model);
  const Vector<double> a = Vector<double>::LinSpaced(parameters.size(), -1, 2);
  const Vector<double> b = Vector<double>::LinSpaced(parameters.size(), 3, 1);

  // Of each parameter, by its definition.
  kfac::ParameterPredicate<double> picked;
  SECTION("all by default") {}
  SECTION("all but biases") {
    picked = [](const auto&, const auto& parameter) { return !parameter.name.starts_with("bias"); };
  }
  SECTION("biases only") {
    picked = [](const auto&, const auto& parameter) { return parameter.name.starts_with("bias"); };
  }
  SECTION("of one layer") {
    picked = [](const auto& layer, const auto&) { return layer.name == "2"; };
  }
  SECTION("none") {
    picked = [](const auto&, const auto&) { return false; };
  }
  Vector<double> mask = Vector<double>::Zero(parameters.size());
  step.for_each_layer([&](const LayerView<double>& layer, Index offset) {
    for (const ParameterInfo& parameter : layer.parameter_info)
      if (!picked || picked(layer, parameter))
        mask.segment(offset + parameter.offset, parameter.rows * parameter.columns).setOnes();
  });

  step.set_decayed(picked);
  Vector<double> flat = a;
  step.add_parameters(0.5, flat);
  CHECK(distance(flat, a + 0.5 * mask.cwiseProduct(parameters)) < 1e-15);
  CHECK(step.decayed_dot(a, b) == Approx(mask.cwiseProduct(a).dot(b)).epsilon(1e-14));
  CHECK(step.decayed_squared_norm(a) == Approx(mask.cwiseProduct(a).squaredNorm()).epsilon(1e-14));
  CHECK(step.parameters_squared_norm() ==
        Approx(mask.cwiseProduct(parameters).squaredNorm()).epsilon(1e-14));

  step.set_decayed({});
  CHECK(step.decayed_squared_norm(a) == Approx(a.squaredNorm()).epsilon(1e-14));
}

TEST_CASE("ParameterStep: squares of float parameters are summed in double", "[optim]") {
  auto model = toy_network<float>();
  ParameterStep<float> step(model);
  Vector<float> flat = Vector<float>::Constant(24, 1e-2f);
  flat(0) = 100;
  const double expected = 1e4 + 23 * static_cast<double>(1e-2f) * static_cast<double>(1e-2f);
  CHECK(step.decayed_squared_norm(flat) == static_cast<float>(expected));
}

TEST_CASE("ParameterStep: the norms of the gradient are reported, layer by layer", "[optim]") {
  auto model = toy_network();
  ParameterStep<double> step(model);
  write_gradient(model, 1);
  const Vector<double> gradient = model.gradient();
  REQUIRE(step.begin({}, 17));
  const auto& report = step.report();
  CHECK(report.step == 17);
  CHECK(report.gradient_norm == Approx(gradient.norm()).epsilon(1e-14));
  REQUIRE(report.layer_gradient_norms.size() == 3);
  CHECK(report.layer_gradient_norms[0] == Approx(gradient.head(12).norm()).epsilon(1e-14));
  CHECK(report.layer_gradient_norms[1] == 0);
  CHECK(report.layer_gradient_norms[2] == Approx(gradient.tail(12).norm()).epsilon(1e-14));

  CHECK_FALSE(step.begin(kNaN));
  CHECK(std::isnan(report.gradient_norm));
  for (const double norm : report.layer_gradient_norms) CHECK(std::isnan(norm));
}

TEST_CASE("ParameterStep: a gradient that is too long is to be scaled", "[optim]") {
  auto model = toy_network();
  ParameterStep<double> step(model);
  model.gradient().setZero();
  REQUIRE(step.begin({}));
  CHECK(step.clip(0.5) == 1);
  model.gradient()(3) = 4;
  model.gradient()(20) = -3;
  REQUIRE(step.begin({}));
  CHECK(step.clip(0) == 1);
  CHECK(step.clip(5) == 1);
  CHECK(step.report().gradient_scale == 1);
  CHECK(step.clip(0.5) == 0.1);
  CHECK(step.report().gradient_scale == 0.1);
  CHECK(model.gradient()(3) == 4);
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
  step.report().kl_scale = 0.5;
  step.report().damping = 1;
  step.report().rejected = true;
  step.report().seconds.update = 1;
  model.gradient().setZero();
  REQUIRE(step.begin({}));
  CHECK(step.report().ok());
  CHECK(step.report().layer.empty());
  CHECK(std::isnan(step.report().loss));
  CHECK(step.report().kl_scale == 1);
  CHECK(std::isnan(step.report().damping));
  CHECK_FALSE(step.report().rejected);
  CHECK(step.report().seconds.total() == 0);
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
