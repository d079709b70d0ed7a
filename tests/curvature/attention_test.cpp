#include <algorithm>
#include <sstream>

#include <kfac/nn/attention.hpp>
#include <kfac/nn/global_pooling.hpp>

#include "support/catch.hpp"
#include "support/dense_blocks.hpp"

// Where K-FAC of attention's linear maps equals the exact block, where it must not, and how far it
// is off there.

namespace kfac::test::attention_curvature_test {

namespace {

constexpr double kExact = 1e-10;

constexpr EstimatorOptions<double> kExpand{.sharing = WeightSharing::Expand};
constexpr EstimatorOptions<double> kReduce{.sharing = WeightSharing::Reduce};

// The blocks of a network that begins with attention.
constexpr std::size_t kQuery = 0, kKey = 1, kValue = 2, kOut = 3;

void draw(Linear<double>& map, Rng& rng) {
  VectorMap<double> parameters = map.parameters();
  rng.fill_normal(parameters);
}

/// Weights and biases drawn, or no scores at all: then each token attends to all alike.
MultiheadAttention<double> attention(const AttentionOptions& options, bool uniform, Rng& rng) {
  MultiheadAttention<double> layer(options, rng);
  for (Linear<double>* map : {&layer.query(), &layer.key()}) {
    draw(*map, rng);
    if (uniform) map->parameters().setZero();
  }
  draw(layer.value(), rng);
  draw(layer.out(), rng);
  return layer;
}

AttentionOptions random_options(std::uint64_t seed) {
  return {.features = 4, .heads = seed % 2 == 0 ? 2 : 1, .bias = seed / 2 % 2 == 0};
}

/// Attention, the mean of the tokens, then either nothing or a small network.
AnyModel pooled(const AttentionOptions& options, bool uniform, bool nonlinear, Rng& rng) {
  AnyModel model;
  model.push_back(attention(options, uniform, rng));
  model.push_back(MeanTokens<double>{});
  if (nonlinear) {
    append_linear(model, {4, 3}, rng, true);
    model.push_back(Tanh<double>{});
    append_linear(model, {3, 2}, rng, true);
  }
  return model;
}

template <class Body>
void for_each_seed(Body&& body) {
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    INFO("seed " << seed);
    Rng rng(seed);
    body(seed, rng);
  }
}

}  // namespace

TEST_CASE("Attention of one token: values and outputs have the blocks of linear layers") {
  for_each_seed([](std::uint64_t seed, Rng& rng) {
    AnyModel model = pooled(random_options(seed), false, true, rng);
    AnyModel linear;
    auto layer = *model.layer(0).target<MultiheadAttention<double>>();
    linear.push_back(layer.value());
    linear.push_back(layer.out());
    for (const std::size_t i : {2U, 3U, 4U}) linear.push_back(model.layer(i));
    for (const AnyLoss& loss : all_losses({})) {
      // One example: K-FAC is exact.
      const Task one(model, loss, {1, 4}, 1, rng);
      const Blocks exact = ggn_blocks(model, one);
      CHECK(largest_error(estimated_blocks(model, one, kExpand), exact) < kExact);
      CHECK(largest_error(estimated_blocks(model, one, kReduce), exact) < kExact);

      const Task task(model, loss, {1, 4}, 5, rng);
      Task vectors = task;
      vectors.shape = {4};
      const Blocks blocks = estimated_blocks(model, task, kExpand);
      const Blocks expected = estimated_blocks(linear, vectors, kExpand);
      // Nothing depends on scores: there is one.
      CHECK(blocks[kQuery].isZero(0));
      CHECK(blocks[kKey].isZero(0));
      CHECK(largest_error({blocks.begin() + kValue, blocks.end()}, expected) < kExact);
    }
  });
}

TEST_CASE(
    "Attention to all tokens alike, then their mean: reduce is the exact block of the values") {
  for_each_seed([](std::uint64_t seed, Rng& rng) {
    // With MSE right after it; or for one example, with anything after it.
    for (const bool nonlinear : {false, true}) {
      AnyModel model = pooled(random_options(seed), true, nonlinear, rng);
      Task task(model, MeanSquaredError<double>(), {4, 4}, nonlinear ? 1 : 3, rng);
      task.x.array() += 2;
      const Blocks exact = ggn_blocks(model, task);
      const Blocks reduce = estimated_blocks(model, task, kReduce);
      const Blocks expand = estimated_blocks(model, task, kExpand);
      for (const std::size_t i : {kValue, kOut}) {
        CHECK(relative_error(reduce[i], exact[i]) < kExact);
        CHECK(relative_error(expand[i], exact[i]) > 0.1);
      }
    }
  });
}

