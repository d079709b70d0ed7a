#include <string>
#include <vector>

#include <kfac/nn/on_tokens.hpp>
#include <kfac/nn/parallel.hpp>
#include <kfac/nn/transformer.hpp>

#include "nn/support.hpp"

namespace kfac::test::transformer_test {

using kfac::test::error_of;
using kfac::test::normal;

TEST_CASE("transformer_block passes the layer battery", "[nn][gradient]") {
  Rng rng(1);
  test::require_twice_differentiable(
      transformer_block<double>(
          {.features = 4, .heads = 2, .hidden = 3, .causal = true, .dropout = 0.3}, rng),
      {3, 4}, 2, rng);
}

TEST_CASE("transformer_block adds attention and a small network to its input", "[nn][exact]") {
  Rng rng(2);
  const Shape shape{5, 4};
  const Matrix<double> x = normal<double>(20, 3, rng);
  const TransformerOptions options{.features = 4, .heads = 2};
  Sequential model{Identity<double>{}, transformer_block<double, ReLU<double>>(options, rng)};

  auto& block = model.layer<1>();
  auto& attending = block.layer<0>().block();
  auto& thinking = block.layer<1>().block();
  Sequential attention{attending.layer<0>(), attending.layer<1>()};
  Sequential mlp{thinking.layer<0>(), thinking.layer<1>(), ReLU<double>{}, thinking.layer<3>()};
  REQUIRE(thinking.layer<1>().outputs() == 16);
  const Matrix<double> between = x + Matrix<double>(attention.forward(x, shape));
  const Matrix<double> expected = between + Matrix<double>(mlp.forward(between, shape));
  CHECK(error_of(model.forward(x, shape), expected) < 1e-15);
}

TEST_CASE("transformer_block: every option does what it says", "[nn][exact]") {
  const Shape shape{5, 4};
  Rng data(3);
  const Matrix<double> x = normal<double>(20, 3, data);
  const auto output = [&](const TransformerOptions& options, const Matrix<double>& input) {
    Rng rng(4);
    Sequential model{Identity<double>{}, transformer_block<double>(options, rng)};
    return Matrix<double>(model.forward(input, shape));
  };
  const TransformerOptions plain{.features = 4};
  const Matrix<double> y = output(plain, x);
  CHECK(output({.features = 4, .hidden = 16}, x) == y);
  CHECK(output({.features = 4, .hidden = 5}, x) != y);
  CHECK(output({.features = 4, .heads = 2}, x) != y);
  CHECK(output({.features = 4, .dropout = 0.5}, x) != y);

  Matrix<double> later = x;
  later.bottomRows(4).setConstant(1);
  later.row(17).setConstant(3);
  const TransformerOptions causal{.features = 4, .causal = true};
  CHECK(output(causal, later).topRows(16) == output(causal, x).topRows(16));
  CHECK(output(plain, later).topRows(16) != y.topRows(16));

  Rng rng(4);
  Sequential unbiased{Identity<double>{},
                      transformer_block<double>({.features = 4, .bias = false}, rng)};
  for (const LayerView<double>& layer : unbiased.layers())
    if (layer.kronecker) CHECK_FALSE(layer.kronecker->bias);
}

TEST_CASE("transformer_block names its layers", "[nn][exact]") {
  Rng rng(5);
  Sequential model{Identity<float>{}, transformer_block<float>({.features = 4, .heads = 2}, rng)};
  std::vector<std::string> names;
  for (const LayerView<float>& layer : model.layers())
    if (layer.hooks) names.push_back(layer.name + ' ' + layer.kind);
  CHECK(names == std::vector<std::string>{"1.0.0 LayerNorm", "1.0.1.q_proj Linear",
                                          "1.0.1.k_proj Linear", "1.0.1.v_proj Linear",
                                          "1.0.1.out_proj Linear", "1.1.0 LayerNorm",
                                          "1.1.1 Linear", "1.1.3 Linear"});
}

TEST_CASE("A decoder: its queries look at a memory after them, padding apart", "[nn][exact]") {
  Rng rng(7);
  const Index queries = 3, memory = 4, features = 4;
  // The memory through an encoder, the queries through causal attention; then to the memory.
  const AttentionOptions cross{.features = features, .heads = 2, .query_tokens = queries};
  const OnTokens encoder(queries, 0,
                         transformer_block<double>({.features = features, .heads = 2}, rng));
  const OnTokens decoder(
      0, queries,
      transformer_block<double>({.features = features, .heads = 2, .causal = true}, rng));
  const Add attending(
      OnTokens(0, queries, Identity<double>{}),
      Sequential(LayerNorm<double>(features), MultiheadAttention<double>(cross, rng)));
  Sequential model(Concatenate(decoder, encoder), attending,
                   Residual(LayerNorm<double>(features), Linear<double>(features, features, rng)));
  const Shape shape{queries + memory, features};
  REQUIRE(model.output_shape(shape) == Shape{queries, features});

  // As a matter of course, in two networks.
  Sequential only_decoder{decoder.block()}, only_encoder{encoder.block()};
  Sequential rest(attending, model.layer<2>());
  const Matrix<double> x = normal<double>(shape.size(), 2, rng);
  Matrix<double> joined(x.rows(), 2);
  joined << only_decoder.forward(x.topRows(queries * features), Shape{queries, features}),
      only_encoder.forward(x.bottomRows(memory * features), Shape{memory, features});
  const Matrix<double> y = model.forward(x, shape);
  CHECK(error_of(y, rest.forward(joined, shape)) < 1e-15);

  // A memory with padding is one without.
  const Shape longer{queries + memory + 2, features};
  Matrix<double> padded = normal<double>(longer.size(), 2, rng);
  padded.topRows(x.rows()) = x;
  PositionMask mask = PositionMask::Constant(longer[0], 2, true);
  mask.bottomRows(2).setConstant(false);
  CHECK(error_of(model.forward(padded, longer), y) > 1e-3);
  model.set_mask(&mask);
  CHECK(error_of(model.forward(padded, longer), y) < 1e-14);
}

TEST_CASE("transformer_block: misuse is named", "[nn][error]") {
  Rng rng(6);
  CHECK_THROWS_WITH(transformer_block<float>({.features = 4, .hidden = -1}, rng),
                    "kfac::TransformerOptions: 'hidden' is -1, expected >= 0");
  CHECK_THROWS_WITH(transformer_block<float>({.features = 4, .dropout = 1}, rng),
                    "kfac::TransformerOptions: 'dropout' is 1, expected 0 <= dropout < 1");
  CHECK_THROWS_WITH(transformer_block<float>({.features = 4, .heads = 3}, rng),
                    "kfac::AttentionOptions: 'heads' is 3, expected a divisor of 'features'");
}

}  // namespace kfac::test::transformer_test
