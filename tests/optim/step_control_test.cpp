#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "optim/dense_objective.hpp"
#include "support/catch.hpp"
#include "support/message_of.hpp"
#include "support/saved_state.hpp"

namespace kfac::test::step_control_test {

namespace {

using Net = Sequential<Linear<double>, Tanh<double>, Linear<double>>;
using Loss = MeanSquaredError<double>;
using Optimizer = KfacOptimizer<Net, Loss>;

Net network(Rng& rng) {
  return Net(Linear<double>(3, 4, rng), Tanh<double>{}, Linear<double>(4, 2, rng));
}

struct Batch {
  Matrix<double> x, y;
  explicit Batch(Rng& rng) : x(random_matrix(3, 6, rng)), y(random_matrix(2, 6, rng)) {}
};

/// The parameters' bits: -0 is not 0, and a NaN is itself.
std::vector<std::uint64_t> bits(Net& model) {
  std::vector<std::uint64_t> result;
  for (const double value : parameters(model))
    result.push_back(std::bit_cast<std::uint64_t>(value));
  return result;
}

/// What a step that overshoots does to the loss, at a rate that makes it.
KfacOptions<double> overshooting() {
  KfacOptions<double> options{.learning_rate = 60, .momentum = 0.5, .damping = 0.1};
  options.inverse_every = 1;
  options.kl_clip = 0;
  options.rejection.enabled = true;
  return options;
}

Vector<double> velocity_of(Optimizer& optimizer) {
  const SavedState state(optimizer);
  for (const auto& [name, entry] : state.entries())
    if (name.find("momentum") != std::string::npos && name.find("velocity") != std::string::npos) {
      const auto& values = std::get<SavedState::Array<double>>(entry).values;
      return ConstVectorMap<double>(values.data(), static_cast<Index>(values.size()));
    }
  FAIL("there is no velocity in the state");
  return {};
}

}  // namespace

TEST_CASE("KfacOptimizer: the KL clip meets its bound, with the learning rate inside") {
  constexpr double kDamping = 0.1, kDecay = 0.03;
  for (const double rate : {0.05, 0.5, 3.0})
    for (const double bound : {1e-4, 1e-2, 1e3}) {
      CAPTURE(rate, bound);
      Rng rng(1);
      Net model = network(rng);
      const Batch batch(rng);
      KfacOptions<double> options{.learning_rate = rate, .momentum = 0, .damping = kDamping};
      options.kl_clip = bound;
      options.weight_decay = kDecay;
      Optimizer optimizer(model, Loss(), options);
      const DenseObjective before(model, Loss(), batch.x, batch.y, kDecay);
      const StepReport<double>& report = optimizer.step(batch.x, batch.y);
      REQUIRE(report.ok());
      const Matrix<double> damped = dense_estimate(optimizer, model, kDamping + kDecay);
      const Vector<double> change = parameters(model) - before.theta;
      const double square = change.dot(damped * change);  // = rate^2 scale^2 v^T g
      const Vector<double> v = solve(damped, before.gradient);
      const double free = rate * rate * v.dot(before.gradient);
      CHECK(std::abs(square - std::min(free, bound)) < 1e-10 * bound);
      CHECK(report.kl_scale == Approx(std::min(1.0, std::sqrt(bound / free))).epsilon(1e-10));
      CHECK(report.learning_rate == rate);
    }
}

TEST_CASE("KfacOptimizer: the KL clip leaves the momentum's part of the change alone") {
  Rng rng(2);
  Net model = network(rng);
  KfacOptions<double> options{.learning_rate = 0.8, .momentum = 0.9, .damping = 0.1};
  options.inverse_every = 1;
  options.kl_clip = 1e-3;
  Optimizer optimizer(model, Loss(), options);
  Vector<double> last = Vector<double>::Zero(model.parameter_count());
  for (int step = 0; step < 4; ++step) {
    const Batch batch(rng);
    const DenseObjective before(model, Loss(), batch.x, batch.y);
    const StepReport<double>& report = optimizer.step(batch.x, batch.y);
    REQUIRE(report.kl_scale < 1);
    const Vector<double> v = solve(dense_estimate(optimizer, model, 0.1), before.gradient);
    last = 0.9 * last - 0.8 * std::sqrt(1e-3 / (0.64 * v.dot(before.gradient))) * v;
    CHECK(relative_error(parameters(model), Vector<double>(before.theta + last)) < 1e-10);
  }
}

TEST_CASE(
    "KfacOptimizer: the norm constraint bounds the whole change, as the estimate measures it") {
  for (const double bound : {1e-3, 1e3}) {
    Rng rng(3);
    Net model = network(rng);
    KfacOptions<double> options{.learning_rate = 0.7, .momentum = 0.8, .damping = 0.1};
    options.inverse_every = 1;
    options.kl_clip = 0;
    options.norm_constraint = bound;
    Optimizer optimizer(model, Loss(), options);
    Vector<double> last = Vector<double>::Zero(model.parameter_count());
    for (int step = 0; step < 5; ++step) {
      CAPTURE(bound, step);
      const Batch batch(rng);
      const DenseObjective before(model, Loss(), batch.x, batch.y);
      const StepReport<double>& report = optimizer.step(batch.x, batch.y);
      REQUIRE(report.ok());
      const Matrix<double> estimate = dense_estimate(optimizer, model, 0);
      Vector<double> change =
          0.8 * last - 0.7 * solve(dense_estimate(optimizer, model, 0.1), before.gradient);
      const double square = change.dot(estimate * change);
      const double scale = square > bound ? std::sqrt(bound / square) : 1.0;
      CHECK((scale < 1) == (bound < 1));
      CHECK(report.norm_scale == Approx(scale).epsilon(1e-10));
      change *= scale;
      last = parameters(model) - before.theta;
      CHECK(relative_error(last, change) < 1e-9);
      if (scale < 1) CHECK(last.dot(estimate * last) == Approx(bound).epsilon(1e-9));
    }
  }
}

TEST_CASE("KfacOptimizer: the norm constraint bounds what an adaptive rate and momentum made") {
  Rng rng(4);
  Net model = network(rng);
  KfacOptions<double> options;
  options.adaptive_learning_rate = options.adaptive_momentum = true;
  options.damping = 0.5;
  options.damping_adaptation.every = 1;
  options.inverse_every = 1;
  options.norm_constraint = 1e-3;
  Optimizer optimizer(model, Loss(), options);
  for (int step = 0; step < 3; ++step) {
    const Batch batch(rng);
    const DenseObjective before(model, Loss(), batch.x, batch.y);
    const StepReport<double>& report = optimizer.step(batch.x, batch.y);
    REQUIRE(report.norm_scale < 1);
    const Vector<double> change = parameters(model) - before.theta;
    const double square = change.dot(dense_estimate(optimizer, model, 0) * change);
    CHECK(square == Approx(1e-3).epsilon(1e-9));
    CHECK(report.predicted_change == Approx(before.change(change)).epsilon(1e-9));
    const DenseObjective after(model, Loss(), batch.x, batch.y);
    CHECK(report.reduction_ratio ==
          Approx((after.value - before.value) / before.change(change)).epsilon(1e-7));
  }
}

TEST_CASE("KfacOptimizer: bounds are safe where the gradient is zero") {
  Rng rng(5);
  Net model = network(rng);
  KfacOptions<double> options;
  options.norm_constraint = 1e-3;
  options.gradient_clip = 1e-3;
  options.adaptive_learning_rate = options.adaptive_momentum = true;
  Optimizer optimizer(model, Loss(), options);
  const Matrix<double> x = random_matrix(3, 6, rng);
  const Matrix<double> y = model.forward(x);
  const std::vector<std::uint64_t> before = bits(model);
  const StepReport<double>& report = optimizer.step(x, y);
  REQUIRE(report.ok());
  CHECK(report.kl_scale == 1);
  CHECK(report.norm_scale == 1);
  CHECK(report.gradient_scale == 1);
  CHECK(report.step_norm == 0);
  CHECK(bits(model) == before);
}

TEST_CASE("KfacOptimizer: the gradient clip bounds the norm of the loss's gradient alone") {
  constexpr double kDecay = 0.05;
  for (const double bound : {0.01, 1e3}) {
    CAPTURE(bound);
    Rng rng(6);
    Net model = network(rng);
    const Batch batch(rng);
    KfacOptions<double> options{.learning_rate = 1, .momentum = 0, .damping = 0.1};
    options.kl_clip = 0;
    options.gradient_clip = bound;
    options.weight_decay = kDecay;
    Optimizer optimizer(model, Loss(), options);
    const DenseObjective before(model, Loss(), batch.x, batch.y);
    const StepReport<double>& report = optimizer.step(batch.x, batch.y);
    const double norm = before.gradient.norm();
    const double scale = std::min(1.0, bound / norm);
    CHECK(report.gradient_norm == Approx(norm).epsilon(1e-12));
    CHECK(report.gradient_scale == Approx(scale).epsilon(1e-12));
    const Vector<double> v = solve(dense_estimate(optimizer, model, 0.1 + kDecay),
                                   scale * before.gradient + kDecay * before.theta);
    CHECK(relative_error(Vector<double>(before.theta - parameters(model)), v) < 1e-10);
  }
}

TEST_CASE(
    "KfacOptimizer: a rejected step leaves every parameter bit-identical and ends the momentum") {
  Rng rng(7);
  Net model = network(rng);
  Vector<double> start = parameters(model);
  start(0) = -0.0;
  start(1) = 0.0;
  start(2) = std::numeric_limits<double>::denorm_min();
  start(3) = -1e-310;
  start(4) = 1e17;  // which a step and its opposite would not give back
  set_parameters(model, start);
  KfacOptions<double> options = overshooting();
  options.learning_rate = [](Index step) { return step == 0 ? 0.05 : 60.0; };
  Optimizer optimizer(model, Loss(), options);
  const Batch batch(rng);
  REQUIRE_FALSE(optimizer.step(batch.x, batch.y).rejected);
  set_parameters(model, start);
  CHECK(velocity_of(optimizer).norm() > 0);
  const std::vector<std::uint64_t> before = bits(model);
  for (int step = 1; step < 6; ++step) {  // in every step, although the damping is not adapted
    CAPTURE(step);
    const StepReport<double>& report = optimizer.step(batch.x, batch.y);
    REQUIRE(report.ok());
    CHECK(report.rejected);
    CHECK(report.new_loss > report.loss);
    CHECK(report.step_norm == 0);
    CHECK(report.layer_step_norms == std::vector<double>(3, 0.0));
    CHECK(report.step == step);
    CHECK(bits(model) == before);
    CHECK(velocity_of(optimizer).isZero(0));
  }
  CHECK(optimizer.steps() == 6);
}

TEST_CASE("KfacOptimizer: rejection does not get stuck on momentum that points uphill") {
  Rng rng(3);
  Net model = network(rng);
  const Batch batch(rng);
  KfacOptions<double> options{.learning_rate = 0.3, .momentum = 0.95, .damping = 0.01};
  options.inverse_every = 1;
  options.kl_clip = 0;
  options.rejection.enabled = true;
  Optimizer optimizer(model, Loss(), options);
  int rejected = 0, in_a_row = 0, most_in_a_row = 0;
  for (int step = 0; step < 200; ++step) {
    in_a_row = optimizer.step(batch.x, batch.y).rejected ? in_a_row + 1 : 0;
    rejected += in_a_row > 0;
    most_in_a_row = std::max(most_in_a_row, in_a_row);
  }
  CHECK(rejected > 0);
  CHECK(most_in_a_row < 3);
}

TEST_CASE("KfacOptimizer: what is rejected leaves running means and squares as they were") {
  for (const MomentumType type : {MomentumType::AveragedGradient, MomentumType::Adam}) {
    CAPTURE(static_cast<int>(type));
    // A run with a rejected step among its steps, and one without that step.
    const auto run = [&](bool with) {
      Rng rng(8);
      Net model = network(rng);
      KfacOptions<double> options = overshooting();
      options.momentum_type = type;
      options.factor_every = 100;  // the step that is rejected feeds no averages
      options.inverse_every = 100;
      Optimizer optimizer(model, Loss(), options);
      const std::array batches{Batch(rng), Batch(rng), Batch(rng)};
      for (int step = 0; step < 3; ++step) {
        const Batch& batch = batches[static_cast<std::size_t>(step)];
        optimizer.set_learning_rate(1e4);
        if (with && step > 0) REQUIRE(optimizer.step(batch.x, batch.y).rejected);
        optimizer.set_learning_rate(0.01);
        REQUIRE_FALSE(optimizer.step(batch.x, batch.y).rejected);
      }
      return parameters(model);
    };
    CHECK((run(true).array() == run(false).array()).all());
  }
}

TEST_CASE("KfacOptimizer: accepted steps are the same with rejection on or off") {
  const auto run = [](bool enabled, bool adapted) {
    Rng rng(9);
    Net model = network(rng);
    KfacOptions<double> options{.learning_rate = 0.05};
    options.adaptive_momentum = adapted;
    if (adapted) options.damping_adaptation.every = 2;
    options.rejection.enabled = enabled;
    Optimizer optimizer(model, Loss(), options);
    for (int step = 0; step < 5; ++step) {
      const Batch batch(rng);
      const StepReport<double>& report = optimizer.step(batch.x, batch.y);
      CHECK_FALSE(report.rejected);
      const double new_loss = Loss().value(model.forward(batch.x), batch.y);
      if (enabled || (adapted && step % 2 == 1))
        CHECK(report.new_loss == new_loss);
      else
        CHECK(std::isnan(report.new_loss));
    }
    return parameters(model);
  };
  CHECK((run(true, false).array() == run(false, false).array()).all());
  CHECK((run(true, true).array() == run(false, true).array()).all());
}

TEST_CASE("KfacOptimizer: a step is shortened before it is rejected") {
  constexpr double kShrink = 0.3;
  Rng rng(10);
  Net model = network(rng);
  KfacOptions<double> options = overshooting();
  options.rejection.shrinks = 8;
  options.rejection.shrink = kShrink;
  options.learning_rate = [](Index step) { return step == 0 ? 0.05 : 60.0; };
  Optimizer optimizer(model, Loss(), options);
  const Batch first(rng);
  Vector<double> start = parameters(model);
  REQUIRE(optimizer.step(first.x, first.y).shrinks == 0);
  const Vector<double> last = parameters(model) - start;

  const Batch batch(rng);
  const DenseObjective before(model, Loss(), batch.x, batch.y);
  const StepReport<double>& report = optimizer.step(batch.x, batch.y);
  const Vector<double> v = solve(dense_estimate(optimizer, model, 0.1), before.gradient);
  Vector<double> change = 0.5 * last - 60 * v;
  int shrinks = 0;
  const auto loss_at = [&](const Vector<double>& at) {
    Net copy = model;
    set_parameters(copy, at);
    return Loss().value(copy.forward(batch.x), batch.y);
  };
  while (loss_at(before.theta + change) > before.value) {
    change *= kShrink;
    ++shrinks;
  }
  CHECK(shrinks > 1);
  CHECK(shrinks <= 8);
  CHECK_FALSE(report.rejected);
  CHECK(report.shrinks == shrinks);
  CHECK(relative_error(parameters(model), Vector<double>(before.theta + change)) < 1e-10);
  CHECK(report.new_loss == Approx(loss_at(parameters(model))).epsilon(1e-14));
  CHECK(report.step_norm == Approx(change.norm()).epsilon(1e-10));
  // What the momentum keeps is the change that was made.
  CHECK(relative_error(velocity_of(optimizer), change) < 1e-9);
}

TEST_CASE("KfacOptimizer: with too few shrinks a step is rejected after them") {
  Rng rng(11);
  Net model = network(rng);
  KfacOptions<double> options = overshooting();
  options.rejection.shrinks = 2;
  options.rejection.shrink = 0.99;
  Optimizer optimizer(model, Loss(), options);
  const Batch batch(rng);
  const std::vector<std::uint64_t> before = bits(model);
  const StepReport<double>& report = optimizer.step(batch.x, batch.y);
  CHECK(report.rejected);
  CHECK(report.shrinks == 2);
  CHECK(report.step_norm == 0);
  CHECK(bits(model) == before);
  CHECK(velocity_of(optimizer).isZero(0));
}

TEST_CASE("KfacOptimizer: a step after which the loss is NaN is rejected") {
  Rng rng(12);
  Sequential model{Linear<double>(3, 4, rng), Linear<double>(4, 4, rng), Linear<double>(4, 2, rng)};
  KfacOptions<double> options{.learning_rate = 1e120};
  options.kl_clip = 0;
  options.rejection.enabled = true;
  KfacOptimizer optimizer(model, Loss(), options);
  const Batch batch(rng);
  const Vector<double> before = parameters(model);
  const StepReport<double>& report = optimizer.step(batch.x, batch.y);
  REQUIRE(report.ok());
  CHECK(std::isnan(report.new_loss));
  CHECK(report.rejected);
  CHECK((parameters(model).array() == before.array()).all());
}

TEST_CASE("KfacOptimizer: rejection compares the loss with its weight decay") {
  Rng rng(13);
  Net model = network(rng);
  const Matrix<double> x = random_matrix(3, 6, rng);
  const Matrix<double> y = model.forward(x);  // any change raises the loss itself
  KfacOptions<double> options{.learning_rate = 0.1, .momentum = 0, .damping = 0.1};
  options.weight_decay = 0.1;
  options.rejection.enabled = true;
  Optimizer optimizer(model, Loss(), options);
  const DenseObjective before(model, Loss(), x, y, 0.1);
  const StepReport<double>& report = optimizer.step(x, y);
  CHECK(report.new_loss > report.loss);
  CHECK(DenseObjective(model, Loss(), x, y, 0.1).value < before.value);
  CHECK_FALSE(report.rejected);
}

TEST_CASE("KfacOptimizer: a rejected step raises an adapted damping by its factor") {
  Rng rng(14);
  Net model = network(rng);
  KfacOptions<double> options = overshooting();
  options.damping = 0.1;
  options.damping_adaptation = {.every = 4, .factor = 0.5, .max = 100};
  options.rejection.damping_factor = 3;
  Optimizer optimizer(model, Loss(), options);
  const Batch batch(rng);
  double damping = 0.1;
  for (int step = 0; step < 3; ++step) {
    REQUIRE(optimizer.step(batch.x, batch.y).rejected);
    damping *= 3;
    CHECK(optimizer.damping() == Approx(damping).epsilon(1e-14));
  }
  const StepReport<double>& report = optimizer.step(batch.x, batch.y);
  REQUIRE(report.rejected);
  CHECK(report.reduction_ratio < 0.25);
  CHECK(optimizer.damping() == Approx(std::min(100.0, damping * 16 * 3)).epsilon(1e-14));
  while (optimizer.steps() < 12 && optimizer.step(batch.x, batch.y).rejected)
    CHECK(optimizer.damping() <= 100);

  options.damping_adaptation.every = 0;
  Net other = network(rng);
  Optimizer constant(other, Loss(), options);
  REQUIRE(constant.step(batch.x, batch.y).rejected);
  CHECK(constant.damping() == 0.1);
}

TEST_CASE("KfacOptimizer: options of step control out of range are named") {
  Rng rng(15);
  Net model = network(rng);
  const auto message = [&](const std::function<void(KfacOptions<double>&)>& change) {
    KfacOptions<double> options;
    change(options);
    return message_of<OptionError>([&] { Optimizer(model, Loss(), options); });
  };
  const std::string where = "kfac::KfacOptimizer: '";
  CHECK(message([](auto& o) { o.kl_clip = -1; }) ==
        where + "kl_clip' is -1, expected >= 0 and finite");
  CHECK(message([](auto& o) { o.norm_constraint = -1; }) ==
        where + "norm_constraint' is -1, expected >= 0 and finite");
  CHECK(message([](auto& o) { o.gradient_clip = -1; }) ==
        where + "gradient_clip' is -1, expected >= 0 and finite");
  CHECK(message([](auto& o) { o.rejection.shrinks = -1; }) ==
        where + "rejection.shrinks' is -1, expected >= 0");
  CHECK(message([](auto& o) { o.rejection.shrink = 1; }) ==
        where + "rejection.shrink' is 1, expected in (0, 1)");
  CHECK(message([](auto& o) { o.rejection.damping_factor = 0.5; }) ==
        where + "rejection.damping_factor' is 0.5, expected >= 1 and finite");
  CHECK(message([](auto& o) { o.burn_in = -1; }) == where + "burn_in' is -1, expected >= 0");
}

}  // namespace kfac::test::step_control_test