TEST_CASE("Attention of any weights: the output map is a linear layer on tokens") {
  for_each_seed([](std::uint64_t seed, Rng& rng) {
    const AttentionOptions options = random_options(seed);
    for (const bool causal : {false, true}) {
      AttentionOptions other = options;
      other.causal = causal;
      // A mean of tokens after it: reduce. An output a token: expand.
      AnyModel means = pooled(other, false, false, rng);
      Task task(means, MeanSquaredError<double>(), {4, 4}, 3, rng);
      CHECK(relative_error(estimated_blocks(means, task, kReduce)[kOut],
                           ggn_blocks(means, task)[kOut]) < kExact);
      CHECK(relative_error(estimated_blocks(means, task, kExpand)[kOut],
                           ggn_blocks(means, task)[kOut]) > 0.05);

      AnyModel each;
      each.push_back(attention(other, false, rng));
      const Task tokens(each, MeanSquaredError<double>(), {4, 4}, 3, rng);
      CHECK(relative_error(estimated_blocks(each, tokens, kExpand)[kOut],
                           ggn_blocks(each, tokens)[kOut]) < kExact);
      CHECK(relative_error(estimated_blocks(each, tokens, kReduce)[kOut],
                           ggn_blocks(each, tokens)[kOut]) > 0.05);
    }
  });
}

TEST_CASE("Attention in general: expand and reduce are two approximations of the exact blocks") {
  std::ostringstream table;
  table << "relative Frobenius errors of the blocks of q, k, v, out: expand, then reduce\n";
  Rng rng(3);
  for (const bool tokens_apart : {true, false}) {
    AnyModel model;
    if (tokens_apart)
      model.push_back(attention({.features = 4, .heads = 2}, false, rng));
    else
      model = pooled({.features = 4, .heads = 2}, false, true, rng);
    const Task task(model, MeanSquaredError<double>(), {4, 4}, 12, rng);
    const Blocks exact = ggn_blocks(model, task);
    const auto expand = relative_errors(estimated_blocks(model, task, kExpand), exact);
    const auto reduce = relative_errors(estimated_blocks(model, task, kReduce), exact);
    for (std::size_t i = 0; i <= kOut; ++i) {
      table << expand[i] << " " << reduce[i] << (i < kOut ? ", " : "\n");
      CHECK(std::min(expand[i], reduce[i]) < 1);
      CHECK(expand[i] != reduce[i]);
    }
  }
  WARN(table.str());
}

TEST_CASE(
    "Attention to all tokens does not change with what is added to all keys: reduce is blind") {
  for_each_seed([](std::uint64_t seed, Rng& rng) {
    AnyModel model = pooled(random_options(seed), false, true, rng);
    const Task task(model, MeanSquaredError<double>(), {4, 4}, 3, rng);
    const double exact = ggn_blocks(model, task)[kKey].norm();
    CHECK(estimated_blocks(model, task, kReduce)[kKey].norm() < 1e-20 * exact);
    CHECK(estimated_blocks(model, task, kExpand)[kKey].norm() > 0.01 * exact);
  });
}

TEST_CASE("Attention with padding has the factors of the sequences without it") {
  for_each_seed([](std::uint64_t seed, Rng& rng) {
    const Index examples = 3;
    const bool pools = seed % 2 == 0;
    AnyModel model;
    model.push_back(attention(random_options(seed / 2), false, rng));
    if (pools) model.push_back(MeanTokens<double>{});
    append_linear(model, {4, 2}, rng, true);
    const Task task(model, MeanSquaredError<double>({.reduction = Reduction::Sum}), {3, 4},
                    examples, rng);
    // Tokens 0, 2 and 3 of 5 are real; elsewhere there is what must not matter.
    Task padded(model, task.loss, {5, 4}, examples, rng);
    PositionMask mask = PositionMask::Constant(5, examples, false);
    for (const Index real : {0, 2, 3}) {
      mask.row(real).setConstant(true);
      padded.x.middleRows(4 * real, 4) = task.x.middleRows(4 * (real > 0 ? real - 1 : 0), 4);
    }
    for (const EstimatorOptions<double>& options : {kExpand, kReduce}) {
      // The keys' is 0 with reduce.
      const auto compared = [&](Blocks blocks) {
        if (options.sharing == WeightSharing::Reduce) blocks.erase(blocks.begin() + kKey);
        return blocks;
      };
      const Blocks expected = compared(estimated_blocks(model, task, options));
      model.set_mask(&mask);
      const Blocks masked = compared(estimated_blocks(model, padded, options));
      model.set_mask(nullptr);
      CHECK(largest_error(masked, expected) < kExact);
      CHECK(largest_error(compared(estimated_blocks(model, padded, options)), expected) > 0.01);
    }
  });
}

}  // namespace kfac::test::attention_curvature_test
