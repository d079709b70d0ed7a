// clang-format off: before Eigen
#include "noalloc/warm.hpp"
// clang-format on

#include <stdexcept>

#include <kfac/curvature/diagonal_input_block.hpp>
#include <kfac/curvature/unitwise_block.hpp>
#include <kfac/loss/softmax_cross_entropy.hpp>
#include <kfac/nn/activations.hpp>
#include <kfac/nn/batch_norm.hpp>
#include <kfac/nn/embedding.hpp>
#include <kfac/nn/flatten.hpp>
#include <kfac/nn/global_pooling.hpp>
#include <kfac/nn/layer_norm.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/positions.hpp>
#include <kfac/nn/sequential.hpp>
#include <kfac/optim/kfac_optimizer.hpp>

using namespace kfac;
using namespace kfac::test;

TEST_CASE("noalloc: warm training steps with normalisations and unit-wise blocks", "[noalloc]") {
  Rng rng(1);
  Sequential model{Linear<float>(kInputs, kHidden, rng),
                   LayerNorm<float>(kHidden),
                   Unflatten<float>({kHidden / 4, 2, 2}),
                   BatchNorm2d<float>(kHidden / 4),
                   Flatten<float>{},
                   BatchNorm1d<float>(kHidden, {.track_running_stats = false}),
                   Tanh<float>{},
                   Linear<float>(kHidden, kOutputs, rng)};
  const SoftmaxCrossEntropy<float> loss;
  KfacOptimizer optimizer(model, loss, {.inverse_every = 1},
                          block_factory<KroneckerBlock<float>, UnitwiseBlock<float>>());
  model.eval();  // a batch of one example has no statistics of its own
  check_warm(kInputs, [&](const Batch& batch) {
    if (batch.x.cols() > 1) model.train();
    if (!optimizer.step(batch.x, batch.y).ok()) throw std::runtime_error("the step failed");
    model.eval();
  });
}

TEST_CASE("noalloc: warm training steps with embeddings and diagonal factors", "[noalloc]") {
  constexpr Index kTokens = 6, kVocabulary = 11;
  Rng rng(2);
  Sequential model{Embedding<float>({.vocabulary = kVocabulary, .features = 8}, rng),
                   LearnedPositions<float>(kTokens, 8, rng),
                   SinusoidalPositions<float>{},
                   LayerNorm<float>(8),
                   MeanTokens<float>{},
                   Linear<float>(8, kOutputs, rng)};
  const SoftmaxCrossEntropy<float> loss;
  const BlockFactory<float> blocks =
      [](const LayerView<float>& layer,
         const BlockOptions<float>& options) -> std::unique_ptr<CurvatureBlock<float>> {
    if (layer.units > 0) return std::make_unique<UnitwiseBlock<float>>(options);
    if (layer.kronecker->diagonal_input)
      return std::make_unique<DiagonalInputBlock<float>>(options);
    return std::make_unique<KroneckerBlock<float>>(options);
  };
  for (const WeightSharing sharing : {WeightSharing::Expand, WeightSharing::Reduce}) {
    KfacOptimizer optimizer(model, loss, {.inverse_every = 1, .sharing = sharing}, blocks);
    Matrix<float> tokens(kTokens, kLargestBatch);
    for (Index i = 0; i < tokens.size(); ++i)
      tokens.data()[i] = static_cast<float>(i * i % kVocabulary);
    check_warm(kTokens, [&](const Batch& batch) {
      if (!optimizer.step(tokens.leftCols(batch.x.cols()), batch.y).ok())
        throw std::runtime_error("the step failed");
    });
  }
}
