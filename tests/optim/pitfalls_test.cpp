#include <cmath>
#include <functional>
#include <vector>

#include <kfac/optim/kfac_optimizer.hpp>

#include "support/catch.hpp"
#include "support/networks.hpp"

// Mistakes that K-FAC optimizers are known to make, by the numbers under which docs/curvature.md
// lists them. Those of curvature estimates are in tests/curvature/pitfalls_test.cpp.

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

TEST_CASE("D5: every option of the optimizer changes the trajectory") {
  Rng rng(1);
  const Model model = network(rng);
  const Data data(rng);
  const KfacOptions<double> sampled{.fisher = FisherType::MonteCarlo};
  using Change = std::function<void(KfacOptions<double>&)>;
  const std::vector<std::pair<const char*, Change>> changes{
      {"learning_rate", [](auto& o) { o.learning_rate = 0.2; }},
      {"momentum", [](auto& o) { o.momentum = 0.5; }},
      {"damping", [](auto& o) { o.damping = 0.1; }},
      {"pi", [](auto& o) { o.pi = false; }},
      {"factor_every", [](auto& o) { o.factor_every = 3; }},
      {"inverse_every", [](auto& o) { o.inverse_every = 2; }},
      {"factor_decay", [](auto& o) { o.factor_decay = 0.3; }},
      {"kl_clip", [](auto& o) { o.kl_clip = 1e-4; }},
      {"weight_decay", [](auto& o) { o.weight_decay = 0.1; }},
      {"fisher", [](auto& o) { o.fisher = FisherType::Type2; }},
      {"samples", [](auto& o) { o.samples = 3; }},
      {"seed", [](auto& o) { o.seed = 7; }}};
  const Vector<double> before = trained(model, data, sampled);
  CHECK(trained(model, data, sampled) == before);
  for (const auto& [name, change] : changes) {
    INFO(name);
    KfacOptions<double> changed = sampled;
    change(changed);
    CHECK((trained(model, data, changed) - before).norm() > 1e-6);
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
    sum.damping *= kTargets;  // F and the gradient grow alike, so the rate stays
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
