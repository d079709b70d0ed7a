#include <cmath>

#include "optim/dense_objective.hpp"
#include "support/catch.hpp"
#include "support/saved_state.hpp"

namespace kfac::test::momentum_test {

namespace {

using Net = Sequential<Linear<double>, Tanh<double>, Linear<double>>;
using Loss = MeanSquaredError<double>;
using Optimizer = KfacOptimizer<Net, Loss>;
using Options = KfacOptions<double>;
using Array = Eigen::ArrayXd;

Net network(Rng& rng) {
  return Net(Linear<double>(3, 4, rng), Tanh<double>{}, Linear<double>(4, 2, rng));
}

struct Batch {
  Matrix<double> x, y;
  explicit Batch(Rng& rng) : x(random_matrix(3, 6, rng)), y(random_matrix(2, 6, rng)) {}
};

/// The kinds of momentum written down once more, in plain arrays. `inverse` multiplies with the
/// damped inverse; `rate` and the like are those of the step.
struct Reference {
  struct Values {
    double rate, momentum, second_decay, epsilon;
  };
  MomentumType type;
  Array velocity, mean, square;
  double mean_weight = 0, square_weight = 0;

  Reference(MomentumType type_, Index size)
      : type(type_), velocity(Array::Zero(size)), mean(velocity), square(velocity) {}

  template <class Inverse>
  Array change(const Array& gradient, Inverse&& inverse, const Values& now) {
    switch (type) {
      case MomentumType::HeavyBall:
        velocity = now.momentum * velocity - now.rate * inverse(gradient);
        return velocity;
      case MomentumType::Nesterov: {
        const Array v = inverse(gradient);
        velocity = now.momentum * velocity - now.rate * v;
        return now.momentum * velocity - now.rate * v;
      }
      case MomentumType::AveragedGradient:
        average(mean, mean_weight, gradient, now.momentum);
        return -now.rate * inverse(mean / mean_weight);
      case MomentumType::Adam: {
        const Array v = inverse(gradient);
        average(mean, mean_weight, v, now.momentum);
        average(square, square_weight, v * v, now.second_decay);
        return -now.rate * (mean / mean_weight) / ((square / square_weight).sqrt() + now.epsilon);
      }
      case MomentumType::RmsProp: {
        const Array v = inverse(gradient);
        average(square, square_weight, v * v, now.second_decay);
        velocity = now.momentum * velocity -
                   now.rate * v / ((square / square_weight).sqrt() + now.epsilon);
        return velocity;
      }
    }
    return {};
  }

