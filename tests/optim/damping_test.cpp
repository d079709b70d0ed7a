#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <kfac/curvature/kronecker_eigen_block.hpp>

#include "optim/dense_objective.hpp"
#include "support/catch.hpp"
#include "support/eigensolver.hpp"

namespace kfac::test::damping_test {

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

using Net = Sequential<Linear<double>, Tanh<double>, Linear<double>>;
Net network(Rng& rng) {
  return Net(Linear<double>(3, 4, rng), Tanh<double>{}, Linear<double>(4, 2, rng));
}
using LinearNet = Sequential<Linear<double>>;
using Optimizer = KfacOptimizer<Net, MeanSquaredError<double>>;
using LinearOptimizer = KfacOptimizer<LinearNet, MeanSquaredError<double>>;

/// One linear layer, its exact curvature, and one batch: a quadratic problem.
struct Quadratic {
  Rng rng{7};
  LinearNet model{Linear<double>(3, 2, rng)};
  MeanSquaredError<double> loss;
  Matrix<double> x = random_matrix(3, 9, rng);
  Matrix<double> y = random_matrix(2, 9, rng);
  LinearOptimizer optimizer;

  explicit Quadratic(const KfacOptions<double>& options)
      : optimizer(model, loss, options, block_factory<KroneckerEigenBlock<double>>()) {}

  const StepReport<double>& step() {
    const StepReport<double>& report = optimizer.step(x, y);
    REQUIRE(report.ok());
    return report;
  }
};

/// The coefficients along two directions of the minimum with damping.
Eigen::Vector2d minimum(const DenseObjective& at, const Matrix<double>& directions,
                        double damping) {
  const Matrix<double> m = directions.transpose() * at.curvature * directions +
                           damping * directions.transpose() * directions;
  const Eigen::Vector2d slope = directions.transpose() * at.gradient;
  if (directions.col(1).isZero(0)) return {-slope(0) / m(0, 0), 0};
  return -m.inverse() * slope;
}

}  // namespace

TEST_CASE("DampingAdaptation: rho decides, and bounds hold") {
  const DampingAdaptation<double> rule{.every = 3, .factor = 0.8, .min = 0.2, .max = 9};
  const double omega = 0.8 * 0.8 * 0.8;
  CHECK(std::abs(rule.adapted(2, 0.76) - 2 * omega) < 1e-15);
  CHECK(rule.adapted(2, 0.75) == 2);
  CHECK(rule.adapted(2, 0.25) == 2);
  for (const double bad : {0.24, 0.0, -3.0, kNaN, -kInfinity})
    CHECK(std::abs(rule.adapted(2, bad) - 2 / omega) < 1e-15);
  CHECK(rule.adapted(0.3, kInfinity) == 0.2);
  CHECK(rule.adapted(8, kNaN) == 9);
  std::vector<Index> due;
  for (Index step = 0; step < 9; ++step)
    if (rule.is_due(step)) due.push_back(step);
  CHECK(due == std::vector<Index>{2, 5, 8});
  CHECK_FALSE(DampingAdaptation<double>{}.is_due(0));
}

TEST_CASE(
    "reduction_ratio: of a prediction that is no decrease only the sign of the change counts") {
  CHECK(reduction_ratio(-3.0, -2.0) == 1.5);
  CHECK(reduction_ratio(1.0, -2.0) == -0.5);
  CHECK(reduction_ratio(kInfinity, -2.0) == -kInfinity);
  CHECK(std::isnan(reduction_ratio(kNaN, -1.0)));
  CHECK(std::isnan(reduction_ratio(-1.0, kNaN)));
  CHECK(reduction_ratio(-1.0, 0.0) == kInfinity);
  CHECK(reduction_ratio(0.0, 0.0) == 1);
  CHECK(reduction_ratio(1.0, 2.0) == -kInfinity);
}

TEST_CASE("GammaSearch: the candidates are the one there is, smaller and larger, within bounds") {
  const GammaSearch<double> search{.every = 2, .factor = 0.5, .min = 0.3, .max = 5};
  CHECK(search.candidates(1) == std::array{1.0, 0.3, 4.0});
  CHECK(search.candidates(2) == std::array{2.0, 0.5, 5.0});
  CHECK(search.is_due(0));
  CHECK_FALSE(search.is_due(1));
  CHECK(search.is_due(2));
  CHECK_FALSE(GammaSearch<double>{}.is_due(0));
}

