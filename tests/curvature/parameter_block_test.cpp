#include <kfac/curvature/parameter_block.hpp>
#include <kfac/nn/flatten.hpp>
#include <kfac/nn/residual.hpp>

#include "support/catch.hpp"
#include "support/message_of.hpp"
#include "support/parameter_block_networks.hpp"

namespace kfac::test::parameter_block_test {

TEST_CASE("parameter_blocks: each group, linear layer and other layer has its place in order") {
  Rng rng(1);
  RandomNetwork network = network_of_all_blocks(rng);
  const std::vector<ParameterBlock> blocks = parameter_blocks(network.model);
  const std::vector<ParameterBlock> expected{
      {"0", "Conv2d", 0, 2, true, 8, 2, true, 0},
      {"0", "Conv2d", 1, 2, true, 8, 2, true, 18},
      {"1", network.model.layers()[1].kind, 0, 1, false, 1, 16, false, 36},
      {"4", "Linear", 0, 1, true, 4, 3, true, 52}};
  CHECK(blocks == expected);
  CHECK(blocks[0].name() == "0/0");
  CHECK(blocks[1].name() == "0/1");
  CHECK(blocks[2].name() == "1");
  CHECK(blocks[3].size() == 15);
  CHECK(blocks[3].offset + blocks[3].size() == network.model.parameter_count());
}

TEST_CASE("parameter_blocks: layers within layers are named by their path") {
  Rng rng(2);
  Sequential model{Linear<double>(3, 3, rng, {.bias = false}), Tanh<double>{},
                   Sequential{Tanh<double>{}, Linear<double>(3, 2, rng)}};
  const std::vector<ParameterBlock> blocks = parameter_blocks(model);
  REQUIRE(blocks.size() == 2);
  CHECK(blocks[0].name() == "0");
  CHECK(blocks[0].columns() == 3);
  CHECK(blocks[1].name() == "2.1");
  CHECK(blocks[1].columns() == 4);
  CHECK(blocks[1].offset == 9);
}

TEST_CASE("ParameterBlock: of gives the matrix W b of a flat vector") {
  Rng rng(3);
  Sequential model{Linear<double>(2, 3, rng), Tanh<double>{}, Linear<double>(3, 4, rng)};
  Vector<double> flat = flat_parameters(model);
  const auto layers = model.layers();
  const ParameterBlock block = parameter_blocks(model)[1];
  const Matrix<double> w = layers[2].parameters.head(12).reshaped(4, 3);
  const Vector<double> b = layers[2].parameters.tail(4);
  const Vector<double>& unchanged = flat;
  CHECK(Matrix<double>(block.of(unchanged).leftCols(3)) == w);
  CHECK(Vector<double>(block.of(unchanged).col(3)) == b);
  block.of(flat)(1, 2) = 7;
  CHECK(flat(block.offset + 2 * 4 + 1) == 7);
}

TEST_CASE("set_flat_parameters: gives back what flat_parameters took, and refuses other sizes") {
  Rng rng(4);
  RandomNetwork network = network_of_all_blocks(rng);
  AnyModel& model = network.model;
  const Vector<double> before = flat_parameters(model);
  CHECK(before == parameters(model));
  const Matrix<double> x = random_matrix(network.shape.size(), 2, rng);
  const Matrix<double> outputs = model.forward(x, network.shape);
  const Vector<double> other = random_matrix(model.parameter_count(), 1, rng);
  set_flat_parameters(model, other);
  CHECK(flat_parameters(model) == other);
  CHECK(Matrix<double>(model.forward(x, network.shape)) != outputs);
  CHECK(message_of<ShapeError>([&] { set_flat_parameters(model, Vector<double>::Zero(66)); }) ==
        "kfac::set_flat_parameters: 'flat' has 66 entries, expected 67");
  CHECK(flat_parameters(model) == other);
  set_flat_parameters(model, before);
  CHECK(Matrix<double>(model.forward(x, network.shape)) == outputs);
}

}  // namespace kfac::test::parameter_block_test
