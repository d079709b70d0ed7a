#include <chrono>
#include <limits>
#include <stdexcept>
#include <thread>
#include <vector>

#include <kfac/loss/softmax_cross_entropy.hpp>
#include <kfac/optim/fit.hpp>
#include <kfac/optim/sgd.hpp>
#include <kfac/optim/train_step.hpp>

#include "optim/scripted_training.hpp"
#include "optim/toy.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"
#include "support/saved_state.hpp"

namespace kfac::test::fit_test {

namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

using Event = TrainingEvent<double>;

/// SGD that takes batches.
struct Trainer {
  ToyNetwork<> model = toy_network();
  SoftmaxCrossEntropy<double> loss;
  Sgd<double> sgd{model, {.learning_rate = 0.1, .momentum = 0.9}};

  const StepReport<double>& step(const ConstMatrixRef<double>& x,
                                 const Eigen::Ref<const Labels>& y) {
    return train_step(model, loss, sgd, x, y);
  }
};

Dataset<double> random_data(Index examples) {
  Rng rng(7);
  Dataset<double> data{normal<double>(2, examples, rng), Labels(examples)};
  for (int& label : data.targets) label = static_cast<int>(rng.below(3));
  return data;
}

}  // namespace

TEST_CASE("fit: is the loop over batches and steps", "[optim][exact]") {
  const auto data = random_data(23);
  Trainer by_hand, fitted;
  Rng rng(5);
  std::vector<double> losses;
  for (int epoch = 0; epoch < 3; ++epoch)
    for (const auto& [x, y] : batches(data, 5, rng)) losses.push_back(by_hand.step(x, y).loss);

  BatchStream stream(data, 5, Rng(5));
  std::vector<double> seen;
  const FitResult result = fit(fitted, stream, {.epochs = 3},
                               [&](const Event& event) { seen.push_back(event.report.loss); });
  CHECK(seen == losses);
  CHECK(parameters_of(fitted.model) == parameters_of(by_hand.model));
  CHECK(result.steps == 15);
  CHECK(result.end == FitEnd::Finished);
  CHECK(result.status == StepStatus::Ok);
}

TEST_CASE("fit: events count steps and epochs", "[optim]") {
  const auto data = blank_examples(10);
  BatchStream stream(data, 4, Rng(1));
  ScriptedOptimizer optimizer({5, 4, 3, 2, 1});
  std::vector<Index> steps, epochs, ends, last_steps;
  std::vector<double> losses;
  double seconds = 0;
  fit(optimizer, stream, {.steps = 7}, [&](const Event& event) {
    steps.push_back(event.step);
    epochs.push_back(event.epoch);
    if (event.epoch_ended) ends.push_back(event.step);
    last_steps.push_back(event.steps);
    losses.push_back(event.report.loss);
    CHECK(event.seconds >= seconds);
    seconds = event.seconds;
  });
  CHECK(steps == std::vector<Index>{1, 2, 3, 4, 5, 6, 7});
  CHECK(epochs == std::vector<Index>{0, 0, 0, 1, 1, 1, 2});
  CHECK(ends == std::vector<Index>{3, 6});
  CHECK(last_steps == std::vector<Index>(7, 7));
  CHECK(losses == std::vector<double>{5, 4, 3, 2, 1, 1, 1});
  CHECK(optimizer.examples == 24);
}

TEST_CASE("fit: ends at the first of its limits, which count from the stream's beginning",
          "[optim]") {
  const auto data = blank_examples(10);
  const auto steps_with = [&](const FitOptions& options, Index before = 0) {
    BatchStream stream(data, 4, Rng(1));  // three batches an epoch
    for (Index i = 0; i < before; ++i) stream.next();
    ScriptedOptimizer optimizer;
    const FitResult result = fit(optimizer, stream, options);
    CHECK(result.end == FitEnd::Finished);
    CHECK(result.steps == optimizer.steps);
    return result.steps;
  };
  CHECK(steps_with({.steps = 5}) == 5);
  CHECK(steps_with({.epochs = 2}) == 6);
  CHECK(steps_with({.steps = 5, .epochs = 2}) == 5);
  CHECK(steps_with({.steps = 8, .epochs = 2}) == 6);
  CHECK(steps_with({.steps = 5}, 2) == 3);
  CHECK(steps_with({.epochs = 2}, 4) == 2);
  CHECK(steps_with({.steps = 5}, 5) == 0);
  CHECK(steps_with({.steps = 5, .seconds = 3600}) == 5);
}

TEST_CASE("fit: seconds are those of steps, not of callbacks", "[optim]") {
  struct SlowOptimizer : ScriptedOptimizer {
    const StepReport<double>& step(const ConstMatrixRef<double>& x,
                                   const Eigen::Ref<const Labels>& y) {
      std::this_thread::sleep_for(std::chrono::milliseconds(4));
      return ScriptedOptimizer::step(x, y);
    }
  };
  const auto data = blank_examples(10);
  BatchStream stream(data, 4, Rng(1));
  SlowOptimizer optimizer;
  const FitResult limited = fit(optimizer, stream, {.seconds = 0.02});
  CHECK(limited.end == FitEnd::Finished);
  CHECK(limited.steps >= 1);
  CHECK(limited.steps <= 5);
  CHECK(limited.seconds >= 0.02);

  ScriptedOptimizer fast;
  const FitResult waited = fit(fast, stream, {.steps = stream.steps() + 2},
                               [] { std::this_thread::sleep_for(std::chrono::milliseconds(200)); });
  CHECK(waited.seconds < 0.2);
}