TEST_CASE("KfacOptimizer: options of the damping out of range are named") {
  Rng rng(1);
  Net model = network(rng);
  const auto message = [&](const auto& change) {
    KfacOptions<double> options;
    change(options);
    try {
      Optimizer(model, MeanSquaredError<double>(), options);
    } catch (const OptionError& error) {
      return std::string(error.what());
    }
    return std::string("nothing was thrown");
  };
  const std::string where = "kfac::KfacOptimizer: '";
  CHECK(message([](auto& o) { o.damping_adaptation.every = -1; }) ==
        where + "damping_adaptation.every' is -1, expected >= 0");
  CHECK(message([](auto& o) { o.damping_adaptation.factor = 1; }) ==
        where + "damping_adaptation.factor' is 1, expected in (0, 1)");
  CHECK(message([](auto& o) { o.damping_adaptation.raise_below = 0.9; }) ==
        where + "damping_adaptation.raise_below' is 0.9, expected < lower_above");
  CHECK(message([](auto& o) { o.damping_adaptation.min = 0; }) ==
        where + "damping_adaptation.min' is 0, expected > 0");
  CHECK(message([](auto& o) { o.damping_adaptation.max = 1e-9; }) ==
        where + "damping_adaptation.max' is 1e-09, expected > min and finite");
  CHECK(message([](auto& o) { o.gamma_search.every = -2; }) ==
        where + "gamma_search.every' is -2, expected >= 0");
  CHECK(message([](auto& o) { o.gamma_search.factor = 0; }) ==
        where + "gamma_search.factor' is 0, expected in (0, 1)");
  CHECK(message([](auto& o) { o.gamma_search.min = -1; }) ==
        where + "gamma_search.min' is -1, expected > 0");
  CHECK(message([](auto& o) { o.gamma_search.max = 1e-5; }) ==
        where + "gamma_search.max' is 1e-05, expected > min and finite");
  CHECK(message([](auto& o) {
          o.damping = 0;
          o.damping_adaptation.every = 5;
        }) == where + "damping' is 0, expected > 0 where it is adapted");
  CHECK(message([](auto& o) {
          o.gamma_search.every = 5;
          o.momentum_type = MomentumType::Nesterov;
        }) == where + "gamma_search' is on, expected off but with MomentumType::HeavyBall");
  CHECK(message([](auto& o) {
          o.adaptive_momentum = true;
          o.momentum_type = MomentumType::Adam;
        }) == where + "adaptive_momentum' is on, expected off but with MomentumType::HeavyBall");
}

TEST_CASE("KfacOptimizer: one full step with hardly any damping solves a quadratic problem") {
  KfacOptions<double> options;
  options.adaptive_learning_rate = true;
  options.damping = 1e-12;
  Quadratic problem(options);
  Matrix<double> augmented = Matrix<double>::Ones(4, 9);
  augmented.topRows(3) = problem.x;
  const Matrix<double> best =
      augmented.transpose().colPivHouseholderQr().solve(problem.y.transpose());
  const double least = (best.transpose() * augmented - problem.y).squaredNorm() / 18;
  const double before = problem.step().loss;
  CHECK(before > 1.1 * least);
  const double after = problem.loss.value(problem.model.forward(problem.x), problem.y);
  CHECK(std::abs(after - least) < 1e-11 * least);
}

TEST_CASE("KfacOptimizer: on a quadratic problem rho is 1 and the damping falls every interval") {
  for (const bool adaptive : {true, false})
    for (const double decay : {0.0, 0.3}) {
      CAPTURE(adaptive, decay);
      KfacOptions<double> options{.learning_rate = 0.2, .momentum = 0.5};
      options.adaptive_learning_rate = options.adaptive_momentum = adaptive;
      options.damping = 40;
      options.damping_adaptation = {.every = 3, .factor = 0.9};
      options.kl_clip = 0;
      options.weight_decay = decay;
      options.decays = is_no_bias;
      Quadratic problem(options);
      double damping = 40;
      for (int step = 0; step < 12; ++step) {
        CAPTURE(step);
        const StepReport<double>& report = problem.step();
        CHECK(report.damping == damping);
        CHECK(report.preconditioner_damping == Approx(damping + decay).epsilon(1e-14));
        if (step % 3 == 2) {
          CHECK(std::abs(report.reduction_ratio - 1) < 1e-9);
          damping *= std::pow(0.9, 3.0);
        } else {
          CHECK(std::isnan(report.reduction_ratio));
        }
        CHECK(problem.optimizer.damping() == damping);
      }
    }
}

TEST_CASE("KfacOptimizer: an adapted damping stays in its bounds") {
  KfacOptions<double> options;
  options.adaptive_learning_rate = true;
  options.damping = 40;
  options.damping_adaptation = {.every = 1, .factor = 0.5, .min = 15, .max = 41};
  Quadratic problem(options);
  problem.step();
  CHECK(problem.optimizer.damping() == 20);
  problem.step();
  CHECK(problem.optimizer.damping() == 15);
  problem.step();
  CHECK(problem.optimizer.damping() == 15);
}

