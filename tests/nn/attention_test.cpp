#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <kfac/nn/attention.hpp>
#include <kfac/nn/sequential.hpp>

#include "nn/support.hpp"

namespace kfac::test::attention_test {

using kfac::test::between;
using kfac::test::error_of;
using kfac::test::normal;

namespace {

using Attention = MultiheadAttention<double>;

/// With biases that are not 0.
template <class S>
MultiheadAttention<S> random_attention(const AttentionOptions& options, Rng& rng) {
  MultiheadAttention<S> attention(options, rng);
  for (Linear<S>* map :
       {&attention.query(), &attention.key(), &attention.value(), &attention.out()}) {
    VectorMap<S> parameters = map->parameters();
    rng.fill_normal(parameters);
    parameters *= S(0.7);
  }
  return attention;
}

AttentionOptions random_options(Rng& rng) {
  AttentionOptions options;
  options.heads = between(1, 3, rng);
  options.features = options.heads * between(1, 3, rng);
  options.bias = rng.below(3) > 0;
  if (rng.below(3) == 0)
    options.query_tokens = between(1, 3, rng);
  else
    options.causal = rng.below(2) == 0;
  return options;
}

Shape random_shape(const AttentionOptions& options, Rng& rng) {
  return {options.query_tokens + between(1, 6, rng), options.features};
}

Matrix<double> apply(Linear<double>& map, const Matrix<double>& x) {
  const Matrix<double> w = map.augmented_weight();
  Matrix<double> y = w.leftCols(map.inputs()) * x;
  if (map.has_bias()) y.colwise() += w.col(map.inputs());
  return y;
}

/// Token by token and head by head, as the formula says. `real` may be empty: all are.
Matrix<double> by_formula(Attention attention, const Matrix<double>& x, const PositionMask& real) {
  const AttentionOptions options = attention.options();
  const Index features = options.features, size = features / options.heads;
  const Index tokens = x.rows() / features;
  const Index queries = options.query_tokens > 0 ? options.query_tokens : tokens;
  Matrix<double> result(queries * features, x.cols());
  for (Index n = 0; n < x.cols(); ++n) {
    const Matrix<double> in = x.col(n).reshaped(features, tokens);
    const Matrix<double> q = apply(attention.query(), in.leftCols(queries));
    const Matrix<double> k = apply(attention.key(), in);
    const Matrix<double> v = apply(attention.value(), in);
    Matrix<double> context = Matrix<double>::Zero(features, queries);
    for (Index i = 0; i < queries; ++i)
      for (Index head = 0; head < options.heads; ++head) {
        double total = 0;
        for (Index j = options.query_tokens; j < tokens; ++j) {
          if (options.causal && j > i) continue;
          if (real.size() > 0 && (!real(j, n) || !real(i, n))) continue;
          const double score =
              q.col(i).segment(head * size, size).dot(k.col(j).segment(head * size, size));
          const double weight = std::exp(score / std::sqrt(static_cast<double>(size)));
          total += weight;
          context.col(i).segment(head * size, size) += weight * v.col(j).segment(head * size, size);
        }
        if (total > 0) context.col(i).segment(head * size, size) /= total;
      }
    result.col(n) = apply(attention.out(), context).reshaped();
  }
  return result;
}

/// At least one token is real on either side.
PositionMask random_mask(const AttentionOptions& options, Index tokens, Index examples, Rng& rng) {
  PositionMask mask(tokens, examples);
  for (Index n = 0; n < examples; ++n) {
    for (Index t = 0; t < tokens; ++t) mask(t, n) = rng.below(2) == 0;
    mask(0, n) = true;
    mask(tokens - 1, n) = mask(tokens - 1, n) || options.query_tokens > 0;
  }
  return mask;
}

}  // namespace

TEMPLATE_TEST_CASE("MultiheadAttention passes the layer battery", "[nn][gradient]", float, double) {
  using S = TestType;
  for (std::uint64_t seed = 0; seed < 24; ++seed) {
    Rng rng(seed);
    const AttentionOptions options = random_options(rng);
    const Shape shape = random_shape(options, rng);
    const Index batch = between(1, 3, rng);
    const auto attention = random_attention<S>(options, rng);
    const testing::LayerCheck check = testing::check_layer(attention, shape, batch, rng);
    INFO("seed " << seed << ", input " << shape.to_string() << ", heads " << options.heads
                 << ", causal " << options.causal << ", queries " << options.query_tokens << '\n'
                 << check.report());
    REQUIRE(check.kronecker.has_value());
    REQUIRE(check.backward_tangent.has_value());
    REQUIRE(check.passes(std::same_as<S, float> ? 2e-2 : 1e-7));
  }
}

TEST_CASE("MultiheadAttention is what its formula says, with padding or without", "[nn][exact]") {
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    Rng rng(seed);
    const AttentionOptions options = random_options(rng);
    const Shape shape = random_shape(options, rng);
    const auto attention = random_attention<double>(options, rng);
    const Matrix<double> x = normal<double>(shape.size(), 3, rng);
    Sequential model(attention);
    INFO("seed " << seed);
    CHECK(error_of(model.forward(x, shape), by_formula(attention, x, {})) < 1e-13);
    const PositionMask mask = random_mask(options, shape[0], 3, rng);
    model.set_mask(&mask);
    CHECK(error_of(model.forward(x, shape), by_formula(attention, x, mask)) < 1e-13);
    model.set_mask(nullptr);
    CHECK(error_of(model.forward(x, shape), by_formula(attention, x, {})) < 1e-13);
  }
}

