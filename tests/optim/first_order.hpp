#pragma once

#include <limits>
#include <string>

#include <kfac/core/schedule.hpp>

#include "optim/toy.hpp"
#include "support/catch.hpp"
#include "support/saved_state.hpp"

/// What `Sgd`, `Adam`, `AdamW` and `RmsProp` have in common, to be checked for each.
namespace kfac::test {

inline bool is_bias(const LayerView<double>&, const ParameterInfo& parameter) {
  return parameter.name == "bias";
}

template <class Rule, class Options>
void check_state(const Options& options) {
  auto model = toy_network();
  Rule rule(model, options);
  const auto take = [&](Rule& taker, ToyNetwork<>& of, int step) {
    write_gradient(of, step);
    REQUIRE(taker.step().ok());
  };
  for (int step = 1; step <= 3; ++step) take(rule, model, step);
  const SavedState saved(rule);

  ToyNetwork<> resumed = model;
  Rule other(resumed, options);
  saved.restore(other);
  CHECK(other.steps() == 3);
  for (int step = 4; step <= 6; ++step) {
    take(rule, model, step);
    take(other, resumed, step);
  }
  CHECK(parameters_of(resumed) == parameters_of(model));
  CHECK(other.steps() == 6);
}

/// `options` without weight decay.
template <class Rule, class Options>
void check_first_order(const Options& options, const std::string& where) {
  auto model = toy_network();
  write_gradient(model, 1);
  const Vector<double> gradient = model.gradient();
  const Vector<double> before = parameters_of(model);

  SECTION("the report tells what was done") {
    Rule rule(model, options);
    rule.step();
    const auto& report = rule.step(0.5);
    CHECK(report.step == 1);
    CHECK(report.loss == 0.5);
    CHECK(report.learning_rate == options.learning_rate(1));
    CHECK(report.gradient_norm == Approx(gradient.norm()).epsilon(1e-14));
    CHECK(report.gradient_scale == 1);
    CHECK(report.layer_gradient_norms.at(0) == Approx(gradient.head(12).norm()).epsilon(1e-14));
    CHECK(report.layer_gradient_norms.at(1) == 0);
    CHECK(report.layer_gradient_norms.at(2) == Approx(gradient.tail(12).norm()).epsilon(1e-14));
    CHECK(std::isnan(report.damping));
    CHECK(report.seconds.update > 0);
    CHECK(report.seconds.total() == report.seconds.update);
    CHECK(rule.steps() == 2);
  }
  SECTION("a clipped gradient acts as a shorter one, and is left as it was") {
    auto shorter = toy_network();
    auto clipped = options;
    clipped.gradient_clip = 0.25 * gradient.norm();
    Rule rule(model, clipped);
    Rule reference(shorter, options);
    for (int step = 0; step < 2; ++step) {
      CHECK(rule.step().gradient_scale == Approx(0.25).epsilon(1e-14));
      shorter.gradient() = 0.25 * gradient;
      reference.step();
    }
    CHECK(model.gradient() == gradient);
    CHECK(distance(parameters_of(model), parameters_of(shorter)) < 1e-14);

    clipped.gradient_clip = 1.01 * gradient.norm();
    auto long_enough = toy_network();
    Rule unclipped(long_enough, clipped);
    long_enough.gradient() = gradient;
    CHECK(unclipped.step().gradient_scale == 1);
  }
  SECTION("parameters without weight decay are stepped as if there were none") {
    auto decaying = options;
    decaying.weight_decay = 0.5;
    auto excluding = decaying;
    excluding.decays = [](const auto& layer, const auto& parameter) {
      return !is_bias(layer, parameter);
    };
    const auto stepped = [&](const Options& with) {
      auto fresh = toy_network();
      Rule rule(fresh, with);
      for (int step = 0; step < 2; ++step) {
        fresh.gradient() = gradient;
        rule.step();
      }
      return parameters_of(fresh);
    };
    const Vector<double> plain = stepped(options), all = stepped(decaying);
    const Vector<double> some = stepped(excluding);
    // Layer "0" is a 4 x 2 weight, then a bias of 4.
    CHECK(some.segment(8, 4) == plain.segment(8, 4));
    CHECK(some.head(8) == all.head(8));
    CHECK(some.tail(12) == all.tail(12));
    CHECK((all - plain).cwiseAbs().minCoeff() > 1e-6);
  }
  SECTION("a schedule out of range throws and changes nothing") {
    auto scheduled = options;
    scheduled.learning_rate = [](Index step) { return step == 1 ? -1.0 : 0.1; };
    Rule rule(model, scheduled);
    rule.step(0.5);
    const Vector<double> after = parameters_of(model);
    const SavedState saved(rule);
    CHECK_THROWS_AS(rule.step(0.25), OptionError);
    CHECK_THROWS_WITH(rule.step(0.25), where +
                                           ": 'learning_rate' is -1 at step 1, expected > 0 "
                                           "and finite");
    CHECK(parameters_of(model) == after);
    CHECK(SavedState(rule) == saved);

    auto twin = toy_network();
    Rule untouched(twin, options);
    rule.set_learning_rate(0.1);
    untouched.set_learning_rate(0.1);
    for (int step = 0; step < 2; ++step) {
      twin.gradient() = gradient;
      untouched.step();
    }
    rule.step();
    CHECK(parameters_of(model) == parameters_of(twin));
  }
  SECTION("a schedule out of range at step 0 is not taken") {
    auto scheduled = options;
    scheduled.gradient_clip = [](Index step) { return static_cast<double>(step) - 1; };
    CHECK_THROWS_WITH(Rule(model, scheduled),
                      where + ": 'gradient_clip' is -1 at step 0, expected >= 0 and finite");
    scheduled = options;
    scheduled.weight_decay = std::numeric_limits<double>::infinity();
    CHECK_THROWS_WITH(Rule(model, scheduled),
                      where + ": 'weight_decay' is inf, expected >= 0 and finite");
  }
  SECTION("a schedule can be set at any step, and is asked from there on") {
    Rule rule(model, options);
    rule.step();
    const auto from_one = [](Index step) { return step == 0 ? -1.0 : 0.25; };
    rule.set_learning_rate(from_one);
    CHECK(rule.step().learning_rate == 0.25);
    const auto until_one = [](Index step) { return step < 2 ? 0.5 : 0.0; };
    CHECK_THROWS_WITH(rule.set_learning_rate(until_one),
                      where + ": 'learning_rate' is 0 at step 2, expected > 0 and finite");
    CHECK(rule.options().learning_rate(2) == 0.25);
  }
  SECTION("a step that fails remembers nothing") {
    Rule rule(model, options);
    rule.step();
    const SavedState saved(rule);
    CHECK_FALSE(rule.step(std::numeric_limits<double>::quiet_NaN()).ok());
    rule.set_learning_rate(std::numeric_limits<double>::max());
    model.gradient()(0) = 1e3;
    CHECK(rule.step().status == StepStatus::NonFiniteStep);
    CHECK(SavedState(rule) == saved);
  }
  SECTION("a run that is resumed takes the same steps to the last bit") {
    check_state<Rule>(options);
  }
}

}  // namespace kfac::test
