// clang-format off: before Eigen
#include "noalloc/warm.hpp"
// clang-format on

#include <stdexcept>

#include <kfac/loss/softmax_cross_entropy.hpp>
#include <kfac/nn/embedding.hpp>
#include <kfac/nn/global_pooling.hpp>
#include <kfac/nn/on_tokens.hpp>
#include <kfac/nn/transformer.hpp>
#include <kfac/optim/kfac_optimizer.hpp>

using namespace kfac;
using namespace kfac::test;

TEST_CASE("noalloc: warm training steps with self-attention and cross-attention", "[noalloc]") {
  constexpr Index kTokens = 6, kVocabulary = 11, kFeatures = 8;
  Rng rng(1);
  Sequential model{
      Embedding<float>({.vocabulary = kVocabulary, .features = kFeatures}, rng),
      transformer_block<float>({.features = kFeatures, .heads = 2, .causal = true, .dropout = 0.1},
                               rng),
      OnTokens(1, 0, LayerNorm<float>(kFeatures)),
      MultiheadAttention<float>({.features = kFeatures, .heads = 2, .query_tokens = 2}, rng),
      MeanTokens<float>{},
      Linear<float>(kFeatures, kOutputs, rng)};
  const SoftmaxCrossEntropy<float> loss;
  KfacOptimizer optimizer(model, loss, {.inverse_every = 1, .fisher = FisherType::MonteCarlo});
  Matrix<float> tokens(kTokens, kLargestBatch);
  for (Index i = 0; i < tokens.size(); ++i)
    tokens.data()[i] = static_cast<float>(i * i % kVocabulary);
  check_warm(kTokens, [&](const Batch& batch) {
    if (!optimizer.step(tokens.leftCols(batch.x.cols()), batch.y).ok())
      throw std::runtime_error("the step failed");
  });
}
