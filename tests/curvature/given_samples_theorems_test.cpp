#include "support/catch.hpp"
#include "support/dense_blocks.hpp"

// Where K-FAC equals the exact block of data that are alike, or of the same given samples.

namespace kfac::test::given_samples_theorems_test {

namespace {

constexpr double kExact = 1e-10;

const BlockFactory<double> kKroneckerBlocks = block_factory<KroneckerBlock<double>>();

AnyModel tanh_network(Rng& rng, bool bias) {
  AnyModel model;
  append_linear(model, {4, 5}, rng, bias);
  model.push_back(Tanh<double>{});
  append_linear(model, {5, 3}, rng, bias);
  model.push_back(Tanh<double>{});
  append_linear(model, {3, 3}, rng, bias);
  return model;
}

/// Calls `body(rng, bias, options of the loss)` for settings of all kinds.
template <class Body>
void for_each_setting(Body&& body) {
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    INFO("seed " << seed);
    Rng rng(seed);
    body(rng, seed % 2 == 0,
         LossOptions{.reduction = seed / 2 % 2 == 0 ? Reduction::Mean : Reduction::Sum});
  }
}

/// Targets of the task, drawn anew.
Matrix<double> drawn(const Task& task, Index outputs, Rng& rng) {
  return task.loss.sample(Matrix<double>::Zero(outputs, task.examples()), rng);
}

Blocks given(AnyModel& model, const Task& task, const Samples& samples) {
  return estimated_blocks(model, task, {}, kKroneckerBlocks, samples);
}

}  // namespace

TEST_CASE("T1: for one example, K-FAC of given samples is the Fisher of the same samples") {
  for_each_setting([](Rng& rng, bool bias, const LossOptions& options) {
    AnyModel model = tanh_network(rng, bias);
    for (const AnyLoss& loss : all_losses(options)) {
      const Task task(model, loss, {4}, 1, rng);
      Samples samples;
      for (Index count = 1 + rng.below(4); count > 0; --count)
        samples.push_back(drawn(task, 3, rng));
      CHECK(largest_error(given(model, task, samples), fisher_blocks(model, task, samples)) <
            kExact);
      CHECK(largest_error(estimated_blocks(model, task, {.fisher = FisherType::Empirical}),
                          fisher_blocks(model, task, {task.y})) < kExact);
    }
  });
}

TEST_CASE("T1b: for examples that are all the same, K-FAC is exact") {
  for_each_setting([](Rng& rng, bool bias, const LossOptions& options) {
    AnyModel model = tanh_network(rng, bias);
    const Index examples = 2 + rng.below(4);
    for (const AnyLoss& loss : all_losses(options)) {
      Task task(model, loss, {4}, examples, rng);
      const auto alike = [](const Matrix<double>& data) {
        return Matrix<double>(data.col(0).replicate(1, data.cols()));
      };
      task.x = alike(task.x);
      task.y = alike(task.y);
      const Samples samples{alike(drawn(task, 3, rng)), alike(drawn(task, 3, rng))};
      CHECK(largest_error(estimated_blocks(model, task, {}), ggn_blocks(model, task)) < kExact);
      CHECK(largest_error(estimated_blocks(model, task, {.fisher = FisherType::Empirical}),
                          fisher_blocks(model, task, {task.y})) < kExact);
      CHECK(largest_error(given(model, task, samples), fisher_blocks(model, task, samples)) <
            kExact);
    }
  });
}

TEST_CASE(
    "T2c: in deep linear networks with MSE, noise that all examples share makes K-FAC exact") {
  for_each_setting([](Rng& rng, bool bias, const LossOptions& options) {
    AnyModel model;
    append_linear(model, {4, 5, 3, 2}, rng, bias);
    const Task task(model, MeanSquaredError<double>(options), {4}, 2 + rng.below(6), rng);
    const Matrix<double> outputs = model.forward(task.x);
    const auto noisy = [&](const Vector<double>& noise) -> Matrix<double> {
      return outputs.colwise() + noise;
    };
    Samples samples;
    for (int sample = 0; sample < 3; ++sample) samples.push_back(noisy(random_matrix(2, 1, rng)));
    CHECK(largest_error(given(model, task, samples), fisher_blocks(model, task, samples)) < kExact);

    // With a covariance of I, it is the GGN.
    const double root = std::sqrt(2.0);
    samples = {noisy(Vector<double>::Unit(2, 0) * root), noisy(Vector<double>::Unit(2, 1) * root)};
    CHECK(largest_error(given(model, task, samples), ggn_blocks(model, task)) < kExact);

    samples = {drawn(task, 2, rng)};
    CHECK(smallest(relative_errors(given(model, task, samples),
                                   fisher_blocks(model, task, samples))) > 1e-2);
  });
}

}  // namespace kfac::test::given_samples_theorems_test
