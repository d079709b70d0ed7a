// clang-format off: before Eigen
#include "noalloc/warm.hpp"
// clang-format on

#include <stdexcept>
#include <utility>
#include <vector>

#include <kfac/core/schedules.hpp>
#include <kfac/loss/softmax_cross_entropy.hpp>
#include <kfac/nn/activations.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/sequential.hpp>
#include <kfac/optim/kfac_optimizer.hpp>

using namespace kfac;
using namespace kfac::test;

// What else than the plain step (training.hpp) an optimizer can be asked for.
TEST_CASE("noalloc: warm steps of KfacOptimizer with its options", "[noalloc]") {
  Rng rng(1);
  Sequential model{Linear<float>(kInputs, kHidden, rng), Tanh<float>{},
                   Linear<float>(kHidden, kOutputs, rng)};
  const SoftmaxCrossEntropy<float> loss;
  const auto check = [&](const KfacOptions<float>& options) {
    KfacOptimizer optimizer(model, loss, options);
    check_warm(kInputs, [&](const Batch& batch) {
      if (!optimizer.step(batch.x, batch.y).ok()) throw std::runtime_error("the step failed");
    });
  };
  SECTION("the optimizer of Martens and Grosse, adapted at every step") {
    check({.adaptive_learning_rate = true,
           .adaptive_momentum = true,
           .damping_adaptation = {.every = 1},
           .gamma_search = {.every = 2},
           .inverse_every = 3,
           .weight_decay = 1e-3f});
  }
  SECTION("Nesterov, with bounds and rejection") {
    check({.momentum_type = MomentumType::Nesterov,
           .inverse_every = 3,
           .norm_constraint = 1e-2f,
           .gradient_clip = 0.1f,
           .rejection = {.enabled = true, .shrinks = 2},
           .weight_decay = 1e-3f,
           .decoupled_weight_decay = true});
  }
  SECTION("averaged gradients") {
    check({.momentum_type = MomentumType::AveragedGradient, .inverse_every = 3});
  }
  SECTION("Adam") {
    check({.learning_rate = 1e-2f, .momentum_type = MomentumType::Adam, .inverse_every = 3});
  }
  SECTION("RMSProp") {
    check({.learning_rate = 1e-2f, .momentum_type = MomentumType::RmsProp, .inverse_every = 3});
  }
  SECTION("staggered inverses, schedules, groups, and a part of the batch") {
    check({.learning_rate = schedules::cosine(0.1f, 0.01f, 20),
           .damping = [](Index step) { return 0.1f / static_cast<float>(1 + step); },
           .factor_every = [](Index step) { return step < 5 ? Index{1} : Index{2}; },
           .inverse_every = 3,
           .factor_fraction = 0.5f,
           .stagger_inverses = true,
           .groups = {{.contains = layers_named({"0"}), .damping_scale = 3},
                      {.contains = layers_named({"2"}), .learning_rate_scale = 0.5f}}});
  }
  SECTION("threads, and inverses that are made meanwhile") {
    const auto check_threads = [&](const KfacOptions<float>& options) {
      KfacOptimizer optimizer(model, loss, options);
      check_warm_threads(kInputs, options.threads, [&](const Batch& batch) {
        if (!optimizer.step(batch.x, batch.y).ok()) throw std::runtime_error("the step failed");
      });
    };
    check_threads({.inverse_every = 3, .asynchronous_inverses = true, .threads = 2});
    check_threads({.inverse_every = 3, .stagger_inverses = true, .threads = 3});
  }
}

TEST_CASE("noalloc: warm steps of KfacOptimizer on slices", "[noalloc]") {
  Rng rng(1);
  Sequential model{Linear<float>(kInputs, kHidden, rng), Tanh<float>{},
                   Linear<float>(kHidden, kOutputs, rng)};
  const SoftmaxCrossEntropy<float> loss;
  using Optimizer = KfacOptimizer<decltype(model), SoftmaxCrossEntropy<float>>;
  Optimizer optimizer(model, loss, {.inverse_every = 2});
  const Batch large(kInputs, 48), small(kInputs, 17);
  Optimizer::Slices slices;
  slices.emplace_back(large.x, large.y);
  slices.emplace_back(small.x, small.y);
  const auto step = [&] {
    if (!optimizer.step(slices).ok()) throw std::runtime_error("the step failed");
  };
  for (int i = 0; i < 4; ++i) step();
  for (int i = 0; i < 4; ++i) CHECK(allocations_in(step) == Allocations{});
}