TEST_CASE("KfacOptimizer: the damping rises after a bad step and falls after a good one") {
  Rng rng(8);
  Net model = network(rng);
  KfacOptions<double> options{.learning_rate = 1, .momentum = 0.8, .damping = 0.003};
  options.damping_adaptation = {.every = 1, .factor = 0.6, .lower_above = 0.9, .raise_below = 0.1};
  options.inverse_every = 1;
  options.kl_clip = 0;
  Optimizer optimizer(model, MeanSquaredError<double>(), options);
  int fell = 0, stayed = 0, rose = 0;
  for (int step = 0; step < 300; ++step) {
    const Matrix<double> x = random_matrix(3, 6, rng), y = random_matrix(2, 6, rng);
    const StepReport<double>& report = optimizer.step(x, y);
    REQUIRE(report.ok());
    const double ratio = optimizer.damping() / report.damping;
    const bool bad = report.reduction_ratio < 0.1;
    const bool good = report.reduction_ratio > 0.9;
    (bad ? rose : good ? fell : stayed) += 1;
    CHECK(ratio == Approx(bad ? 1 / 0.6 : good ? 0.6 : 1).epsilon(1e-12));
  }
  CHECK(fell > 3);
  CHECK(stayed > 0);
  CHECK(rose > 3);
}

TEST_CASE("KfacOptimizer: a loss that is NaN after the step raises the damping") {
  Rng rng(9);
  Sequential model{Linear<double>(3, 4, rng), Linear<double>(4, 4, rng), Linear<double>(4, 2, rng)};
  KfacOptions<double> options{.learning_rate = 1e120, .momentum = 0, .damping = 0.5};
  options.damping_adaptation = {.every = 1, .factor = 0.5};
  options.kl_clip = 0;
  KfacOptimizer optimizer(model, MeanSquaredError<double>(), options);
  const Matrix<double> x = random_matrix(3, 6, rng), y = random_matrix(2, 6, rng);
  const StepReport<double>& report = optimizer.step(x, y);
  REQUIRE(report.ok());
  CHECK(std::isnan(report.new_loss));
  CHECK(std::isfinite(report.predicted_change));
  CHECK(std::isnan(report.reduction_ratio));
  CHECK(optimizer.damping() == 1);
}

TEST_CASE("KfacOptimizer: the gamma search keeps the best of three by the damped quadratic model") {
  constexpr double kDecay = 0.02, kFactor = 0.7;
  for (const bool decoupled : {false, true}) {
    Rng rng(10);
    Net model = network(rng);
    const MeanSquaredError<double> loss;
    KfacOptions<double> options;
    options.adaptive_learning_rate = options.adaptive_momentum = true;
    options.damping = 3;
    options.damping_adaptation = {.every = 5, .factor = 0.9};
    options.gamma_search = {.every = 2, .factor = kFactor, .min = 0.05};
    options.inverse_every = 1;
    options.weight_decay = kDecay;
    options.decoupled_weight_decay = decoupled;
    Optimizer optimizer(model, loss, options);
    const double decay = decoupled ? 0 : kDecay;
    double gamma = std::sqrt(3 + decay);
    Vector<double> last = Vector<double>::Zero(model.parameter_count());
    std::array<int, 3> chosen{};
    for (int step = 0; step < 12; ++step) {
      CAPTURE(decoupled, step);
      const Matrix<double> x = random_matrix(3, 12, rng), y = random_matrix(2, 12, rng);
      const DenseObjective before(model, loss, x, y, decay);
      const StepReport<double>& report = optimizer.step(x, y);
      REQUIRE(report.ok());
      Matrix<double> directions(before.theta.size(), 2);
      directions.col(1) = last;
      const auto along = [&](double candidate) {
        directions.col(0) =
            solve(dense_estimate(optimizer, model, candidate * candidate), before.gradient);
        return Vector<double>(directions * minimum(before, directions, report.damping));
      };
      if (step % 2 == 0) {
        const double omega = kFactor * kFactor;
        const std::array candidates{gamma, std::max(omega * gamma, 0.05), gamma / omega};
        std::size_t best = 0;
        double least = kInfinity;
        for (std::size_t i = 0; i < 3; ++i) {
          const double change = before.damped_change(along(candidates[i]), report.damping);
          if (change < least) {
            best = i;
            least = change;
          }
        }
        ++chosen[best];
        gamma = candidates[best];
      }
      CHECK(report.preconditioner_damping == Approx(gamma * gamma).epsilon(1e-12));
      last = along(gamma);
      Vector<double> expected = before.theta + last;
      if (decoupled) expected -= report.learning_rate * kDecay * before.theta;
      CHECK(relative_error(parameters(model), expected) < 1e-9);
    }
    CHECK(chosen[1] + chosen[2] > 2);
    CHECK(std::abs(gamma * gamma / (optimizer.damping() + decay) - 1) > 0.1);
  }
}