TEST_CASE("MultiheadAttention: what is in the padding reaches no real token", "[nn][property]") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Rng rng(seed);
    const AttentionOptions options = random_options(rng);
    const Shape shape = random_shape(options, rng);
    const Index features = options.features, examples = 3;
    Sequential model(random_attention<double>(options, rng));
    const PositionMask mask = random_mask(options, shape[0], examples, rng);
    model.set_mask(&mask);
    Matrix<double> x = normal<double>(shape.size(), examples, rng);
    Matrix<double> real_gradient = normal<double>(model.output_shape(shape).size(), examples, rng);
    Matrix<double> any_gradient = real_gradient;
    for (Index n = 0; n < examples; ++n)
      for (Index t = 0; t < real_gradient.rows() / features; ++t)
        if (!mask(t, n)) {
          real_gradient.col(n).segment(t * features, features).setZero();
          any_gradient.col(n).segment(t * features, features).setConstant(1e6);
        }

    INFO("seed " << seed);
    const Matrix<double> y = model.forward(x, shape);
    const Matrix<double> grad_input = model.input_gradient(real_gradient);
    const Vector<double> gradient = model.gradient();
    CHECK(model.input_gradient(any_gradient) == grad_input);
    const Index maps = gradient.size() / 4 * 3;  // whose inputs padding has too
    CHECK(model.gradient().head(maps) == gradient.head(maps));
    for (Index n = 0; n < examples; ++n)
      for (Index t = 0; t < shape[0]; ++t)
        if (!mask(t, n)) {
          CHECK(grad_input.col(n).segment(t * features, features).isZero(0));
          x.col(n).segment(t * features, features).setConstant(1e6);
        }
    const Matrix<double> other = model.forward(x, shape);
    CHECK(other.allFinite());
    for (Index n = 0; n < examples; ++n)
      for (Index t = 0; t < y.rows() / features; ++t)
        if (mask(t, n))
          CHECK(other.col(n).segment(t * features, features) ==
                y.col(n).segment(t * features, features));
    CHECK(model.input_gradient(real_gradient) == grad_input);
  }
}