TEST_CASE("fit: a callback ends training, after the others were called", "[optim]") {
  const auto data = blank_examples(10);
  BatchStream stream(data, 4, Rng(1));
  ScriptedOptimizer optimizer;
  int before = 0, after = 0;
  const FitResult result = fit(
      optimizer, stream, {}, [&] { ++before; },
      [](const Event& event) {
        return event.step == 4 ? TrainingControl::Stop : TrainingControl::Continue;
      },
      [&] { ++after; });
  CHECK(result.end == FitEnd::Callback);
  CHECK(result.steps == 4);
  CHECK(before == 4);
  CHECK(after == 4);
}

TEST_CASE("fit: a step that fails ends training, and is shown to callbacks", "[optim]") {
  const auto data = blank_examples(10);
  BatchStream stream(data, 4, Rng(1));
  ScriptedOptimizer optimizer({1, 1, kNan, 1});
  std::vector<StepStatus> seen;
  const FitResult result = fit(optimizer, stream, {.steps = 10},
                               [&](const Event& event) { seen.push_back(event.report.status); });
  CHECK(result.end == FitEnd::StepFailed);
  CHECK(result.status == StepStatus::NonFiniteLoss);
  CHECK(result.steps == 3);
  CHECK(seen == std::vector<StepStatus>{StepStatus::Ok, StepStatus::Ok, StepStatus::NonFiniteLoss});
}

TEST_CASE("fit: tolerated_failures are so many in a row", "[optim]") {
  const auto data = blank_examples(10);
  const auto run = [&](Index tolerated) {
    BatchStream stream(data, 4, Rng(1));
    ScriptedOptimizer optimizer({1, kNan, 1, kNan, kNan, 1, kNan, kNan, kNan, 1});
    return fit(optimizer, stream, {.steps = 12, .tolerated_failures = tolerated});
  };
  CHECK(run(0).steps == 2);
  CHECK(run(1).steps == 5);
  CHECK(run(2).steps == 9);
  CHECK(run(2).end == FitEnd::StepFailed);
  CHECK(run(3).steps == 12);
  CHECK(run(3).end == FitEnd::Finished);
}

TEST_CASE("fit: finish is called once at the end", "[optim]") {
  struct Counter {
    int steps = 0, ends = 0;
    void operator()(const Event&) { ++steps; }
    void finish() { ++ends; }
  };
  const auto data = blank_examples(10);
  BatchStream stream(data, 4, Rng(1));
  ScriptedOptimizer optimizer;
  Counter counter;
  fit(optimizer, stream, {.steps = 5}, counter);
  CHECK(counter.steps == 5);
  CHECK(counter.ends == 1);
}

TEST_CASE("fit: a stream resumed after any step trains the same to the end", "[optim]") {
  const auto data = random_data(11);
  Trainer whole;
  BatchStream stream(data, 4, Rng(5));
  fit(whole, stream, {.steps = 8});
  for (Index saved_at = 1; saved_at <= 8; ++saved_at) {
    Trainer trainer;
    BatchStream begun(data, 4, Rng(5));
    fit(trainer, begun, {.steps = saved_at});
    BatchStream resumed(data, 4, Rng(6));
    SavedState(begun).restore(resumed);
    fit(trainer, resumed, {.steps = 8});
    CHECK(parameters_of(trainer.model) == parameters_of(whole.model));
  }
}

TEST_CASE("fit: options out of range are named", "[optim][error]") {
  const auto data = blank_examples(10);
  BatchStream stream(data, 4, Rng(1));
  ScriptedOptimizer optimizer;
  const auto with = [&](const FitOptions& options) { fit(optimizer, stream, options, [] {}); };
  CHECK_THROWS_WITH(with({.steps = -1}), "kfac::fit: 'steps' is -1, expected >= 0");
  CHECK_THROWS_WITH(with({.epochs = -2}), "kfac::fit: 'epochs' is -2, expected >= 0");
  CHECK_THROWS_WITH(with({.seconds = -1}), "kfac::fit: 'seconds' is -1, expected >= 0 and finite");
  CHECK_THROWS_AS(with({.seconds = kNan}), OptionError);
  CHECK_THROWS_WITH(with({.tolerated_failures = -1}),
                    "kfac::fit: 'tolerated_failures' is -1, expected >= 0");
  CHECK_THROWS_WITH(fit(optimizer, stream, {}),
                    "kfac::fit: 'steps' is 0, expected a limit or a callback that ends it");
  CHECK_THROWS_AS(fit(optimizer, stream, {}), OptionError);
  CHECK(optimizer.steps == 0);
  CHECK(stream.steps() == 0);
}

TEST_CASE("fit: what a callback throws goes through", "[optim][error]") {
  const auto data = blank_examples(10);
  BatchStream stream(data, 4, Rng(1));
  ScriptedOptimizer optimizer;
  CHECK_THROWS_WITH(fit(optimizer, stream, {.steps = 3}, [] { throw std::runtime_error("full"); }),
                    "full");
  CHECK(stream.steps() == 1);
}

}  // namespace kfac::test::fit_test
