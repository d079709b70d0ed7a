#include <kfac/curvature/block_passes.hpp>
#include <kfac/nn/dropout.hpp>

#include "support/catch.hpp"
#include "support/exact.hpp"
#include "support/message_of.hpp"
#include "support/parameter_block_networks.hpp"

namespace kfac::test::block_passes_test {

namespace {

using Batch = SharedBatch<double>;

/// x with the bias's 1.
Matrix<double> augmented(const ParameterBlock& block, const Batch& inputs) {
  Matrix<double> result = Matrix<double>::Ones(block.columns(), inputs.columns());
  result.topRows(block.inputs) = inputs.matrix();
  return result;
}

/// The gradients of all parameters for each example, a column each.
template <class Model>
Matrix<double> example_gradients(BlockPasses<Model>& passes, const Matrix<double>& vectors) {
  const std::vector<ParameterBlock>& blocks = passes.blocks();
  Matrix<double> result =
      Matrix<double>::Constant(passes.model().parameter_count(), vectors.cols(), 1e300);
  std::vector<Index> calls(blocks.size(), 0);
  passes.backward(vectors, [&](std::size_t i, const Batch& inputs, const Batch& gradients) {
    const ParameterBlock& block = blocks[i];
    REQUIRE(inputs.features() == block.inputs);
    REQUIRE(gradients.features() == block.outputs);
    REQUIRE(inputs.positions() == gradients.positions());
    REQUIRE(inputs.batch() == vectors.cols());
    const Matrix<double> x = augmented(block, inputs);
    const Matrix<double> g = gradients.matrix();
    const Index positions = inputs.positions();
    for (Index n = 0; n < vectors.cols(); ++n) {
      const Matrix<double> p = g.middleCols(n * positions, positions) *
                               x.middleCols(n * positions, positions).transpose();
      result.col(n).segment(block.offset, block.size()) = p.reshaped();
    }
    ++calls[i];
  });
  CHECK(calls == std::vector<Index>(blocks.size(), 1));
  return result;
}

/// Counts what it hears.
struct Counter : Observer<double> {
  Index heard = 0;
  void on_input(const std::string&, const Batch&) override { ++heard; }
  void on_output_gradient(const std::string&, const Batch&) override { ++heard; }
  void on_forward(const std::string&, const Batch&) override { ++heard; }
};

}  // namespace

TEST_CASE("BlockPasses: each example's own gradients are those of a backward pass of it alone") {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    INFO("seed " << seed);
    Rng rng(seed);
    RandomNetwork network = seed % 5 == 0 ? network_of_all_blocks(rng) : random_network(rng);
    AnyModel& model = network.model;
    const Index examples = 1 + rng.below(5);
    const Matrix<double> x = random_matrix(network.shape.size(), examples, rng);
    BlockPasses passes(model);
    // Any number of backward passes after a forward pass.
    const Matrix<double> outputs = passes.forward(x, network.shape);
    const Matrix<double> first = random_matrix(outputs.rows(), examples, rng);
    const Matrix<double> second = random_matrix(outputs.rows(), examples, rng);
    const Matrix<double> of_first = example_gradients(passes, first);
    const Matrix<double> of_second = example_gradients(passes, second);

    CHECK(relative_error(Matrix<double>(model.forward(x, network.shape)), outputs) < 1e-14);
    model.backward(first);
    CHECK(relative_error(Vector<double>(of_first.rowwise().sum()),
                         Vector<double>(model.gradient())) < 1e-12);
    for (Index n = 0; n < examples; ++n) {
      model.forward(x.col(n), network.shape);
      model.backward(second.col(n));
      CHECK(relative_error(Vector<double>(of_second.col(n)), Vector<double>(model.gradient())) <
            1e-12);
    }
  }
}

TEST_CASE("BlockPasses: nobody else hears of it, and mode and gradient stay as they were") {
  Rng rng(7);
  Sequential model{Linear<double>(3, 4, rng), Dropout<double>(0.5, rng), Tanh<double>{},
                   ExponentialScale(4, rng), Linear<double>(4, 2, rng)};
  Counter counter;
  for (auto& layer : model.layers())
    if (layer.hooks) layer.hooks->attach(counter);
  const Matrix<double> x = random_matrix(3, 4, rng);
  model.forward(x);
  model.backward(Matrix<double>::Ones(2, 4));
  const Vector<double> gradient = model.gradient();
  const Index heard = counter.heard;
  CHECK(heard == 5);  // 3 forward passes of layers, and 2 output gradients
  for (const bool training : {true, false}) {
    training ? model.train() : model.eval();
    BlockPasses passes(model);
    const Matrix<double> outputs = passes.forward(x);
    example_gradients(passes, random_matrix(2, 4, rng));
    CHECK(model.gradient() == gradient);
    CHECK(model.workspace().mode.training == training);
    CHECK(counter.heard == heard);
    const Evaluation<decltype(model)> evaluation(model);
    CHECK(Matrix<double>(model.forward(x)) == outputs);  // without dropout
  }
  model.train();
  model.forward(x);
  CHECK(counter.heard == heard + 3);
}

TEST_CASE("BlockPasses: after an exception others hear again, in the mode there was") {
  Rng rng(8);
  Sequential model{Linear<double>(3, 2, rng), Tanh<double>{}, Linear<double>(2, 2, rng)};
  Counter counter;
  for (auto& layer : model.layers())
    if (layer.hooks) layer.hooks->attach(counter);
  BlockPasses passes(model);
  const auto is_as_before = [&] {
    CHECK(model.workspace().mode.training);
    CHECK(model.workspace().mode.tracking);
    counter.heard = 0;
    model.forward(Matrix<double>::Ones(3, 1));
    CHECK(counter.heard == 2);
  };
  CHECK_THROWS_AS(passes.forward(Matrix<double>::Ones(4, 1)), ShapeError);
  is_as_before();
  passes.forward(Matrix<double>::Ones(3, 2));
  CHECK_THROWS_AS(passes.backward(Matrix<double>::Ones(2, 3), [](auto&&...) {}), ShapeError);
  is_as_before();
  passes.forward(Matrix<double>::Ones(3, 2));
  struct Mine {};
  CHECK_THROWS_AS(passes.backward(Matrix<double>::Ones(2, 2), [](auto&&...) { throw Mine{}; }),
                  Mine);
  is_as_before();
  // What is thrown away gives no call to anyone else's pass.
  model.backward(Matrix<double>::Ones(2, 1));
}

TEST_CASE("BlockPasses: a backward pass without a forward pass of its own is an exception") {
  Rng rng(9);
  Sequential model{Linear<double>(3, 2, rng)};
  const auto nothing = [](auto&&...) {};
  const std::string message =
      "kfac::BlockPasses::backward: no forward pass before it, expected forward";
  BlockPasses passes(model);
  const auto backward = [&] { passes.backward(Matrix<double>::Ones(2, 4), nothing); };
  CHECK(message_of<StateError>(backward) == message);
  model.forward(Matrix<double>::Ones(3, 4));
  CHECK(message_of<StateError>(backward) == message);
  passes.forward(Matrix<double>::Ones(3, 4));
  CHECK_NOTHROW(backward());
  CHECK_THROWS_AS(passes.forward(Matrix<double>::Ones(2, 4)), ShapeError);
  CHECK(message_of<StateError>(backward) == message);
}

}  // namespace kfac::test::block_passes_test
