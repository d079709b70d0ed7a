#include <string>
#include <vector>

#include <kfac/curvature/curvature_estimator.hpp>
#include <kfac/curvature/default_blocks.hpp>
#include <kfac/curvature/preconditioner.hpp>
#include <kfac/loss/mean_squared_error.hpp>
#include <kfac/nn/batch_norm.hpp>
#include <kfac/nn/dynamic_copy.hpp>
#include <kfac/nn/embedding.hpp>
#include <kfac/nn/layer_norm.hpp>
#include <kfac/nn/residual.hpp>
#include <kfac/nn/siamese.hpp>
#include <kfac/nn/tied_embedding.hpp>

#include "support/catch.hpp"
#include "support/networks.hpp"

namespace kfac::test::default_blocks_test {

namespace {

using Plain = Sequential<Linear<double>, ReLU<double>>;
using Normed = Sequential<Linear<double>, Residual<LayerNorm<double>, Linear<double>>>;
using Tokens = Sequential<Embedding<double>, Siamese<Linear<double>>>;
using Tied = Sequential<TiedEmbedding<double, Linear<double>>>;

constexpr BlockNeeds kPlain = kfac::detail::block_needs_of<Plain>();
constexpr BlockNeeds kNormed = kfac::detail::block_needs_of<Normed>();
constexpr BlockNeeds kTokens = kfac::detail::block_needs_of<Tokens>();
constexpr BlockNeeds kTied = kfac::detail::block_needs_of<Tied>();
constexpr BlockNeeds kDynamic = kfac::detail::block_needs_of<DynamicSequential<double>>();
static_assert(!kPlain.unitwise && !kPlain.diagonal_input);
static_assert(kNormed.unitwise && !kNormed.diagonal_input);
static_assert(!kTokens.unitwise && kTokens.diagonal_input);
static_assert(!kTied.unitwise && !kTied.diagonal_input);
static_assert(kDynamic.unitwise && kDynamic.diagonal_input);

/// A layer's name and the kind of its block.
template <class Layers>
std::vector<std::string> kinds(const Layers& layers) {
  std::vector<std::string> result;
  for (const auto& layer : layers)
    result.push_back(layer->layer().name + " " + layer->blocks()[0]->kind());
  return result;
}

}  // namespace

TEST_CASE("default_blocks: each layer has the block that suits it", "[curvature]") {
  Rng rng(1);
  Sequential model{Embedding<double>({.vocabulary = 5, .features = 3}, rng),
                   Residual(LayerNorm<double>(3), Linear<double>(3, 3, rng)),
                   Linear<double>(3, 2, rng)};
  const std::vector<std::string> expected{"0 K-FAC with diagonal A", "1.0 unit-wise", "1.1 K-FAC",
                                          "2 K-FAC"};
  CHECK(kinds(Preconditioner(model).layers()) == expected);
  MeanSquaredError<double> loss;
  CHECK(kinds(CurvatureEstimator(model, loss).layers()) == expected);

  auto dynamic = dynamic_copy(model);
  const std::vector<std::string> found = kinds(Preconditioner(dynamic).layers());
  REQUIRE(found.size() == expected.size());
  CHECK(found[0] == expected[0]);
  CHECK(found[1] == "1.0.0 unit-wise");

  Sequential tied{TiedEmbedding(Embedding<double>({.vocabulary = 5, .features = 3}, rng),
                                Linear<double>(3, 3, rng))};
  CHECK(kinds(Preconditioner(tied).layers()) ==
        std::vector<std::string>{"0.embedding K-FAC", "0.0 K-FAC"});
}

}  // namespace kfac::test::default_blocks_test
