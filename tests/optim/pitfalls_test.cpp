#include <cmath>
#include <vector>

#include "optim/dense_objective.hpp"
#include "support/catch.hpp"

// Mistakes that K-FAC optimizers are known to make, by the numbers under which docs/curvature.md
// lists them. Those of curvature estimates are in tests/curvature/pitfalls_test.cpp; D5, of options
// without effect, has kfac_options_test.cpp to itself.

namespace kfac::test::pitfalls_test {

namespace {

auto network(Rng& rng) {
  return Sequential{Linear<double>(3, 4, rng), Tanh<double>{}, Linear<double>(4, 2, rng)};
}
using Model = decltype(network(std::declval<Rng&>()));

struct Data {
  std::vector<Matrix<double>> x, y;
  explicit Data(Rng& rng) {
    for (int i = 0; i < 12; ++i) {
      x.push_back(random_matrix(3, 6, rng));
      y.push_back(random_matrix(2, 6, rng));
    }
  }
};

Vector<double> trained(Model model, const Data& data, const KfacOptions<double>& options,
                       const MeanSquaredError<double>& loss = MeanSquaredError<double>()) {
  KfacOptimizer optimizer(model, loss, options);
  for (std::size_t i = 0; i < data.x.size(); ++i)
    REQUIRE(optimizer.step(data.x[i], data.y[i]).ok());
  return parameters(model);
}

}  // namespace

TEST_CASE(
    "D4: with rejection on, steps are judged by their loss, whether the damping is adapted or "
    "not") {
  Rng rng(11);
  for (const Index every : {0, 5}) {
    Model model = network(rng);
    KfacOptions<double> options{.learning_rate = 0.05, .momentum = 0};
    options.damping_adaptation.every = every;
    options.kl_clip = 0;
    options.rejection.enabled = true;
    const MeanSquaredError<double> loss;
    KfacOptimizer optimizer(model, loss, options);
    const Data data(rng);
    for (std::size_t i = 0; i < data.x.size(); ++i) {
      const Vector<double> before = parameters(model);
      // Every third step overshoots.
      optimizer.set_learning_rate(i % 3 == 2 ? 1e3 : 0.05);
      const auto& report = optimizer.step(data.x[i], data.y[i]);
      const bool higher = report.new_loss > report.loss;
      CHECK(std::isfinite(report.new_loss));
      CHECK(higher == (i % 3 == 2));
      CHECK(report.rejected == higher);
      CHECK((parameters(model) == before) == higher);
    }
  }
}

TEST_CASE("D5: weight sharing changes the trajectory where weights are shared") {
  Rng rng(2);
  const auto step = [&](WeightSharing sharing) {
    Rng same(3);
    Sequential model{Unflatten<double>({3, 2}), Linear<double>(2, 2, same), Flatten<double>{}};
    KfacOptimizer optimizer(model, MeanSquaredError<double>(), {.sharing = sharing});
    Rng data(4);
    const Matrix<double> x = random_matrix(6, 5, data);
    REQUIRE(optimizer.step(x, random_matrix(6, 5, data)).ok());
    return parameters(model);
  };
  CHECK(step(WeightSharing::Expand) == step(WeightSharing::Expand));
  CHECK((step(WeightSharing::Expand) - step(WeightSharing::Reduce)).norm() > 1e-4);
}

TEST_CASE("D6: weight decay in the quadratic model is of the parameters that decay alone") {
  constexpr double kDecay = 2;
  for (const bool masked : {false, true}) {
    Rng rng(12);
    Model model = network(rng);
    KfacOptions<double> options{.learning_rate = 0.3, .momentum = 0};
    options.damping_adaptation.every = 1;
    options.kl_clip = 0;
    options.weight_decay = kDecay;
    if (masked) options.decays = is_no_bias;
    const MeanSquaredError<double> loss;
    KfacOptimizer optimizer(model, loss, options);
    const Matrix<double> x = random_matrix(3, 6, rng), y = random_matrix(2, 6, rng);
    const DenseObjective before(model, loss, x, y, kDecay, options.decays);
    const auto& report = optimizer.step(x, y);
    const Vector<double> step = parameters(model) - before.theta;
    CHECK(report.predicted_change == Approx(before.change(step)).epsilon(1e-11));
    const double biases =
        kDecay / 2 * (step.squaredNorm() - decay_mask(model, is_no_bias).dot(step.cwiseAbs2()));
    CHECK(biases > 1e-3 * std::abs(report.predicted_change));  // what a wrong mask would be off by
  }
}

TEST_CASE("D7: what is preconditioned is the averaged gradient where that is asked for") {
  Rng rng(13);
  Model model = network(rng);
  KfacOptions<double> options{.learning_rate = 0.2, .momentum = 0.8};
  options.momentum_type = MomentumType::AveragedGradient;
  options.inverse_every = 1;
  options.kl_clip = 0;
  const MeanSquaredError<double> loss;
  KfacOptimizer optimizer(model, loss, options);
  const Data data(rng);
  Vector<double> sum = Vector<double>::Zero(model.parameter_count());
  for (std::size_t i = 0; i < 4; ++i) {
    const DenseObjective before(model, loss, data.x[i], data.y[i]);
    REQUIRE(optimizer.step(data.x[i], data.y[i]).ok());
    sum = 0.8 * sum + before.gradient;
    const double weights = (1 - std::pow(0.8, static_cast<double>(i + 1))) / (1 - 0.8);
    const Vector<double> step = -0.2 * solve(dense_estimate(optimizer, model, 1e-2), sum / weights);
    CHECK(relative_error(parameters(model), Vector<double>(before.theta + step)) < 1e-10);
  }
}

TEST_CASE("D8: the damping of the quadratic model is of the square of the step, not of v^T g") {
  constexpr double kDamping = 3;
  Rng rng(14);
  Model model = network(rng);
  KfacOptions<double> options{.momentum = 0};
  options.adaptive_learning_rate = true;
  options.damping = kDamping;
  const MeanSquaredError<double> loss;
  KfacOptimizer optimizer(model, loss, options);
  const Matrix<double> x = random_matrix(3, 6, rng), y = random_matrix(2, 6, rng);
  const DenseObjective before(model, loss, x, y);
  const auto& report = optimizer.step(x, y);
  const Vector<double> v = solve(dense_estimate(optimizer, model, kDamping), before.gradient);
  const double slope = v.dot(before.gradient), curved = v.dot(before.curvature * v);
  const double rate = slope / (curved + kDamping * v.squaredNorm());
  CHECK(report.learning_rate == Approx(rate).epsilon(1e-10));
  CHECK(report.predicted_change == Approx(-rate * slope + rate * rate * curved / 2).epsilon(1e-10));
}

TEST_CASE("D9: rho is of one batch, before and after the step that was predicted") {
  Rng rng(15);
  Model model = network(rng);
  KfacOptions<double> options{.learning_rate = 0.3};
  options.damping_adaptation.every = 3;
  const MeanSquaredError<double> loss;
  KfacOptimizer optimizer(model, loss, options);
  const Data data(rng);
  for (std::size_t i = 0; i < data.x.size(); ++i) {
    const DenseObjective before(model, loss, data.x[i], data.y[i]);
    const auto& report = optimizer.step(data.x[i], data.y[i]);
    REQUIRE(report.ok());
    if (i % 3 != 2) {
      CHECK(std::isnan(report.reduction_ratio));
      continue;
    }
    const DenseObjective after(model, loss, data.x[i], data.y[i]);
    const double predicted = before.change(after.theta - before.theta);
    CHECK(report.predicted_change == Approx(predicted).epsilon(1e-10));
    REQUIRE(predicted < 0);
    CHECK(report.reduction_ratio == Approx((after.value - before.value) / predicted).epsilon(1e-9));
  }
}

TEST_CASE("D12: a default-constructed optimizer takes a step with every kind of Fisher") {
  Rng rng(5);
  for (const FisherType type : {FisherType::Type2, FisherType::MonteCarlo, FisherType::Empirical,
                                FisherType::CurvaturePropagation, FisherType::ForwardOnly}) {
    Model model = network(rng);
    const MeanSquaredError<double> loss;
    KfacOptions<double> options;
    options.fisher = type;
    KfacOptimizer optimizer(model, loss, options);
    const Vector<double> before = parameters(model);
    const Matrix<double> x = random_matrix(3, 6, rng), y = random_matrix(2, 6, rng);
    CHECK(optimizer.step(x, y).ok());
    CHECK(parameters(model) != before);
  }
}

TEST_CASE(
    "D14, D15: from mean to sum, with rate and damping rescaled, the trajectory is the same") {
  Rng rng(6);
  const Model model = network(rng);
  const Data data(rng);
  constexpr double kTargets = 12;  // 6 examples of 2 outputs
  for (const FisherType type : {FisherType::Type2, FisherType::MonteCarlo, FisherType::Empirical}) {
    const KfacOptions<double> mean{
        .learning_rate = 0.3, .damping = 0.05, .kl_clip = 0, .fisher = type};
    KfacOptions<double> sum = mean;
    sum.damping = kTargets * 0.05;  // F and the gradient grow alike, so the rate stays
    const MeanSquaredError<double> sum_loss({.reduction = Reduction::Sum});
    CHECK(relative_error(trained(model, data, sum, sum_loss), trained(model, data, mean)) < 1e-9);
  }
}

TEST_CASE("D16: a zero gradient gives a zero step, not NaN") {
  Rng rng(7);
  Model model = network(rng);
  const MeanSquaredError<double> loss;
  KfacOptimizer optimizer(model, loss, {.momentum = 0, .kl_clip = 1e-3});
  const Matrix<double> x = random_matrix(3, 6, rng);
  const Matrix<double> y = model.forward(x);
  const Vector<double> before = parameters(model);
  const auto& report = optimizer.step(x, y);
  REQUIRE(report.ok());
  CHECK(report.kl_scale == 1);
  CHECK(parameters(model) == before);
}

TEST_CASE("D17: a damping schedule acts at the next inverse, as it says, and not before or later") {
  Rng rng(8);
  Model model = network(rng);
  Model twin = model;
  const MeanSquaredError<double> loss;
  const KfacOptions<double> options{.damping = 0.01, .inverse_every = 2};
  KfacOptimizer scheduled(model, loss, options), constant(twin, loss, options);
  const Data data(rng);
  for (std::size_t i = 0; i < 3; ++i) {
    REQUIRE(scheduled.step(data.x[i], data.y[i]).ok());
    REQUIRE(constant.step(data.x[i], data.y[i]).ok());
    if (i == 0) scheduled.set_damping(1.0);  // inverses are made in the steps 0, 2, 4, ...
    CHECK((parameters(model) == parameters(twin)) == (i < 2));
  }
}

}  // namespace kfac::test::pitfalls_test
