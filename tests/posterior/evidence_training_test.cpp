#include <kfac/posterior/evidence_training.hpp>

#include "support/catch.hpp"
#include "support/laplace_cases.hpp"
#include "support/message_of.hpp"

namespace kfac::test::evidence_training_test {

namespace {

using Data = Dataset<double, Matrix<double>>;
using Options = EvidenceTrainingOptions<double>;

/// Outputs of a linear map of 5 inputs, with noise.
Data linear_data(Index examples, Rng& rng) {
  const Matrix<double> x = random_matrix(5, examples, rng);
  const Matrix<double> w = random_matrix(2, 5, rng);
  const Matrix<double> y = w * x + 0.3 * random_matrix(2, examples, rng);
  return {x, y};
}

}  // namespace

TEST_CASE("Evidence training: of a linear model it ends where exact tuning does") {
  Rng rng(1);
  const Data data = linear_data(40, rng);
  for (const Reduction reduction : {Reduction::Mean, Reduction::Sum}) {
    const MeanSquaredError<double> loss({.reduction = reduction});
    AnyModel model;
    append_linear(model, {5, 2}, rng, true);
    // One epoch: full gradients, each a Newton step for one direction after another.
    const auto epoch = [&](const PriorPenalty<double>& penalty, Index) {
      for (int step = 0; step < 300; ++step) {
        model.backward(loss.gradient(model.forward(data.inputs), data.targets));
        penalty.add_gradient(model, 40);
        for (auto& layer : model.layers())
          layer.parameters -= 0.3 / (loss.scale(2, 40) * 40) * layer.gradient;
      }
    };
    const auto result =
        train_by_evidence(model, loss, slices(data, 17), epoch,
                          Options{.epochs = 40,
                                  .hyper_steps = 3,
                                  .newton = reduction == Reduction::Sum,
                                  .posterior = {.likelihood = Likelihood::Regression}});
    Laplace<double> exact =
        fit_laplace(model, loss, slices(data, 17), {.likelihood = Likelihood::Regression});
    tune_by_newton(exact, {.recentre = true, .tolerance = 1e-12});
    CHECK(result.posterior.log_marginal_likelihood() ==
          Approx(exact.log_marginal_likelihood()).epsilon(1e-9));
    CHECK(result.posterior.prior().precision()(0) ==
          Approx(exact.prior().precision()(0)).epsilon(1e-5));
    CHECK(result.posterior.observation_noise() == Approx(exact.observation_noise()).epsilon(1e-5));
    CHECK(result.posterior.mean() == flat_parameters(model));
    CHECK(result.evidences.size() == 40);
    CHECK(result.evidences.back() > result.evidences.front());
  }
}

TEST_CASE("Evidence training: fits are as often as asked for, and the best one is kept") {
  Rng rng(2);
  const Data data = linear_data(20, rng);
  const MeanSquaredError<double> loss;
  AnyModel model;
  append_linear(model, {5, 2}, rng, true);
  const Vector<double> start = flat_parameters(model);
  std::vector<Index> epochs;
  // Each epoch leads further away.
  const auto epoch = [&](const PriorPenalty<double>&, Index number) {
    epochs.push_back(number);
    set_flat_parameters(model, static_cast<double>(number) * start);
  };
  Options options{.epochs = 9,
                  .burn_in = 2,
                  .every = 3,
                  .posterior = {.likelihood = Likelihood::Regression},
                  .full = true};
  auto result = train_by_evidence(model, loss, slices(data, 20), epoch, options);
  CHECK(epochs == std::vector<Index>{1, 2, 3, 4, 5, 6, 7, 8, 9});
  CHECK(result.evidences.size() == 3);  // after 3, 6 and 9
  CHECK(result.epoch == 3);
  CHECK(result.posterior.is_full());
  CHECK(flat_parameters(model) == 3 * start);
  CHECK(*std::max_element(result.evidences.begin(), result.evidences.end()) ==
        result.posterior.log_marginal_likelihood());

  epochs.clear();
  options.every = 1;
  options.patience = 2;
  result = train_by_evidence(model, loss, slices(data, 20), epoch, options);
  CHECK(epochs.back() == 5);
  CHECK(result.evidences.size() == 3);
}

TEST_CASE("Prior penalty: its gradient is that of the posterior's mode, or a weight decay") {
  Rng rng(3);
  const Data data = linear_data(12, rng);
  AnyModel model;
  append_linear(model, {5, 2}, rng, true);
  for (const Reduction reduction : {Reduction::Mean, Reduction::Sum, Reduction::ExampleMean}) {
    const MeanSquaredError<double> loss({.reduction = reduction});
    Options options{.epochs = 1,
                    .posterior = {.likelihood = Likelihood::Regression,
                                  .prior_precision = {0.7},
                                  .observation_noise = 0.4,
                                  .temperature = 2}};
    const double kappa = 1 / (0.4 * 0.4 * 2);
    const Vector<double> theta = flat_parameters(model);
    const auto expected = [&](Index batch) -> double {
      return loss.scale(2, batch) * static_cast<double>(batch) / 12 / kappa;
    };
    train_by_evidence(
        model, loss, slices(data, 12),
        [&](const PriorPenalty<double>& penalty, Index) {
          for (const Index batch : {3, 12}) {
            CHECK(penalty.weight_decay(batch) == Approx(0.7 * expected(batch)).epsilon(1e-14));
            model.gradient().setZero();
            penalty.add_gradient(model, batch);
            CHECK(relative_error(Vector<double>(model.gradient()), 0.7 * expected(batch) * theta) <
                  1e-14);
          }
          CHECK(message_of<OptionError>([&] { penalty.weight_decay(0); }) ==
                "kfac::PriorPenalty::weight_decay: 'batch' is 0, expected >= 1");
        },
        options);
    options.posterior.prior_precision = {0.7, 3};
    options.posterior.prior_grouping = PriorGrouping::Tensor;
    options.posterior.prior_mean = Vector<double>::Constant(1, 0.1);
    set_flat_parameters(model, theta);
    train_by_evidence(
        model, loss, slices(data, 12),
        [&](const PriorPenalty<double>& penalty, Index) {
          model.gradient().setZero();
          penalty.add_gradient(model, 12);
          Vector<double> delta(12);
          delta << Vector<double>::Constant(10, 0.7), Vector<double>::Constant(2, 3);
          CHECK(relative_error(
                    Vector<double>(model.gradient()),
                    Vector<double>(expected(12) * delta.array() * (theta.array() - 0.1))) < 1e-14);
          CHECK(message_of<StateError>([&] { penalty.weight_decay(12); }) ==
                "kfac::PriorPenalty::weight_decay: the prior is not one precision around 0, "
                "expected add_gradient for it");
        },
        options);
  }
}

TEST_CASE("Evidence training: options out of range are named") {
  Rng rng(4);
  const Data data = linear_data(6, rng);
  AnyModel model;
  append_linear(model, {5, 2}, rng, true);
  const auto message = [&](const Options& options) {
    return message_of<OptionError>([&] {
      train_by_evidence(
          model, MeanSquaredError<double>(), slices(data, 6), [](const auto&, Index) {}, options);
    });
  };
  CHECK(message({.epochs = 0}) == "kfac::train_by_evidence: 'epochs' is 0, expected >= 1");
  CHECK(message({.epochs = 3, .burn_in = 3}) ==
        "kfac::train_by_evidence: 'burn_in' is 3, expected >= 0 and below 'epochs'");
  CHECK(message({.every = 0}) == "kfac::train_by_evidence: 'every' is 0, expected >= 1");
  CHECK(message({.hyper_steps = 0}) ==
        "kfac::train_by_evidence: 'hyper_steps' is 0, expected >= 1");
  CHECK(message({.patience = -1}) == "kfac::train_by_evidence: 'patience' is -1, expected >= 0");
}

}  // namespace kfac::test::evidence_training_test
