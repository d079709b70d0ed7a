#include <kfac/curvature/ekfac_block.hpp>
#include <kfac/nn/conv.hpp>
#include <kfac/nn/flatten.hpp>

#include "support/catch.hpp"
#include "support/eigensolver.hpp"
#include "support/networks.hpp"

namespace kfac::test::convolution_workspace_test {

namespace {

// More than any factor has columns: EKFAC's basis is ambiguous where an A of reduced inputs is
// singular.
constexpr Index kBatch = 30;

auto network(Index workspace) {
  Rng rng(1);
  const Conv2dOptions first{
      .in_channels = 2, .out_channels = 4, .padding = {1, 1}, .groups = 2, .workspace = workspace};
  const Conv2dOptions second{
      .in_channels = 4, .out_channels = 2, .kernel_size = {2, 2}, .workspace = workspace};
  return Sequential{
      Unflatten<double>({2, 4, 4}), Conv2d<double>(first, rng), Tanh<double>{},
      Conv2d<double>(second, rng),  Flatten<double>{},          Linear<double>(18, 3, rng)};
}

/// The dense blocks of all layers and their groups.
template <class Block>
std::vector<Matrix<double>> blocks(Index workspace, WeightSharing sharing) {
  auto model = network(workspace);
  Rng rng(2);
  const Matrix<double> x = random_matrix(32, kBatch, rng);
  const Labels y = random_labels(3, kBatch, rng);
  CurvatureEstimator curvature(model, SoftmaxCrossEntropy<double>{}, {.sharing = sharing},
                               block_factory<Block>());
  curvature.fit(x, y);
  std::vector<Matrix<double>> result;
  for (const auto& layer : curvature.layers())
    for (const auto& block : layer->blocks()) result.push_back(block->matrix(1e-3)->dense());
  return result;
}

template <class Block>
void check_equal() {
  for (const WeightSharing sharing : {WeightSharing::Expand, WeightSharing::Reduce}) {
    const auto expected = blocks<Block>(Conv2dOptions{}.workspace, sharing);
    REQUIRE(expected.size() == 4);
    // One example at a time, and a few.
    for (const Index workspace : {0, 8192}) {
      const auto actual = blocks<Block>(workspace, sharing);
      for (std::size_t i = 0; i < expected.size(); ++i)
        CHECK(relative_error(actual[i], expected[i]) < 1e-12);
    }
  }
}

}  // namespace

TEST_CASE("Convolutions have the same factors and moments of gradients in any workspace") {
  check_equal<EkfacBlock<double>>();
}

}  // namespace kfac::test::convolution_workspace_test
