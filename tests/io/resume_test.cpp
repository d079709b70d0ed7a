#include <string>
#include <vector>

#include <kfac/curvature/ekfac_block.hpp>
#include <kfac/data/batch_stream.hpp>
#include <kfac/io/checkpoint.hpp>
#include <kfac/loss/softmax_cross_entropy.hpp>
#include <kfac/nn/activations.hpp>
#include <kfac/nn/dropout.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/sequential.hpp>
#include <kfac/optim/kfac_optimizer.hpp>

#include "files.hpp"
#include "support/catch.hpp"
#include "support/eigensolver.hpp"
#include "support/saved_state.hpp"

// A run of 50 steps is saved at each of them; taken up again from any file, by objects that are
// made anew, it must go on to the last bit as if it had not stopped.

namespace kfac::test::resume_test {

namespace {

using Loss = SoftmaxCrossEntropy<double>;

auto network(std::uint64_t seed) {
  Rng rng(seed);
  return Sequential{Linear<double>(4, 6, rng), Tanh<double>{}, Dropout<double>(0.2, rng),
                    Linear<double>(6, 3, rng)};
}
using Model = decltype(network(0));

Dataset<double, Labels> data() {
  Rng rng(7);
  Dataset<double, Labels> result{Matrix<double>(4, 60), Labels(60)};
  rng.fill_normal(result.inputs);
  for (int& label : result.targets) label = static_cast<int>(rng.below(3));
  return result;
}

/// All there is to a run.
struct Run {
  Model model;
  KfacOptimizer<Model, Loss> optimizer;
  BatchStream<double, Labels> stream;

  Run(std::uint64_t seed, const Dataset<double, Labels>& data, const KfacOptions<double>& options,
      const BlockFactory<double>& blocks)
      : model(network(seed)),
        optimizer(model, Loss(), options, blocks),
        stream(data, 16, Rng(seed)) {}

  void step() {
    const auto [x, y] = stream.next();
    REQUIRE(optimizer.step(x, y).ok());
  }
  std::vector<io::CheckpointPart> parts() {
    return {{"model", model}, {"optimizer", optimizer}, {"stream", stream}};
  }
  bool same_as(Run& other) {
    return SavedState(model) == SavedState(other.model) &&
           SavedState(optimizer) == SavedState(other.optimizer) &&
           SavedState(stream) == SavedState(other.stream);
  }
};

void check_resumed(const KfacOptions<double>& options, const BlockFactory<double>& blocks) {
  constexpr int kSteps = 50;
  const TemporaryFolder folder;
  const auto examples = data();
  Run uninterrupted(1, examples, options, blocks);
  for (int step = 0; step < kSteps; ++step) {
    io::save_checkpoint(folder / std::to_string(step), uninterrupted.parts());
    uninterrupted.step();
  }
  for (int step = 0; step < kSteps; ++step) {
    CAPTURE(step);
    Run resumed(2, examples, options, blocks);
    io::load_checkpoint(folder / std::to_string(step), resumed.parts());
    CHECK(resumed.optimizer.steps() == step);
    for (int rest = step; rest < kSteps; ++rest) resumed.step();
    REQUIRE(resumed.same_as(uninterrupted));
  }
}

}  // namespace

TEST_CASE("resume: the optimizer of Martens and Grosse goes on to the bit from any of 50 steps",
          "[io]") {
  check_resumed({.adaptive_learning_rate = true,
                 .adaptive_momentum = true,
                 .damping = 1.0,
                 .damping_adaptation = {.every = 5},
                 .gamma_search = {.every = 8},
                 .factor_every = 2,
                 .inverse_every = 7,
                 .rejection = {.enabled = true, .shrinks = 1},
                 .weight_decay = 1e-4,
                 .fisher = FisherType::MonteCarlo},
                block_factory<KroneckerBlock<double>>());
}

TEST_CASE("resume: EKFAC with threads, a second level and averaged gradients does likewise",
          "[io]") {
  check_resumed(
      {.learning_rate = [](Index step) { return 0.1 / (1.0 + 0.01 * static_cast<double>(step)); },
       .momentum_type = MomentumType::AveragedGradient,
       .damping = 0.1,
       .factor_every = 3,
       .inverse_every = 6,
       .moments_every = 2,
       .factor_fraction = 0.5,
       .decompose_every = 3,
       .stagger_inverses = true,
       .asynchronous_inverses = true,
       .threads = 2,
       .burn_in = 2,
       .fisher = FisherType::MonteCarlo,
       .two_level = {.space = CoarseSpace::Spectral, .form = CoarseForm::Deflated}},
      block_factory<EkfacBlock<double>>());
}

}  // namespace kfac::test::resume_test