TEST_CASE("MultiheadAttention: the Hessian's passes leave padding out too", "[nn][property]") {
  Rng rng(3);
  const Shape shape{4, 4}, shorter{3, 4};
  Sequential model(random_attention<double>({.features = 4, .heads = 2}, rng));
  const Matrix<double> x = normal<double>(16, 2, rng);
  Matrix<double> gradient = normal<double>(16, 2, rng);
  gradient.bottomRows(4).setZero();
  const Vector<double> direction = normal<double>(model.parameter_count(), 1, rng);
  PositionMask mask = PositionMask::Constant(4, 2, true);
  mask.row(3).setConstant(false);

  auto workspace = model.make_workspace();
  model.forward(x.topRows(12), shorter, workspace);
  const Matrix<double> tangent = model.tangent(direction, workspace);
  const Vector<double> second =
      model.backward_tangent(gradient.topRows(12), direction, gradient.topRows(12), workspace);
  workspace.mode.mask = &mask;
  model.forward(x, shape, workspace);
  CHECK(error_of(model.tangent(direction, workspace).topRows(12), tangent) < 1e-14);
  CHECK(error_of(model.backward_tangent(gradient, direction, gradient, workspace), second) < 1e-14);
}

TEST_CASE("MultiheadAttention: a causal token sees none after it", "[nn][exact]") {
  Rng rng(4);
  Sequential model(random_attention<double>({.features = 6, .heads = 2, .causal = true}, rng));
  const Shape shape{5, 6};
  Matrix<double> x = normal<double>(30, 2, rng);
  const Matrix<double> y = model.forward(x, shape);
  x.bottomRows(12).setConstant(7);
  const Matrix<double> other = model.forward(x, shape);
  CHECK(other.topRows(18) == y.topRows(18));
  CHECK(other.bottomRows(12) != y.bottomRows(12));
}

TEST_CASE("MultiheadAttention: large scores do not overflow", "[nn][exact]") {
  Rng rng(5);
  Sequential model(random_attention<float>({.features = 4, .heads = 2}, rng));
  const Matrix<float> y = model.forward(1e4F * normal<float>(12, 2, rng), Shape{3, 4});
  CHECK(y.allFinite());
  CHECK(model.input_gradient(Matrix<float>::Ones(12, 2)).allFinite());
}

TEST_CASE("MultiheadAttention: large batches are the same with threads", "[nn][property]") {
  Rng rng(6);
  Sequential model(random_attention<double>({.features = 8, .heads = 2, .causal = true}, rng));
  const Shape shape{32, 8};
  const Matrix<double> x = normal<double>(256, 64, rng);
  const Matrix<double> y = model.forward(x, shape);
  const Matrix<double> gradient = model.input_gradient(x);
  ThreadPool pool(1);
  const ParallelScope parallel(&pool);
  CHECK(model.forward(x, shape) == y);
  CHECK(model.input_gradient(x) == gradient);
}

TEST_CASE("MultiheadAttention: its linear maps are leaves that can be told apart", "[nn][exact]") {
  Rng rng(7);
  Sequential model{Linear<double>(3, 4, rng),
                   MultiheadAttention<double>({.features = 4, .heads = 2}, rng),
                   MultiheadAttention<double>({.features = 4, .bias = false}, rng)};
  std::vector<std::string> names;
  for (const LayerView<double>& layer : model.layers()) {
    names.push_back(layer.name);
    CHECK(layer.kind == "Linear");
    CHECK(layer.kronecker->inputs == (layer.name == "0" ? 3 : 4));
  }
  CHECK(names == std::vector<std::string>{"0", "1.q_proj", "1.k_proj", "1.v_proj", "1.out_proj",
                                          "2.q_proj", "2.k_proj", "2.v_proj", "2.out_proj"});
  CHECK(model.layer_sizes() == std::vector<Index>{16, 20, 20, 20, 20, 16, 16, 16, 16});
  CHECK(model.layers()[3].parameters.data() == model.layer<1>().value().parameters().data());

  // As PyTorch starts them.
  const MultiheadAttention<double> large({.features = 64}, rng);
  Sequential one(large);
  for (const LayerView<double>& layer : one.layers()) {
    const double bound = std::sqrt((layer.name == "0.out_proj" ? 1.0 : 1.5) / 64);
    const double most = layer.parameters.head(64 * 64).cwiseAbs().maxCoeff();
    CHECK(most < bound);
    CHECK(most > 0.99 * bound);
    CHECK(layer.parameters.tail(64).isZero(0));
  }
}

