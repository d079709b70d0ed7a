#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include <kfac/optim/callbacks.hpp>

#include "support/catch.hpp"
#include "support/saved_state.hpp"

namespace kfac::test::callbacks_test {

namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr auto kContinue = TrainingControl::Continue;
constexpr auto kStop = TrainingControl::Stop;

/// Calls `callback` for steps 1, 2, ..., in epochs of four, with the losses of batches; returns the
/// step at which it wanted to stop, or 0.
template <class Callback>
Index stopped_at(Callback& callback, const std::vector<double>& losses) {
  StepReport<double> report;
  for (std::size_t i = 0; i < losses.size(); ++i) {
    report.loss = losses[i];
    const auto step = static_cast<Index>(i) + 1;
    const TrainingEvent<double> event{step, (step - 1) / 4, step % 4 == 0, 100, 0, report};
    if (detail::run_callback(callback, event) == kStop) return step;
  }
  return 0;
}

const std::vector<double> kTwelve(12, 1.0);

/// The loss of the batch, as it is.
constexpr auto kLoss = [](const auto& event) -> std::optional<double> { return event.report.loss; };

}  // namespace

TEST_CASE("every: calls after every so many steps", "[optim]") {
  std::vector<Index> steps;
  auto callback =
      every(5, [&](const TrainingEvent<double>& event) { steps.push_back(event.step); });
  CHECK(stopped_at(callback, kTwelve) == 0);
  CHECK(steps == std::vector<Index>{5, 10});

  int calls = 0;
  auto stopping = every(3, [&] { return ++calls == 2 ? kStop : kContinue; });
  CHECK(stopped_at(stopping, kTwelve) == 6);
  CHECK_THROWS_WITH(every(0, [] {}), "kfac::every: 'steps' is 0, expected >= 1");
  CHECK_THROWS_AS(every(0, [] {}), OptionError);
}

TEST_CASE("at_epoch_end: calls after the last step of each epoch", "[optim]") {
  std::vector<Index> steps;
  auto callback =
      at_epoch_end([&](const TrainingEvent<double>& event) { steps.push_back(event.step); });
  CHECK(stopped_at(callback, kTwelve) == 0);
  CHECK(steps == std::vector<Index>{4, 8, 12});
  auto stopping = at_epoch_end([] { return kStop; });
  CHECK(stopped_at(stopping, kTwelve) == 4);
}

TEST_CASE("progress: shows each step and how many there will be", "[optim]") {
  std::vector<std::pair<Index, Index>> shown;
  auto callback = progress([&](Index step, Index steps) { shown.emplace_back(step, steps); });
  CHECK(stopped_at(callback, {1, 1, 1}) == 0);
  CHECK(shown == std::vector<std::pair<Index, Index>>{{1, 100}, {2, 100}, {3, 100}});
}

TEST_CASE("EarlyStopping: stops after more than its patience of values no better", "[optim]") {
  const auto stop = [](EarlyStoppingOptions options, const std::vector<double>& values) {
    EarlyStopping stopping(options, kLoss);
    return stopped_at(stopping, values);
  };
  CHECK(stop({.patience = 2}, {5, 4, 4, 4, 4, 4}) == 5);
  CHECK(stop({.patience = 0}, {5, 4, 4, 4}) == 3);
  CHECK(stop({.patience = 2}, {5, 6, 6, 4, 5, 5, 3, 9, 9}) == 0);
  CHECK(stop({.patience = 1}, {5, 6, 7}) == 3);
  // Small gains do not count, until they add up.
  CHECK(stop({.patience = 1, .min_delta = 0.5}, {5, 4.8, 4.6, 4.4}) == 3);
  CHECK(stop({.patience = 2, .min_delta = 0.5}, {5, 4.8, 4.6, 4.4}) == 0);
  CHECK(stop({.patience = 1, .maximize = true}, {0.1, 0.2, 0.3, 0.2, 0.3}) == 5);
  CHECK(stop({.patience = 1}, {0.1, 0.2, 0.3}) == 3);
  // NaN is never better, at the beginning either.
  CHECK(stop({.patience = 1}, {kNan, kNan}) == 2);
  CHECK(stop({.patience = 1}, {kNan, 7, kNan, 6, kNan, kNan}) == 6);
}

