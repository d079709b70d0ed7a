// clang-format off: before Eigen
#include "noalloc/warm.hpp"
// clang-format on

#include <stdexcept>

#include <kfac/core/schedules.hpp>
#include <kfac/loss/softmax_cross_entropy.hpp>
#include <kfac/nn/activations.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/sequential.hpp>
#include <kfac/optim/adam.hpp>
#include <kfac/optim/gradient_optimizer.hpp>
#include <kfac/optim/rmsprop.hpp>
#include <kfac/optim/sgd.hpp>

using namespace kfac::test;

namespace {

/// With all that an option can ask for: schedules, clipping, weight decay of some parameters.
template <template <class> class Rule>
void check_rule(typename Rule<float>::Options options) {
  namespace schedules = kfac::schedules;
  options.learning_rate = schedules::linear_warmup(5, schedules::cosine(0.1f, 0.01f, 20));
  options.weight_decay = schedules::piecewise(1e-3f, {{8, 1e-4f}}) * 0.5f;
  options.gradient_clip = 0.1f;
  options.decays = [](const auto&, const auto& parameter) { return parameter.name != "bias"; };

  kfac::Rng rng(1);
  kfac::Sequential model{kfac::Linear<float>(kInputs, kHidden, rng), kfac::Tanh<float>{},
                         kfac::Linear<float>(kHidden, kOutputs, rng)};
  const kfac::SoftmaxCrossEntropy<float> loss;
  auto optimizer = kfac::make_optimizer<Rule>(model, loss, options);
  check_warm(kInputs, [&](const Batch& batch) {
    if (!optimizer.step(batch.x, batch.y).ok()) throw std::runtime_error("the step failed");
  });
}

}  // namespace

TEST_CASE("noalloc: warm steps of the classical optimizers", "[noalloc]") {
  SECTION("Sgd") {
    check_rule<kfac::Sgd>({.momentum = 0.9f, .nesterov = true});
  }
  SECTION("Adam") {
    check_rule<kfac::Adam>({.beta1 = kfac::schedules::exponential(0.9f, 0.99f)});
  }
  SECTION("AdamW") {
    check_rule<kfac::AdamW>({});
  }
  SECTION("RmsProp") {
    check_rule<kfac::RmsProp>({.momentum = 0.5f, .decoupled = true});
  }
}
