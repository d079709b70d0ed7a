#include <algorithm>
#include <thread>

#include <kfac/curvature/ekfac_block.hpp>
#include <kfac/loss/softmax_cross_entropy.hpp>
#include <kfac/nn/activations.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/sequential.hpp>
#include <kfac/optim/kfac_optimizer.hpp>

#include "support/catch.hpp"
#include "support/eigensolver.hpp"
#include "support/message_of.hpp"
#include "support/random.hpp"

namespace kfac::test::threads_test {

namespace {

/// The parameters after some steps of a network whose layers are large enough for threads: alike,
/// so that they are worked on at the same time, or one much larger than the others.
Matrix<double> trained(const KfacOptions<double>& options, const BlockFactory<double>& blocks,
                       bool alike) {
  constexpr Index kSteps = 8;
  constexpr Index kExamples = 8;
  const Index width = alike ? 60 : 30;
  Rng rng(1);
  Sequential model{Linear<double>(60, 60, rng),
                   Tanh<double>{},
                   Linear<double>(60, width, rng),
                   Tanh<double>{},
                   Linear<double>(width, width, rng),
                   Tanh<double>{},
                   Linear<double>(width, alike ? 60 : 3, rng)};
  const SoftmaxCrossEntropy<double> loss;
  KfacOptimizer optimizer(model, loss, options, blocks);
  Matrix<double> parameters(model.gradient().size(), kSteps);
  for (Index step = 0; step < kSteps; ++step) {
    Labels y(kExamples);
    for (int& label : y) label = static_cast<int>(rng.below(3));
    REQUIRE(optimizer.step(normal<double>(60, kExamples, rng), y).ok());
    Index offset = 0;
    for (const auto& layer : model.layers()) {
      parameters.col(step).segment(offset, layer.parameters.size()) = layer.parameters;
      offset += layer.parameters.size();
    }
  }
  return parameters;
}

void check_numbers(KfacOptions<double> options, const BlockFactory<double>& blocks, bool alike) {
  options.threads = 1;
  const Matrix<double> expected = trained(options, blocks, alike);
  {
    ThreadPool pool(1);
    const ParallelScope parallel(&pool);
    CHECK(trained(options, blocks, alike) == expected);
  }
  for (const Index threads : {2, 3}) {
    options.threads = threads;
    CHECK(trained(options, blocks, alike) == expected);
  }
}

}  // namespace

TEST_CASE("Threads: the numbers do not depend on how many there are", "[threads]") {
  const bool asynchronous = GENERATE(false, true);
  check_numbers({.inverse_every = 4,
                 .asynchronous_inverses = asynchronous,
                 .norm_constraint = 1e-2,
                 .fisher = FisherType::MonteCarlo},
                block_factory<KroneckerBlock<double>>(), true);
  check_numbers({.damping = 0.1,
                 .damping_adaptation = {.every = 3},
                 .gamma_search = {.every = 5},
                 .inverse_every = 3,
                 .stagger_inverses = true,
                 .asynchronous_inverses = asynchronous,
                 .fisher = FisherType::MonteCarlo},
                block_factory<KroneckerBlock<double>>(), false);
  check_numbers({.inverse_every = 4,
                 .decompose_every = 2,
                 .asynchronous_inverses = asynchronous,
                 .fisher = FisherType::MonteCarlo},
                block_factory<EkfacBlock<double>>(), true);
}

TEST_CASE("Threads: without any, inverses that are asynchronous are a period staler all the same") {
  KfacOptions<double> options{.inverse_every = 3, .fisher = FisherType::MonteCarlo};
  const auto blocks = block_factory<KroneckerBlock<double>>();
  const Matrix<double> at_once = trained(options, blocks, true);
  options.asynchronous_inverses = true;
  const Matrix<double> staler = trained(options, blocks, true);
  CHECK(staler.leftCols(3) == at_once.leftCols(3));
  CHECK(staler.col(3) != at_once.col(3));
}

TEST_CASE("Threads: the thread that steps is one of them") {
  Rng rng(1);
  Sequential model{Linear<double>(2, 2, rng)};
  const auto others = [&](Index threads) {
    const Preconditioner preconditioner(model, {.threads = threads});
    return preconditioner.pool() ? preconditioner.pool()->threads() : 0;
  };
  CHECK(others(1) == 0);
  CHECK(others(2) == 1);
  CHECK(others(4) == 3);
  CHECK(others(0) + 1 == static_cast<Index>(std::max(1U, std::thread::hardware_concurrency())));
}

TEST_CASE("Threads: a number of them that is negative is named") {
  Rng rng(1);
  Sequential model{Linear<double>(2, 2, rng)};
  CHECK(message_of<OptionError>([&] {
          KfacOptimizer(model, SoftmaxCrossEntropy<double>(), {.threads = -1});
        }) == "kfac::KfacOptimizer: 'threads' is -1, expected >= 0");
}

}  // namespace kfac::test::threads_test