TEST_CASE("KfacOptimizer: calibration ends where a loop by hand does, and moves nothing") {
  constexpr double kDecay = 0.05;
  struct Case {
    double damping, min, rate;  // 0: adaptive
    bool decoupled;
  };
  int fell = 0, rose = 0;
  for (const Case& setting : {Case{60, 1e-8, 0, false}, Case{60, 20, 0, false},
                              Case{60, 1e-8, 0.9, true}, Case{1e-3, 1e-8, 4, false}}) {
    CAPTURE(setting.damping, setting.min, setting.rate, setting.decoupled);
    Rng rng(11);
    Net model = network(rng);
    const MeanSquaredError<double> loss;
    KfacOptions<double> options;
    options.adaptive_learning_rate = options.adaptive_momentum = setting.rate == 0;
    if (setting.rate > 0) options.learning_rate = setting.rate;
    options.momentum = 0.7;
    options.damping = setting.damping;
    options.damping_adaptation = {.every = 4, .factor = 0.8, .min = setting.min};
    options.kl_clip = 0;
    options.weight_decay = kDecay;
    options.decoupled_weight_decay = setting.decoupled;
    Optimizer optimizer(model, loss, options);
    const double decay = setting.decoupled ? 0 : kDecay;
    Vector<double> start = parameters(model);
    REQUIRE(optimizer.step(random_matrix(3, 6, rng), random_matrix(2, 6, rng)).ok());
    const Vector<double> last = parameters(model) - start;
    const double apart =
        setting.decoupled ? setting.rate * kDecay : 0;  // of the parameters, every step
    const Vector<double> velocity = last + apart * start;

    const Matrix<double> x = 2 * random_matrix(3, 6, rng), y = 3 * random_matrix(2, 6, rng);
    start = parameters(model);
    const double found = optimizer.calibrate_damping(x, y);
    CHECK((parameters(model).array() == start.array()).all());
    CHECK(optimizer.damping() == found);
    CHECK(optimizer.steps() == 1);

    const DenseObjective before(model, loss, x, y, decay);
    const auto step_with = [&](const DenseObjective& at, double damping) {
      Matrix<double> directions(start.size(), 2);
      directions << solve(dense_estimate(optimizer, model, damping + decay), at.gradient), velocity;
      const Eigen::Vector2d w = setting.rate == 0 ? minimum(at, directions, damping)
                                                  : Eigen::Vector2d(-setting.rate, 0.7);
      return Vector<double>(directions * w - apart * at.theta);
    };
    const double omega = std::pow(0.8, 4);
    double damping = setting.damping, change = 0;
    for (int trial = 0; trial < 200; ++trial) {
      const Vector<double> step = step_with(before, damping);
      set_parameters(model, start + step);
      const DenseObjective after(model, loss, x, y, decay);
      set_parameters(model, start);
      const double came = after.value - before.value, predicted = before.change(step);
      const double rho = predicted < 0 ? came / predicted : came < 0 ? kInfinity : -kInfinity;
      double next = rho > 0.75 ? damping * omega : rho < 0.25 ? damping / omega : damping;
      next = std::max(next, setting.min);
      const double difference = next - damping;
      damping = next;
      if (difference == 0 || difference * change < 0) break;
      change = difference;
    }
    CHECK(found == Approx(damping).epsilon(1e-10));
    (found < setting.damping ? fell : rose) += 1;

    // The next step is made of the last change before, with the damping that was found.
    const Matrix<double> next_x = random_matrix(3, 6, rng), next_y = random_matrix(2, 6, rng);
    const DenseObjective next(model, loss, next_x, next_y, decay);
    const Vector<double> expected = start + step_with(next, found);
    const StepReport<double>& report = optimizer.step(next_x, next_y);
    REQUIRE(report.ok());
    CHECK(report.damping == found);
    CHECK(relative_error(parameters(model), expected) < 1e-9);
  }
  CHECK(fell >= 2);
  CHECK(rose >= 1);
}

TEST_CASE("KfacOptimizer: calibration needs a damping that is adapted") {
  Rng rng(12);
  Net model = network(rng);
  Optimizer optimizer(model, MeanSquaredError<double>());
  CHECK_THROWS_MATCHES(
      optimizer.calibrate_damping(random_matrix(3, 6, rng), random_matrix(2, 6, rng)), StateError,
      Catch::Matchers::Message("kfac::KfacOptimizer::calibrate_damping: 'damping_adaptation' is "
                               "off, expected every > 0"));
}

}  // namespace kfac::test::damping_test
