// clang-format off: before Eigen
#include "noalloc/warm.hpp"
// clang-format on

#include <stdexcept>

#include <kfac/curvature/diagonal_block.hpp>
#include <kfac/curvature/ekfac_block.hpp>
#include <kfac/curvature/full_block.hpp>
#include <kfac/curvature/kronecker_eigen_block.hpp>
#include <kfac/curvature/kronecker_fit_block.hpp>
#include <kfac/loss/softmax_cross_entropy.hpp>
#include <kfac/nn/activations.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/sequential.hpp>
#include <kfac/optim/kfac_optimizer.hpp>

#include "support/eigensolver.hpp"

using namespace kfac;
using namespace kfac::test;

// An eigendecomposition allocates, so those blocks are refreshed outside of what is counted.
TEST_CASE("noalloc: warm training steps with every kind of block", "[noalloc]") {
  Rng rng(1);
  Sequential model{Linear<float>(kInputs, kHidden, rng), Tanh<float>{},
                   Linear<float>(kHidden, kOutputs, rng)};
  const SoftmaxCrossEntropy<float> loss;
  const auto check = [&](const BlockFactory<float>& blocks, Index inverse_every) {
    KfacOptimizer optimizer(model, loss, {.inverse_every = inverse_every}, blocks);
    check_warm(kInputs, [&](const Batch& batch) {
      if (!optimizer.step(batch.x, batch.y).ok()) throw std::runtime_error("the step failed");
    });
  };
  SECTION("diagonal") {
    check(block_factory<DiagonalBlock<float>>(), 1);
  }
  SECTION("scaled identity") {
    check(block_factory<ScaledIdentityBlock<float>>(), 1);
  }
  SECTION("K-FAC in its eigenbasis") {
    check(block_factory<KroneckerEigenBlock<float>>(), 1000);
  }
  SECTION("EKFAC") {
    check(block_factory<EkfacBlock<float>>(), 1000);
  }
  SECTION("KFOC") {
    check(block_factory<KroneckerFitBlock<float>>(), 1000);
  }
}
