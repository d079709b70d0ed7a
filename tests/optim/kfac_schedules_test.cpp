#include <cmath>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <kfac/curvature/ekfac_block.hpp>
#include <kfac/optim/kfac_optimizer.hpp>

#include "support/catch.hpp"
#include "support/eigensolver.hpp"
#include "support/message_of.hpp"
#include "support/networks.hpp"
#include "support/saved_state.hpp"

namespace kfac::test::kfac_schedules_test {

namespace {

using Net = Sequential<Linear<double>, Tanh<double>, Linear<double>>;
using Loss = MeanSquaredError<double>;
using Optimizer = KfacOptimizer<Net, Loss>;
using Options = KfacOptions<double>;

Net network(Rng& rng) {
  return Net(Linear<double>(3, 4, rng), Tanh<double>{}, Linear<double>(4, 2, rng));
}

struct Batch {
  Matrix<double> x, y;
  explicit Batch(Rng& rng) : x(random_matrix(3, 6, rng)), y(random_matrix(2, 6, rng)) {}
};

/// A schedule's field of the options, with a value to start with and one to go to.
struct Field {
  const char* name;
  std::function<void(Options&, bool second)> set;           // a constant: the one or the other
  std::function<void(Options&, Index from)> set_switch;     // to the second from a step on
  std::function<void(Options&, Index from)> set_bad;        // out of range from a step on
  std::function<void(Options&)> prepare = [](Options&) {};  // for it to have an effect
};

template <class T>
Field field(
    const char* name, Schedule<T> Options::*member, T first, T second, T bad,
    std::function<void(Options&)> prepare = [](Options&) {}) {
  const auto step_to = [member, first](Options& options, Index from, T value) {
    options.*member = [=](Index step) { return step < from ? first : value; };
  };
  return {name, [=](Options& o, bool is_second) { o.*member = is_second ? second : first; },
          [=](Options& o, Index from) { step_to(o, from, second); },
          [=](Options& o, Index from) { step_to(o, from, bad); }, std::move(prepare)};
}

std::vector<Field> fields() {
  const auto adam = [](Options& o) { o.momentum_type = MomentumType::Adam; };
  const auto one_basis = [](Options& o) { o.inverse_every = 100; };
  return {field<double>("learning_rate", &Options::learning_rate, 0.1, 0.2, 0),
          field<double>("momentum", &Options::momentum, 0.9, 0.5, 1),
          field<double>("second_moment_decay", &Options::second_moment_decay, 0.9, 0.5, -0.1, adam),
          field<double>("epsilon", &Options::epsilon, 1e-3, 1e-1, 0, adam),
          field<double>("damping", &Options::damping, 0.1, 0.5, -1),
          field<double>("kl_clip", &Options::kl_clip, 1e3, 1e-4, -1),
          field<double>("norm_constraint", &Options::norm_constraint, 0, 1e-4, -1),
          field<double>("gradient_clip", &Options::gradient_clip, 0, 1e-3, -1),
          field<double>("weight_decay", &Options::weight_decay, 0, 0.3, -1),
          field<double>("factor_decay", &Options::factor_decay, 0.95, 0.1, 1),
          field<double>("factor_fraction", &Options::factor_fraction, 1, 0.4, 0),
          field<Index>("factor_every", &Options::factor_every, 1, 3, 0),
          field<Index>("inverse_every", &Options::inverse_every, 1, 3, 0),
          field<Index>("moments_every", &Options::moments_every, 1, 3, 0, one_basis)};
}

/// The parameters after each step.
std::vector<Vector<double>> trajectory(const Options& options) {
  Rng rng(3);
  Net model = network(rng);
  Optimizer optimizer(model, Loss(), options, block_factory<EkfacBlock<double>>());
  std::vector<Vector<double>> result;
  for (int step = 0; step < 8; ++step) {
    const Batch batch(rng);
    REQUIRE(optimizer.step(batch.x, batch.y).ok());
    result.push_back(parameters(model));
  }
  return result;
}

Options scheduled_base(const Field& field) {
  Options options{.learning_rate = 0.1};
  options.inverse_every = 1;
  options.kl_clip = 0;
  field.prepare(options);
  field.set(options, false);
  return options;
}

}  // namespace

TEST_CASE("KfacOptimizer: a schedule of any option is its constant while it is constant") {
  constexpr Index kSwitch = 3;
  for (const Field& field : fields()) {
    CAPTURE(field.name);
    Options options = scheduled_base(field);
    const auto constant = trajectory(options);
    field.set_switch(options, 1000);
    CHECK(trajectory(options) == constant);
    field.set_switch(options, kSwitch);
    const auto switched = trajectory(options);
    for (std::size_t step = 0; step < kSwitch; ++step) CHECK(switched[step] == constant[step]);
    CHECK((switched.back() - constant.back()).norm() > 1e-7);
    // From the start on the second value is something else than from that step on.
    field.set(options, true);
    CHECK((trajectory(options).back() - switched.back()).norm() > 1e-7);
    Options other = options;
    field.set_switch(other, 0);
    CHECK(trajectory(other) == trajectory(options));
  }
}

TEST_CASE(
    "KfacOptimizer: a schedule out of range is named with the step, and all stays as it was") {
  constexpr Index kBad = 2;
  for (const Field& field : fields()) {
    CAPTURE(field.name);
    Options options = scheduled_base(field);
    // Another schedule moves at that step, too.
    if (std::string(field.name) != "damping")
      options.damping = [](Index step) { return 0.1 * static_cast<double>(1 + step); };
    field.set_bad(options, kBad);
    Rng rng(4);
    Net model = network(rng);
    Optimizer optimizer(model, Loss(), options, block_factory<EkfacBlock<double>>());
    for (Index step = 0; step < kBad; ++step) {
      const Batch batch(rng);
      REQUIRE(optimizer.step(batch.x, batch.y).ok());
    }
    const Vector<double> before = parameters(model);
    const SavedState state(optimizer);
    const Batch batch(rng);
    const std::string message = message_of<OptionError>([&] { optimizer.step(batch.x, batch.y); });
    CHECK(message.find(std::string("'") + field.name + "' is ") != std::string::npos);
    CHECK(message.find(" at step 2, expected ") != std::string::npos);
    CHECK((parameters(model).array() == before.array()).all());
    CHECK(SavedState(optimizer) == state);
    CHECK(optimizer.steps() == kBad);

    // At the start it is found before there is an optimizer.
    field.set_bad(options, 0);
    const std::string at_start = message_of<OptionError>(
        [&] { Optimizer(model, Loss(), options, block_factory<EkfacBlock<double>>()); });
    CHECK(at_start.find(std::string("'") + field.name + "' is ") != std::string::npos);
  }
}

TEST_CASE("KfacOptimizer: a batch that does not fit leaves a scheduled damping as it was") {
  Rng rng(5);
  Net model = network(rng);
  Options options;
  options.damping = [](Index step) { return 0.1 * static_cast<double>(1 + step); };
  Optimizer optimizer(model, Loss(), options);
  const Batch batch(rng);
  REQUIRE(optimizer.step(batch.x, batch.y).ok());
  const SavedState state(optimizer);
  CHECK_THROWS_AS(optimizer.step(batch.x.topRows(2), batch.y), ShapeError);
  CHECK(optimizer.damping() == 0.1);
  CHECK(SavedState(optimizer) == state);
}

TEST_CASE("KfacOptimizer: a damping set by hand is in place of what a schedule would give") {
  Rng rng(6);
  Net model = network(rng);
  Options options;
  options.damping = [](Index step) { return step < 1 ? 0.1 : -1.0; };
  Optimizer optimizer(model, Loss(), options);
  const Batch batch(rng);
  REQUIRE(optimizer.step(batch.x, batch.y).ok());
  CHECK_THROWS_AS(optimizer.step(batch.x, batch.y), OptionError);
  optimizer.set_damping(0.3);
  const StepReport<double>& report = optimizer.step(batch.x, batch.y);
  REQUIRE(report.ok());
  CHECK(report.damping == 0.3);
}

}  // namespace kfac::test::kfac_schedules_test