TEST_CASE("MultiheadAttention takes of its scratch what it says", "[nn][exact]") {
  for (const AttentionOptions& options :
       {AttentionOptions{.features = 6, .heads = 2},
        AttentionOptions{.features = 6, .heads = 3, .query_tokens = 2}}) {
    Rng rng(8);
    const MultiheadAttention<double> attention(options, rng);
    const Shape shape{5, 6};
    const Matrix<double> x = normal<double>(30, 4, rng);
    const ConstBatchView<double> input({x.data(), 30, 4}, shape);
    const Shape out = attention.output_shape(shape);
    Matrix<double> y(out.size(), 4), grad_input(30, 4);
    Vector<double> gradient(attention.parameter_count());
    const BatchView<double> output{{y.data(), y.rows(), 4}, out};
    BatchView<double> into{{grad_input.data(), 30, 4}, shape};
    VectorMap<double> parameters(gradient.data(), gradient.size());
    MultiheadAttention<double>::Scratch scratch;
    attention.forward(input, output, scratch, Mode{});
    attention.backward(input, output, output, &into, &parameters, scratch, Mode{});
    Index capacity = scratch.weights.capacity() + scratch.weights_gradient.capacity() +
                     scratch.share.capacity() + scratch.parts.queries.capacity() +
                     scratch.parts.memory.capacity();
    for (const auto* tokens : {&scratch.tokens, &scratch.gradients, &scratch.tangents})
      for (const Buffer<double>& buffer : *tokens) capacity += buffer.capacity();
    CHECK(attention.scratch_size(shape, 4, Mode{}).total() == capacity);
  }
}

TEST_CASE("MultiheadAttention: misuse is named", "[nn][error]") {
  Rng rng(9);
  CHECK_THROWS_WITH(Attention({.features = 0}, rng),
                    "kfac::AttentionOptions: 'features' is 0, expected >= 1");
  CHECK_THROWS_WITH(Attention({.features = 4, .heads = 3}, rng),
                    "kfac::AttentionOptions: 'heads' is 3, expected a divisor of 'features'");
  CHECK_THROWS_WITH(Attention({.features = 4, .heads = 0}, rng),
                    "kfac::AttentionOptions: 'heads' is 0, expected a divisor of 'features'");
  CHECK_THROWS_WITH(Attention({.features = 4, .query_tokens = -1}, rng),
                    "kfac::AttentionOptions: 'query_tokens' is -1, expected >= 0");
  CHECK_THROWS_WITH(Attention({.features = 4, .causal = true, .query_tokens = 2}, rng),
                    "kfac::AttentionOptions: 'causal' is 1, expected false in cross-attention "
                    "('query_tokens' above 0)");
  CHECK_THROWS_AS(Attention({.features = 0}, rng), OptionError);

  Sequential model{MultiheadAttention<double>({.features = 4}, rng)};
  CHECK_THROWS_WITH(model.forward(Matrix<double>::Zero(4, 1)),
                    "kfac::MultiheadAttention: 'input' has shape 4, expected tokens x 4 features "
                    "(layer '0')");
  CHECK_THROWS_WITH(model.forward(Matrix<double>::Zero(15, 1), Shape{5, 3}),
                    "kfac::MultiheadAttention: 'input' has shape 5x3, expected tokens x 4 features "
                    "(layer '0')");
  Sequential cross{MultiheadAttention<double>({.features = 4, .query_tokens = 2}, rng)};
  CHECK_THROWS_WITH(cross.forward(Matrix<double>::Zero(8, 1), Shape{2, 4}),
                    "kfac::MultiheadAttention: 'input' has shape 2x4, expected more than 2 tokens "
                    "x 4 features (layer '0')");
  const PositionMask mask = PositionMask::Constant(3, 2, true);
  model.set_mask(&mask);
  CHECK_THROWS_WITH(model.forward(Matrix<double>::Zero(12, 5), Shape{3, 4}),
                    "kfac::MultiheadAttention: 'mask' has 2 examples, expected 5 (layer '0')");
}

}  // namespace kfac::test::attention_test
