#pragma once

// clang-format off: before Eigen
#include "noalloc/warm.hpp"
// clang-format on

#include <stdexcept>

#include <kfac/loss/softmax_cross_entropy.hpp>
#include <kfac/optim/adam.hpp>
#include <kfac/optim/kfac_optimizer.hpp>
#include <kfac/optim/sgd.hpp>
#include <kfac/optim/train_step.hpp>

namespace kfac::test {

inline const SoftmaxCrossEntropy<float> kLoss;

/// Every way to train a model whose batches have that many features.
template <class Model>
void check_training(Model model, Index features) {
  const auto check_kfac = [&](const KfacOptions<float>& options) {
    KfacOptimizer optimizer(model, kLoss, options);
    check_warm(features, [&](const Batch& batch) {
      if (!optimizer.step(batch.x, batch.y).ok()) throw std::runtime_error("the step failed");
    });
  };
  SECTION("KfacOptimizer, exact Fisher") {
    check_kfac({.inverse_every = 3, .weight_decay = 1e-3f, .fisher = FisherType::Type2});
  }
  SECTION("KfacOptimizer, Monte-Carlo Fisher") {
    check_kfac(
        {.factor_every = 2, .inverse_every = 3, .fisher = FisherType::MonteCarlo, .samples = 2});
  }
  SECTION("KfacOptimizer, empirical Fisher") {
    check_kfac({.inverse_every = 3, .fisher = FisherType::Empirical});
  }
  SECTION("Preconditioner and Sgd") {
    Preconditioner preconditioner(model, {.factor_every = 2, .inverse_every = 3});
    Sgd sgd(model, {.momentum = 0.9f, .nesterov = true, .weight_decay = 1e-3f});
    Matrix<float> gradient(kOutputs, kLargestBatch);
    check_warm(features, [&](const Batch& batch) {
      const ConstMatrixMap<float> outputs = model.forward(batch.x);
      MatrixRef<float> into = gradient.leftCols(outputs.cols());
      kLoss.gradient(outputs, batch.y, into);
      model.backward(into);
      if (!preconditioner.step().ok() || !sgd.step().ok())
        throw std::runtime_error("the step failed");
    });
  }
  SECTION("train_step with Adam") {
    Adam adam(model, {.weight_decay = 1e-3f});
    check_warm(features,
               [&](const Batch& batch) { train_step(model, kLoss, adam, batch.x, batch.y); });
  }
}

}  // namespace kfac::test
