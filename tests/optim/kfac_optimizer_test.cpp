#include <limits>

#include "support/catch.hpp"
#include "support/networks.hpp"

namespace kfac::test::kfac_optimizer_test {

namespace {

auto network(Rng& rng) {
  return Sequential{Linear<double>(4, 5, rng), Tanh<double>{}, Linear<double>(5, 3, rng)};
}

struct Examples {
  Matrix<double> x;
  Labels y;
};

Examples random_examples(Rng& rng, Index size = 7) {
  return {random_matrix(4, size, rng), random_labels(3, size, rng)};
}

/// Where the parameters are after three steps.
Vector<double> trajectory(KfacOptions<double> options, Reduction reduction = Reduction::Mean,
                          int repeat_batch = 1) {
  Rng rng(21);
  auto model = network(rng);
  const SoftmaxCrossEntropy<double> loss({.reduction = reduction});
  KfacOptimizer optimizer(model, loss, options);
  for (int step = 0; step < 3; ++step) {
    const Examples batch = random_examples(rng);
    const Matrix<double> x = batch.x.replicate(1, repeat_batch);
    const Labels y = batch.y.replicate(repeat_batch, 1);
    REQUIRE(optimizer.step(x, y).ok());
  }
  return parameters(model);
}

}  // namespace

TEST_CASE("KfacOptimizer: every option changes the result") {
  const KfacOptions<double> base{.learning_rate = 0.3,
                                 .momentum = 0.5,
                                 .damping = 0.05,
                                 .inverse_every = 1,
                                 .kl_clip = 0,
                                 .fisher = FisherType::MonteCarlo};
  const Vector<double> reference = trajectory(base);
  CHECK(trajectory(base) == reference);
  const auto changed = [&](auto change) {
    KfacOptions<double> options = base;
    change(options);
    return relative_error(trajectory(options), reference);
  };
  CHECK(changed([](auto& o) { o.learning_rate = 0.2; }) > 1e-3);
  CHECK(changed([](auto& o) { o.momentum = 0; }) > 1e-3);
  CHECK(changed([](auto& o) { o.damping = 0.1; }) > 1e-3);
  CHECK(changed([](auto& o) { o.pi = FactorBalance::None; }) > 1e-3);
  CHECK(changed([](auto& o) { o.factor_every = 2; }) > 1e-3);
  CHECK(changed([](auto& o) { o.inverse_every = 2; }) > 1e-3);
  CHECK(changed([](auto& o) { o.factor_decay = 0.1; }) > 1e-3);
  CHECK(changed([](auto& o) { o.kl_clip = 1e-3; }) > 1e-3);
  CHECK(changed([](auto& o) { o.weight_decay = 0.1; }) > 1e-3);
  CHECK(changed([](auto& o) { o.fisher = FisherType::Type2; }) > 1e-3);
  CHECK(changed([](auto& o) { o.fisher = FisherType::Empirical; }) > 1e-3);
  CHECK(changed([](auto& o) { o.samples = 3; }) > 1e-3);
  CHECK(changed([](auto& o) { o.seed = 1; }) > 1e-3);
}

TEST_CASE("KfacOptimizer: doubling the batch by repetition leaves the trajectory as it is") {
  for (const FisherType type : {FisherType::Type2, FisherType::Empirical}) {
    const KfacOptions<double> options{.inverse_every = 1, .fisher = type};
    CHECK(relative_error(trajectory(options, Reduction::Mean, 2), trajectory(options)) < 1e-10);
  }
}

TEST_CASE(
    "KfacOptimizer: mean or sum, with learning rate, damping and clip rescaled, are the same") {
  for (const FisherType type : {FisherType::Type2, FisherType::MonteCarlo, FisherType::Empirical}) {
    const KfacOptions<double> mean{.damping = 0.02, .inverse_every = 1, .fisher = type};
    KfacOptions<double> sum = mean;
    sum.damping = 7 * 0.02;             // the curvature of a sum over 7 examples
    sum.kl_clip = 7 * mean.kl_clip(0);  // v is the same and g seven times as long
    CHECK(relative_error(trajectory(sum, Reduction::Sum), trajectory(mean)) < 1e-10);
  }
}

TEST_CASE("KfacOptimizer: a zero gradient gives a zero step") {
  Rng rng(2);
  Sequential model{Linear<double>(3, 4, rng), Linear<double>(4, 2, rng)};
  const MeanSquaredError<double> loss;
  KfacOptimizer optimizer(model, loss, {});
  const Matrix<double> x = random_matrix(3, 6, rng);
  const Matrix<double> y = model.forward(x);
  const Vector<double> before = parameters(model);
  const StepReport<double>& report = optimizer.step(x, y);
  CHECK(report.ok());
  CHECK(report.loss == 0);
  CHECK(report.step_norm == 0);
  CHECK(parameters(model) == before);
}

TEST_CASE("KfacOptimizer: a dead layer is survived") {
  Rng rng(3);
  Sequential model{Linear<double>(4, 5, rng), ReLU<double>{}, Linear<double>(5, 3, rng)};
  auto layers = model.layers();
  layers[0].parameters.tail(5).setConstant(-100);  // no unit is ever active
  const SoftmaxCrossEntropy<double> loss;
  KfacOptimizer optimizer(model, loss, {});
  for (int step = 0; step < 20; ++step) {
    const Examples batch = random_examples(rng);
    const StepReport<double>& report = optimizer.step(batch.x, batch.y);
    REQUIRE(report.ok());
    CHECK(report.layer_step_norms[0] == 0);
    CHECK(report.layer_step_norms[2] > 0);
  }
  CHECK(parameters(model).allFinite());
}

TEST_CASE("KfacOptimizer: bad input throws and leaves parameters and state bit-identical") {
  Rng rng(4);
  auto model = network(rng);
  auto twin = model;
  const SoftmaxCrossEntropy<double> loss;
  KfacOptimizer optimizer(model, loss, {});
  KfacOptimizer undisturbed(twin, loss, {});
  const Examples good = random_examples(rng);
  optimizer.step(good.x, good.y);
  undisturbed.step(good.x, good.y);

  using Catch::Matchers::Message;
  CHECK_THROWS_MATCHES(optimizer.step(random_matrix(5, 7, rng), good.y), ShapeError,
                       Message("kfac::Linear: 'input' has shape 5, expected 4 features on the last "
                               "axis (layer '0')"));
  CHECK_THROWS_MATCHES(optimizer.step(Matrix<double>(4, 0), Labels(0)), ShapeError,
                       Message("kfac::Network::forward: 'x' has 0 examples, expected at least 1"));
  CHECK_THROWS_MATCHES(optimizer.step(good.x, random_labels(3, 6, rng)), ShapeError,
                       Message("kfac::SoftmaxCrossEntropy: 'targets' has 6 labels, expected 7"));
  Labels labels = good.y;
  labels(3) = 3;
  CHECK_THROWS_MATCHES(
      optimizer.step(good.x, labels), ValueError,
      Message("kfac::SoftmaxCrossEntropy: 'targets' has label 3 at 3, expected 0 to 2"));
  Matrix<double> x = good.x;
  x(1, 2) = std::numeric_limits<double>::infinity();
  CHECK_THROWS_MATCHES(optimizer.step(x, good.y), ValueError,
                       Message("kfac::Network::forward: 'x' is inf at (1, 2), expected finite "
                               "numbers"));

  for (int step = 0; step < 12; ++step) {
    const Examples batch = random_examples(rng, 3 + step);
    optimizer.step(batch.x, batch.y);
    undisturbed.step(batch.x, batch.y);
    REQUIRE(parameters(model) == parameters(twin));
  }
}

TEST_CASE(
    "KfacOptimizer: numbers that go wrong are a status that names the layer, and nothing moves") {
  Rng rng(5);
  auto model = network(rng);
  const SoftmaxCrossEntropy<double> loss;
  KfacOptimizer optimizer(model, loss, {.inverse_every = 1});
  const Examples batch = random_examples(rng);
  REQUIRE(optimizer.step(batch.x, batch.y).ok());

  SECTION("a loss that is not finite") {
    model.layers()[2].parameters(0) = std::numeric_limits<double>::infinity();
    const Vector<double> before = parameters(model);
    const StepReport<double>& report = optimizer.step(batch.x, batch.y);
    CHECK(report.status == StepStatus::NonFiniteLoss);
    CHECK(std::string(describe(report.status)) == "the loss is not finite");
    CHECK(report.step_norm == 0);
    CHECK((parameters(model).array() == before.array()).all());
  }
  SECTION("a factor that overflows, and the good step after it") {
    auto twin = model;
    Matrix<double> large = batch.x;
    large(0, 0) = 1e200;  // finite, but its square is not
    const Vector<double> before = parameters(model);
    const StepReport<double>& report = optimizer.step(large, batch.y);
    CHECK(report.status == StepStatus::NonFiniteFactor);
    CHECK(report.layer == "0");
    CHECK(parameters(model) == before);
    CHECK(optimizer.step(batch.x, batch.y).ok());
  }
}

TEST_CASE("KfacOptimizer: a factor that is not positive definite in its precision is a status") {
  Rng rng(6);
  Sequential model{Linear<double>(4, 3, rng)};
  const SoftmaxCrossEntropy<double> loss;
  // A is all ones, and the damping is lost in the rounding of 1 + sqrt(damping).
  KfacOptimizer optimizer(model, loss, {.damping = 1e-40, .inverse_every = 1});
  const Vector<double> before = parameters(model);
  const StepReport<double>& report = optimizer.step(Matrix<double>::Ones(4, 2), Labels::Zero(2));
  CHECK(report.status == StepStatus::FactorizationFailed);
  CHECK(report.layer == "0");
  CHECK(parameters(model) == before);
}

TEST_CASE("KfacOptimizer: without damping a singular factor throws and leaves all as it was") {
  Rng rng(7);
  auto model = network(rng);
  auto twin = model;
  const SoftmaxCrossEntropy<double> loss;
  const KfacOptions<double> options{
      .damping = 0, .inverse_every = 1, .fisher = FisherType::MonteCarlo};
  KfacOptimizer optimizer(model, loss, options);
  KfacOptimizer undisturbed(twin, loss, options);
  const Examples batch = random_examples(rng);
  const Vector<double> before = parameters(model);
  CHECK_THROWS_AS(optimizer.step(batch.x, batch.y), SingularError);
  CHECK(parameters(model) == before);
  CHECK(block_of(*optimizer.preconditioner().layers()[0]).input_factor().isZero());

  // Nor did the failure draw any of the samples to come.
  optimizer.set_damping(1e-2);
  undisturbed.set_damping(1e-2);
  REQUIRE(optimizer.step(batch.x, batch.y).ok());
  REQUIRE(undisturbed.step(batch.x, batch.y).ok());
  CHECK(parameters(model) == parameters(twin));
}

TEST_CASE("KfacOptimizer: options out of range are named") {
  Rng rng(8);
  auto model = network(rng);
  const SoftmaxCrossEntropy<double> loss;
  const auto make = [&](KfacOptions<double> options) { KfacOptimizer(model, loss, options); };
  CHECK_THROWS_MATCHES(make({.learning_rate = 0}), OptionError,
                       Catch::Matchers::Message(
                           "kfac::KfacOptimizer: 'learning_rate' is 0, expected > 0 and finite"));
  CHECK_THROWS_AS(make({.momentum = 1}), OptionError);
  CHECK_THROWS_AS(make({.damping = -1}), OptionError);
  CHECK_THROWS_AS(make({.damping = std::numeric_limits<double>::quiet_NaN()}), OptionError);
  CHECK_THROWS_AS(make({.factor_every = 0}), OptionError);
  CHECK_THROWS_AS(make({.inverse_every = 0}), OptionError);
  CHECK_THROWS_AS(make({.factor_decay = 1}), OptionError);
  CHECK_THROWS_AS(make({.kl_clip = -1}), OptionError);
  CHECK_THROWS_AS(make({.weight_decay = -1}), OptionError);
  CHECK_THROWS_AS(make({.samples = 0}), OptionError);
}

TEST_CASE("KfacOptimizer: the learning rate and the damping can be scheduled") {
  Rng rng(9);
  auto model = network(rng);
  const SoftmaxCrossEntropy<double> loss;
  KfacOptimizer optimizer(model, loss, {.momentum = 0, .inverse_every = 1, .kl_clip = 0});
  const Examples batch = random_examples(rng);
  const auto step_norm = [&] {
    const Vector<double> before = parameters(model);
    const double norm = optimizer.step(batch.x, batch.y).step_norm;
    Index offset = 0;
    for (auto& layer : model.layers()) {
      layer.parameters = before.segment(offset, layer.parameters.size());
      offset += layer.parameters.size();
    }
    return norm;
  };
  const double first = step_norm();
  optimizer.set_learning_rate(0.01);
  CHECK(std::abs(step_norm() - 0.1 * first) < 1e-10 * first);
  optimizer.set_damping(100.0);
  CHECK(step_norm() < 0.01 * 0.1 * first);
  CHECK_THROWS_AS(optimizer.set_learning_rate(0.0), OptionError);
  CHECK_THROWS_AS(optimizer.set_damping(-1.0), OptionError);
}

TEST_CASE("KfacOptimizer: the summary says how each layer is stepped") {
  Rng rng(10);
  auto model = network(rng);
  const SoftmaxCrossEntropy<double> loss;
  const KfacOptimizer optimizer(model, loss);
  CHECK(
      optimizer.summary() ==
      "layer  kind    shape    parameters  block  factors       bytes   update  inverse  "
      "precondition\n"
      "0      Linear  5x4 + 5  25          K-FAC  A 5x5, G 5x5  1.28 k  25      83.3     "
      "250\n"
      "2      Linear  3x5 + 3  18          K-FAC  A 6x6, G 3x3  1.15 k  22.5    81       "
      "162\n"
      "all                     43                               2.43 k  47.5    164      "
      "412\n"
      "memory: parameters 344 B, gradient 344 B, optimizer 344 B, factors 912 B, inverses 1.52 kB, "
      "all 3.46 kB\n");
}

}  // namespace kfac::test::kfac_optimizer_test
