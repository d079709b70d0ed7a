#include <string>

#include <kfac/compression/compression_memory.hpp>
#include <kfac/compression/cost.hpp>
#include <kfac/nn/pooling.hpp>

#include "support/dense_blocks.hpp"
#include "support/message_of.hpp"

namespace kfac::test::cost_test {

TEST_CASE("network_cost: parameters and multiply-adds as counted by hand", "[compression][exact]") {
  Rng rng(1);
  AnyModel model({Conv2d<double>({.in_channels = 2,
                                  .out_channels = 4,
                                  .kernel_size = {3, 3},
                                  .padding = {1, 1},
                                  .groups = 2},
                                 rng),
                  ReLU<double>{}, MaxPool2d<double>{}, Flatten<double>{},
                  Linear<double>(4 * 3 * 2, 5, rng, {.bias = false}), Linear<double>(5, 3, rng)});
  const Shape shape{2, 6, 4};
  const NetworkCost dense = network_cost(model, shape);
  REQUIRE(dense.layers.size() == 3);
  // At 24 places, 4 filters of 9 taps of one channel each.
  CHECK(dense.layers[0].layer == "0");
  CHECK(dense.layers[0].kind == "Conv2d");
  CHECK(dense.layers[0].parameters == 4 * 10);
  CHECK(dense.layers[0].multiply_adds == 24 * 4 * 9);
  CHECK(dense.layers[1].multiply_adds == 24 * 5);
  CHECK(dense.layers[2].parameters == 18);
  CHECK(dense.layers[2].multiply_adds == 15);
  CHECK(dense.parameters() == model.parameter_count());
  CHECK(dense.multiply_adds() == 24 * 36 + 120 + 15);
  CHECK(dense.nonzeros() == dense.parameters());
  CHECK(dense.nonzero_multiply_adds() == dense.multiply_adds());

  // Two weights and a bias of the first layer, in different groups, and a column of the last.
  model.layers()[0].parameters(3) = 0;
  model.layers()[0].parameters(19) = 0;
  model.layers()[0].parameters(21) = 0;
  model.layers()[5].parameters.head(3).setZero();
  const NetworkCost sparse = network_cost(model, shape);
  CHECK(sparse.nonzeros() == dense.parameters() - 6);
  CHECK(sparse.multiply_adds() == dense.multiply_adds());
  CHECK(sparse.nonzero_multiply_adds() == dense.multiply_adds() - 24 * 2 - 3);
}

TEST_CASE("network_cost: tokens share weights, any model has a cost, and keeps its mode",
          "[compression]") {
  Rng rng(2);
  Sequential model{Linear<float>(3, 4, rng), Tanh<float>{}, Linear<float>(4, 2, rng)};
  CHECK(network_cost(model, {3}).multiply_adds() == 20);
  CHECK(network_cost(model, {7, 3}).multiply_adds() == 140);
  CHECK(model.workspace().mode.training);
  CHECK(model.workspace().mode.tracking);
  CHECK(message_of<ShapeError>([&] {
          network_cost(model, {4});
        }).starts_with("kfac::Linear: 'input' has shape 4"));
}

TEST_CASE("compression_memory: is that of the largest block", "[compression]") {
  Rng rng(3);
  AnyModel model({Linear<double>(3, 5, rng), Linear<double>(5, 2, rng)});
  const auto blocks = parameter_blocks(model);
  const auto bytes = [&](CurvatureStructure structure) {
    return compression_memory(blocks, structure).total();
  };
  CHECK(bytes(CurvatureStructure::Diagonal) == 8 * 12 * 20);
  CHECK(bytes(CurvatureStructure::Kronecker) == 8 * (12 * 20 + 8 * (16 + 25)));
  CHECK(bytes(CurvatureStructure::Ekfac) == bytes(CurvatureStructure::Kronecker));
  CHECK(bytes(CurvatureStructure::Full) == 8 * (12 * 20 + 5 * 400));
  CHECK(compression_memory(blocks, CurvatureStructure::Full).parts[0].name == "0");
}

}  // namespace kfac::test::cost_test