TEST_CASE("EarlyStopping: says which value was the best and when", "[optim]") {
  EarlyStopping stopping({.patience = 5}, kLoss);
  CHECK(std::isnan(stopping.best()));
  CHECK(stopping.best_step() == 0);
  std::vector<Index> improved;
  auto callback = [&](const TrainingEvent<double>& event) {
    const TrainingControl control = stopping(event);
    if (stopping.improved()) improved.push_back(event.step);
    return control;
  };
  stopped_at(callback, {5, 6, 3, 4, 3});
  CHECK(stopping.best() == 3);
  CHECK(stopping.best_step() == 3);
  CHECK(improved == std::vector<Index>{1, 3});
}

TEST_CASE("EarlyStopping: a metric of each epoch is asked at its end only", "[optim]") {
  int asked = 0;
  EarlyStopping stopping({.patience = 1}, each_epoch([&] {
                           ++asked;
                           return 1.0F;
                         }));
  CHECK(stopped_at(stopping, kTwelve) == 12);
  CHECK(asked == 3);
  CHECK(stopping.best_step() == 4);
}

TEST_CASE("MeanBatchLoss: is the mean over each epoch, or over so many steps", "[optim]") {
  const auto values = [](MeanBatchLoss metric) {
    std::vector<double> means;
    auto callback = [&](const TrainingEvent<double>& event) {
      if (const auto mean = metric(event)) means.push_back(*mean);
    };
    stopped_at(callback, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10});
    return means;
  };
  CHECK(values(MeanBatchLoss()) == std::vector<double>{2.5, 6.5});
  CHECK(values(MeanBatchLoss(3)) == std::vector<double>{2, 5, 8});
  CHECK_THROWS_WITH(MeanBatchLoss(-1), "kfac::MeanBatchLoss: 'steps' is -1, expected >= 0");

  EarlyStopping stopping({.patience = 0});  // by default the mean of each epoch
  CHECK(stopped_at(stopping, {1, 9, 1, 9, 9, 9, 9, 9}) == 8);
}

TEST_CASE("EarlyStopping: goes on from its state as if it had not been interrupted", "[optim]") {
  const std::vector<double> losses{9, 8, 7, 8, 8, 9, 8, 8, 9, 9, 9, 9};
  const auto make = [] { return EarlyStopping({.patience = 1}, MeanBatchLoss(2)); };
  auto whole = make();
  const Index expected = stopped_at(whole, losses);
  REQUIRE(expected == 8);
  for (std::size_t saved_at = 1; saved_at < 8; ++saved_at) {
    auto first = make(), resumed = make();
    stopped_at(first, {losses.begin(), losses.begin() + static_cast<std::ptrdiff_t>(saved_at)});
    SavedState(first).restore(resumed);
    const std::vector<double> rest(losses.begin() + static_cast<std::ptrdiff_t>(saved_at),
                                   losses.end());
    CHECK(stopped_at(resumed, rest) + static_cast<Index>(saved_at) == expected);
    CHECK(resumed.best() == whole.best());
  }
}

TEST_CASE("EarlyStopping: options out of range are named", "[optim][error]") {
  CHECK_THROWS_WITH(EarlyStopping({.patience = -1}),
                    "kfac::EarlyStopping: 'patience' is -1, expected >= 0");
  CHECK_THROWS_WITH(EarlyStopping({.min_delta = -0.5}),
                    "kfac::EarlyStopping: 'min_delta' is -0.5, expected >= 0 and finite");
  CHECK_THROWS_AS(EarlyStopping({.min_delta = kNan}), OptionError);
}

}  // namespace kfac::test::callbacks_test