 private:
  static void average(Array& values, double& weight, const Array& value, double decay) {
    values = decay * values + (1 - decay) * value;
    weight = decay * weight + (1 - decay);
  }
};

constexpr MomentumType kTypes[]{MomentumType::HeavyBall, MomentumType::Nesterov,
                                MomentumType::AveragedGradient, MomentumType::Adam,
                                MomentumType::RmsProp};

/// Checks every step of a run against the reference.
void check_run(const Options& options) {
  Rng rng(1);
  Net model = network(rng);
  Optimizer optimizer(model, Loss(), options);
  Reference reference(options.momentum_type, model.parameter_count());
  const Array mask = decay_mask(model, options.decays).array();
  for (Index step = 0; step < 6; ++step) {
    CAPTURE(static_cast<int>(options.momentum_type), options.decoupled_weight_decay, step);
    const Batch batch(rng);
    const double decay = options.weight_decay(step);
    const double coupled = options.decoupled_weight_decay ? 0 : decay;
    const DenseObjective before(model, Loss(), batch.x, batch.y, coupled, options.decays);
    const StepReport<double>& report = optimizer.step(batch.x, batch.y);
    REQUIRE(report.ok());
    const auto inverse = [&](const Array& gradient) -> Array {
      const Matrix<double> damped =
          dense_estimate(optimizer, model, options.damping(step) + coupled);
      return solve(damped, gradient.matrix()).array();
    };
    const Reference::Values now{options.learning_rate(step), options.momentum(step),
                                options.second_moment_decay(step), options.epsilon(step)};
    Array change = reference.change(before.gradient.array(), inverse, now);
    if (options.decoupled_weight_decay) change -= now.rate * decay * mask * before.theta.array();
    const Vector<double> expected = before.theta + change.matrix();
    CHECK(relative_error(parameters(model), expected) < 1e-10);
    CHECK(report.step_norm == Approx(change.matrix().norm()).epsilon(1e-8));
  }
}

Options base(MomentumType type) {
  Options options{.learning_rate = 0.1, .momentum = 0.7, .momentum_type = type};
  options.second_moment_decay = 0.9;
  options.epsilon = 1e-3;
  options.damping = 0.2;
  options.inverse_every = 1;
  options.kl_clip = 0;
  return options;
}

}  // namespace

TEST_CASE("KfacOptimizer: every kind of momentum is as written down by hand") {
  for (const MomentumType type : kTypes) check_run(base(type));
}

TEST_CASE("KfacOptimizer: weight decay, in the loss or apart from it, spares what does not decay") {
  for (const MomentumType type : kTypes)
    for (const bool decoupled : {false, true}) {
      Options options = base(type);
      options.weight_decay = 0.3;
      options.decoupled_weight_decay = decoupled;
      check_run(options);
      options.decays = is_no_bias;
      check_run(options);
    }
}

TEST_CASE("KfacOptimizer: every kind of momentum follows schedules of all its numbers") {
  const auto wave = [](double low, double high) {
    return [=](Index step) { return step % 3 == 1 ? high : low; };
  };
  for (const MomentumType type : kTypes)
    for (const bool decoupled : {false, true}) {
      Options options = base(type);
      options.learning_rate = wave(0.05, 0.2);
      options.momentum = wave(0.3, 0.8);
      options.second_moment_decay = wave(0.5, 0.99);
      options.epsilon = wave(1e-3, 1e-1);
      options.damping = wave(0.1, 1);
      options.weight_decay = wave(0.1, 0.4);
      options.decoupled_weight_decay = decoupled;
      check_run(options);
    }
}

TEST_CASE("MomentumRule: nothing is remembered before it is accepted") {
  Rng rng(2);
  for (const MomentumType type : kTypes) {
    CAPTURE(static_cast<int>(type));
    MomentumRule<double> rule(type, 5);
    Vector<double> change(5);
    const VectorMap<double> delta(change.data(), 5);
    const auto propose = [&](Vector<double> v) {
      VectorMap<double> map(v.data(), v.size());
      rule.before(map, 0.6);
      rule.after(map, 0.6, 0.8, 1e-4);
      rule.change(map, 0.1, 0.6, delta);
      return change;
    };
    const Vector<double> first = random_matrix(5, 1, rng), second = random_matrix(5, 1, rng);
    propose(first);
    rule.accept(1, delta);
    const SavedState before(rule);
    const Vector<double> expected = propose(second);
    CHECK(SavedState(rule) == before);
    propose(first);
    CHECK((propose(second).array() == expected.array()).all());
    rule.accept(0.5, delta);
    CHECK_FALSE(SavedState(rule) == before);
  }
}

TEST_CASE("MomentumRule: a change that was shortened is remembered as it was made") {
  MomentumRule<double> rule(MomentumType::HeavyBall, 2);
  Vector<double> v = Vector<double>::Constant(2, 3.0), change(2);
  const VectorMap<double> map(v.data(), 2), delta(change.data(), 2);
  rule.change(map, 0.5, 0.9, delta);
  CHECK(change == Vector<double>::Constant(2, -1.5));
  rule.accept(0.25, delta);
  CHECK(rule.velocity() == Vector<double>::Constant(2, -0.375));
}

TEST_CASE("MomentumRule: less memory gives the same changes") {
  Rng rng(3);
  for (const MomentumType type : kTypes) {
    CAPTURE(static_cast<int>(type));
    MomentumRule<double> apart(type, 4), in_place(type, 4, {true, true});
    for (int step = 0; step < 5; ++step) {
      Vector<double> v = random_matrix(4, 1, rng), change(4), both = v;
      const VectorMap<double> map(v.data(), 4), delta(change.data(), 4), alias(both.data(), 4);
      const auto take = [](MomentumRule<double>& rule, VectorMap<double> from,
                           VectorMap<double> to) {
        rule.before(from, 0.6);
        rule.after(from, 0.6, 0.8, 1e-4);
        rule.change(from, 0.1, 0.6, to);
        to *= 0.5;
        rule.accept(0.5, to);
      };
      take(apart, map, delta);
      take(in_place, alias, alias);
      CHECK(change == both);
    }
  }
  MomentumRule<double> none(MomentumType::HeavyBall, 4, {false, true});
  CHECK_FALSE(none.has_velocity());
  Vector<double> v = Vector<double>::Constant(4, 2.0);
  const VectorMap<double> map(v.data(), 4);
  none.change(map, 0.25, 0.0, map);
  none.accept(1, map);
  CHECK(v == Vector<double>::Constant(4, -0.5));
}

TEST_CASE("KfacOptimizer: the burn-in moves nothing but the running averages") {
  for (const MomentumType type : kTypes) {
    CAPTURE(static_cast<int>(type));
    Rng rng(7);
    Net model = network(rng);
    Options options = base(type);
    options.burn_in = 3;
    options.weight_decay = 0.2;
    options.decoupled_weight_decay = true;
    Optimizer optimizer(model, Loss(), options);
    const Vector<double> start = parameters(model);
    MomentumRule<double> fresh(type, start.size());
    Matrix<double> mean;
    for (int step = 0; step < 3; ++step) {
      const Batch batch(rng);
      const StepReport<double>& report = optimizer.step(batch.x, batch.y);
      REQUIRE(report.ok());
      CHECK(report.burn_in);
      CHECK(report.step == step);
      CHECK(report.step_norm == 0);
      CHECK(std::isfinite(report.loss));
      CHECK((parameters(model).array() == start.array()).all());
      const Matrix<double> a = Matrix<double>(
          block_of(*optimizer.preconditioner().layers()[0]).input_factor().topLeftCorner(3, 3));
      const Matrix<double> moment = batch.x * batch.x.transpose() / 6;
      mean = step == 0 ? moment : Matrix<double>((step * mean + moment) / (step + 1));
      CHECK(relative_error(a, mean) < 1e-12);
    }
    const SavedState state(optimizer), untouched(fresh);
    std::size_t compared = 0;
    for (const auto& [name, entry] : untouched.entries())
      for (const auto& [other, value] : state.entries())
        if (other.find("momentum") == 0 && other.ends_with(name) &&
            other.size() == name.size() + 9) {
          CHECK(value == entry);
          ++compared;
        }
    CHECK(compared == untouched.entries().size());
    const Batch batch(rng);
    const StepReport<double>& report = optimizer.step(batch.x, batch.y);
    CHECK_FALSE(report.burn_in);
    CHECK(report.step_norm > 0);
    CHECK(parameters(model) != start);
  }
}

}  // namespace kfac::test::momentum_test
