#include <array>
#include <cmath>
#include <optional>

#include <kfac/optim/quadratic_model.hpp>

#include "optim/dense_objective.hpp"
#include "support/catch.hpp"

namespace kfac::test::quadratic_model_test {

namespace {

using Pair = Eigen::Vector2d;
using Fixed = std::optional<double>;

/// The minimum of f over the coefficients that are free, by grids that are moved and refined.
template <class F>
Pair brute_minimum(F&& f, const Fixed& first, const Fixed& second) {
  Pair center(first.value_or(0.0), second.value_or(0.0));
  double width = 4;
  double least = f(center);
  while (width > 1e-10) {
    Pair best = center;
    for (int i = -3; i <= 3; ++i)
      for (int j = -3; j <= 3; ++j) {
        const Pair candidate = center + Pair(first ? 0 : width * i, second ? 0 : width * j);
        const double value = f(candidate);
        if (value < least) {
          least = value;
          best = candidate;
        }
      }
    if (best == center) width /= 2;
    center = best;
  }
  return center;
}

Eigen::Matrix2d random_spd(Rng& rng, double least_eigenvalue) {
  const Eigen::Matrix2d root = random_matrix(2, 2, rng);
  return root * root.transpose() + least_eigenvalue * Eigen::Matrix2d::Identity();
}

QuadraticModel random_model(Rng& rng) {
  QuadraticModel model;
  model.slope = random_matrix(2, 1, rng);
  model.curvature = random_spd(rng, 0.05);
  model.gram = random_spd(rng, 0.05);
  return model;
}

/// A model along two given directions.
QuadraticModel model_along(const Matrix<double>& directions, const Vector<double>& gradient,
                           const Matrix<double>& curvature) {
  QuadraticModel model;
  model.slope = directions.transpose() * gradient;
  model.curvature = directions.transpose() * curvature * directions;
  model.gram = directions.transpose() * directions;
  return model;
}

}  // namespace

TEST_CASE("QuadraticModel: the change, without and with damping, is the quadratic form") {
  Rng rng(1);
  const Matrix<double> directions = random_matrix(5, 2, rng);
  const Vector<double> gradient = random_matrix(5, 1, rng);
  const Matrix<double> root = random_matrix(5, 5, rng);
  const Matrix<double> curvature = root * root.transpose();
  const QuadraticModel model = model_along(directions, gradient, curvature);
  const Pair w(0.3, -1.7);
  const Vector<double> step = directions * w;
  const double change = gradient.dot(step) + step.dot(curvature * step) / 2;
  CHECK(std::abs(model.change(w) - change) < 1e-12 * std::abs(change));
  const double damped = change + 0.4 * step.squaredNorm() / 2;
  CHECK(std::abs(model.damped_change(w, 0.4) - damped) < 1e-12 * std::abs(damped));
}

TEST_CASE("QuadraticModel: the minimum is that of a search by grids, whatever is fixed") {
  Rng rng(2);
  const std::array<std::pair<Fixed, Fixed>, 4> cases{
      {{{}, {}}, {-0.3, {}}, {{}, 0.8}, {-0.3, 0.8}}};
  for (int trial = 0; trial < 20; ++trial) {
    const QuadraticModel model = random_model(rng);
    const double damping = trial % 3 == 0 ? 0.0 : std::pow(10.0, trial % 5 - 3);
    for (const auto& [first, second] : cases) {
      CAPTURE(trial, damping, first.has_value(), second.has_value());
      const auto f = [&](const Pair& w) { return model.damped_change(w, damping); };
      const Pair w = model.minimum(damping, first, second);
      const Pair brute = brute_minimum(f, first, second);
      CHECK((w - brute).norm() < 1e-6 * (1 + brute.norm()));
      CHECK(f(w) <= f(brute) + 1e-14 * std::abs(f(brute)));
      if (first) CHECK(w(0) == *first);
      if (second) CHECK(w(1) == *second);
    }
  }
}

TEST_CASE("QuadraticModel: a direction that is zero gets 0, and the other its own minimum") {
  Rng rng(3);
  const Vector<double> gradient = random_matrix(4, 1, rng);
  const Matrix<double> curvature = Vector<double>::LinSpaced(4, 0.5, 3).asDiagonal();
  for (const Index zero : {0, 1}) {
    Matrix<double> directions = random_matrix(4, 2, rng);
    directions.col(zero).setZero();
    const QuadraticModel model = model_along(directions, gradient, curvature);
    const Vector<double> v = directions.col(1 - zero);
    const double alone = -v.dot(gradient) / (v.dot(curvature * v) + 0.1 * v.squaredNorm());
    const Pair both = model.minimum(0.1, {}, {});
    CHECK(both(zero) == 0);
    CHECK(std::abs(both(1 - zero) - alone) < 1e-12 * std::abs(alone));
    const Pair one = zero == 0 ? model.minimum(0.1, -0.5, {}) : model.minimum(0.1, {}, 0.9);
    CHECK(std::abs(one(1 - zero) - alone) < 1e-12 * std::abs(alone));
    const Pair other = zero == 0 ? model.minimum(0.1, {}, 0.9) : model.minimum(0.1, -0.5, {});
    CHECK(other(zero) == 0);
  }
  CHECK(QuadraticModel().minimum(0.1, {}, {}) == Pair::Zero());
}

TEST_CASE("QuadraticModel: of two parallel directions the first is taken, and loses nothing") {
  Rng rng(4);
  const Vector<double> gradient = random_matrix(4, 1, rng);
  const Matrix<double> curvature = Vector<double>::LinSpaced(4, 0.5, 3).asDiagonal();
  Matrix<double> directions = random_matrix(4, 2, rng);
  directions.col(1) = -2.5 * directions.col(0);
  const QuadraticModel model = model_along(directions, gradient, curvature);
  const Pair w = model.minimum(0.1, {}, {});
  CHECK(w(1) == 0);
  const auto f = [&](const Pair& at) { return model.damped_change(at, 0.1); };
  CHECK(f(w) <= f(brute_minimum(f, {}, {})) + 1e-14);
}

TEST_CASE("QuadraticModel: two directions half a degree apart are both used") {
  const Vector<double> gradient = Vector<double>::Ones(2);
  Matrix<double> directions = Matrix<double>::Ones(2, 2);
  directions(1, 0) = 0;
  directions(1, 1) = 0.008;
  const QuadraticModel model = model_along(directions, gradient, Matrix<double>::Identity(2, 2));
  const Pair w = model.minimum(0.0, {}, {});
  CHECK((directions * w + gradient).norm() < 1e-9);
}

namespace {

struct Setting {
  bool adaptive_learning_rate, adaptive_momentum;
  double kl_clip;
};

}  // namespace

TEST_CASE("KfacOptimizer: learning rate and momentum are the minimum of the dense model") {
  constexpr double kDecay = 0.07, kDamping = 0.2, kRate = 0.4, kMomentum = 0.6;
  const SoftmaxCrossEntropy<double> loss;
  for (const bool decays_biases : {true, false})
    for (const Setting& setting :
         {Setting{true, true, 1e-2}, Setting{true, false, 1e-2}, Setting{false, true, 0},
          Setting{false, true, 1e-2}, Setting{false, false, 0}, Setting{false, false, 1e-2}}) {
      CAPTURE(decays_biases, setting.adaptive_learning_rate, setting.adaptive_momentum,
              setting.kl_clip);
      const bool adaptive = setting.adaptive_learning_rate || setting.adaptive_momentum;
      const ParameterPredicate<double> decays =
          decays_biases ? ParameterPredicate<double>{} : is_no_bias;
      Rng rng(5);
      Sequential model{Linear<double>(3, 4, rng), Tanh<double>{}, Linear<double>(4, 3, rng)};
      KfacOptions<double> options{.learning_rate = kRate, .momentum = kMomentum};
      options.adaptive_learning_rate = setting.adaptive_learning_rate;
      options.adaptive_momentum = setting.adaptive_momentum;
      options.damping = kDamping;
      if (!adaptive) options.damping_adaptation.every = 1;
      options.inverse_every = 1;
      options.kl_clip = setting.kl_clip;
      options.weight_decay = kDecay;
      options.decays = decays;
      KfacOptimizer optimizer(model, loss, options);
      Vector<double> last = Vector<double>::Zero(model.parameter_count());
      for (int step = 0; step < 4; ++step) {
        CAPTURE(step);
        const Matrix<double> x = random_matrix(3, 8, rng);
        const Labels y = random_labels(3, 8, rng);
        const DenseObjective before(model, loss, x, y, kDecay, decays);
        const StepReport<double>& report = optimizer.step(x, y);
        REQUIRE(report.ok());
        const DenseObjective after(model, loss, x, y, kDecay, decays);
        const double damping = report.damping;
        Matrix<double> directions(before.theta.size(), 2);
        directions << solve(dense_estimate(optimizer, model, damping + kDecay), before.gradient),
            last;

        Fixed first, second;
        if (!setting.adaptive_learning_rate) first = -kRate * report.kl_scale;
        if (!setting.adaptive_momentum) second = kMomentum;
        const auto f = [&](const Pair& w) { return before.damped_change(directions * w, damping); };
        const Pair brute = brute_minimum(f, first, second);
        const Pair used(-report.learning_rate * report.kl_scale, report.momentum);
        CHECK(std::abs(used(0) - brute(0)) < 1e-6);
        if (step > 0) CHECK(std::abs(used(1) - brute(1)) < 1e-6);
        CHECK(f(used) <= f(brute) + 1e-13 * std::abs(f(brute)));
        if (setting.adaptive_learning_rate) CHECK(report.kl_scale == 1);

        last = after.theta - before.theta;
        CHECK(relative_error(last, Vector<double>(directions * used)) < 1e-9);
        CHECK(std::abs(report.predicted_change - before.change(last)) <
              1e-10 * std::abs(before.change(last)));
        if (!adaptive) {
          const double rho = (after.value - before.value) / before.change(last);
          CHECK(std::abs(report.reduction_ratio - rho) < 1e-8 * std::abs(rho));
        }
      }
    }
}

}  // namespace kfac::test::quadratic_model_test
