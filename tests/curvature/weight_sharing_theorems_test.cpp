#include <kfac/nn/global_pooling.hpp>

#include "support/catch.hpp"
#include "support/dense_blocks.hpp"

// Where K-FAC of layers that share their weights over tokens equals the exact block, in its two
// forms, and where it must not.

namespace kfac::test::weight_sharing_theorems_test {

namespace {

constexpr double kExact = 1e-10;

constexpr EstimatorOptions<double> kExpand{.sharing = WeightSharing::Expand};
constexpr EstimatorOptions<double> kReduce{.sharing = WeightSharing::Reduce};

/// What varies from test to test.
struct Setting {
  Rng rng;
  bool bias;
  LossOptions loss;
  bool sums_tokens;
  Index tokens, examples;

  Shape shape() const { return {tokens, 4}; }
  AnyLayer<double> token_pool() const {
    if (sums_tokens) return SumTokens<double>{};
    return MeanTokens<double>{};
  }
};

/// Calls `body` with settings of all kinds, of at least 3 tokens and 2 examples.
template <class Body>
void for_each_setting(Body&& body) {
  for (std::uint64_t seed = 0; seed < 16; ++seed) {
    Rng rng(seed);
    const Index tokens = 3 + rng.below(4), examples = 2 + rng.below(5);
    Setting setting{rng,
                    seed % 2 == 0,
                    {.reduction = seed / 2 % 2 == 0 ? Reduction::Mean : Reduction::Sum},
                    seed / 4 % 2 == 0,
                    tokens,
                    examples};
    INFO("seed " << seed);
    body(setting);
  }
}

const KroneckerBlock<double>& kronecker(const std::unique_ptr<Estimator>& estimator,
                                        std::size_t layer) {
  return block_of(*estimator->layers()[layer]);
}

const BlockFactory<double> kKroneckerBlocks = block_factory<KroneckerBlock<double>>();

}  // namespace

TEST_CASE("T3: in deep linear networks on tokens with an output each and MSE, expand is the GGN") {
  for_each_setting([](Setting& s) {
    AnyModel model;
    append_linear(model, {4, 5, 3, 2}, s.rng, s.bias);
    const Task task(model, MeanSquaredError<double>(s.loss), s.shape(), s.examples, s.rng);
    const auto exact = ggn_blocks(model, task);
    CHECK(largest_error(estimated_blocks(model, task, kExpand), exact) < kExact);
    // Biases of earlier layers make tokens alike, and of equal tokens reduce is right.
    const auto errors = relative_errors(estimated_blocks(model, task, kReduce), exact);
    CHECK((s.bias ? errors.front() : smallest(errors)) > 0.4);
  });
}

TEST_CASE("T4: in deep linear networks that end in the mean or sum of tokens, reduce is the GGN") {
  for_each_setting([](Setting& s) {
    AnyModel model;
    append_linear(model, {4, 5, 3, 2}, s.rng, s.bias);
    model.push_back(s.token_pool());
    Task task(model, MeanSquaredError<double>(s.loss), s.shape(), s.examples, s.rng);
    task.x.array() += 2;  // for independent tokens of mean 0, expand is right on average
    const auto exact = ggn_blocks(model, task);
    CHECK(largest_error(estimated_blocks(model, task, kReduce), exact) < kExact);
    const auto errors = relative_errors(estimated_blocks(model, task, kExpand), exact);
    CHECK(errors.front() > 0.6);
    CHECK(smallest(errors) > 0.1);
  });
}

TEST_CASE("T5: with the mean or sum of tokens in the middle, reduce is the GGN of all layers") {
  for_each_setting([](Setting& s) {
    AnyModel model;
    append_linear(model, {4, 5, 3}, s.rng, s.bias);
    model.push_back(s.token_pool());
    append_linear(model, {3, 4, 2}, s.rng, s.bias);
    const Task task(model, MeanSquaredError<double>(s.loss), s.shape(), s.examples, s.rng);
    const auto reduce = fitted(model, task, kReduce, kKroneckerBlocks);
    const auto expand = fitted(model, task, kExpand, kKroneckerBlocks);
    CHECK(largest_error(dense_blocks(*reduce), ggn_blocks(model, task)) < kExact);

    // G carries the scale, in which reduce has another factor S.
    for (const std::size_t before : {0U, 1U}) {
      CHECK(relative_error(kronecker(reduce, before).output_gradient_factor(),
                           static_cast<double>(s.tokens) *
                               kronecker(expand, before).output_gradient_factor()) < kExact);
      CHECK(relative_error(dense(kronecker(expand, before)), dense(kronecker(reduce, before))) >
            0.1);
    }
    for (const std::size_t after : {2U, 3U}) {
      CHECK(kronecker(reduce, after).input_factor() == kronecker(expand, after).input_factor());
      CHECK(kronecker(reduce, after).output_gradient_factor() ==
            kronecker(expand, after).output_gradient_factor());
    }
  });
}

TEST_CASE("T10: with one position, expand and reduce are the same, and as for vectors") {
  for_each_setting([](Setting& s) {
    AnyModel model;
    append_linear(model, {4, 5}, s.rng, s.bias);
    model.push_back(Tanh<double>{});
    append_linear(model, {5, 3}, s.rng, s.bias);
    model.push_back(Flatten<double>{});
    for (const AnyLoss& loss : all_losses(s.loss)) {
      Task task(model, loss, {1, 4}, s.examples, s.rng);
      for (const FisherType type :
           {FisherType::Type2, FisherType::MonteCarlo, FisherType::Empirical,
            FisherType::CurvaturePropagation, FisherType::ForwardOnly}) {
        const auto of = [&](WeightSharing sharing) {
          return estimated_blocks(model, task, {.fisher = type, .samples = 2, .sharing = sharing});
        };
        const auto expand = of(WeightSharing::Expand);
        CHECK(largest_error(of(WeightSharing::Reduce), expand) == 0);
        task.shape = {4};
        CHECK(largest_error(of(WeightSharing::Reduce), expand) == 0);
        task.shape = {1, 4};
      }
    }
  });
}

TEST_CASE("T15: of a network that keeps tokens apart, expand is K-FAC of the tokens as vectors") {
  for_each_setting([](Setting& s) {
    AnyModel model;
    append_linear(model, {4, 5}, s.rng, s.bias);
    model.push_back(Tanh<double>{});
    append_linear(model, {5, 3}, s.rng, s.bias);
    const auto check = [&](const AnyLoss& loss, const AnyLoss& of_vectors) {
      const Task tokens(model, loss, s.shape(), s.examples, s.rng);
      Task vectors(model, of_vectors, {4}, s.tokens * s.examples, s.rng);
      vectors.x = tokens.x.reshaped(4, s.tokens * s.examples);
      vectors.y = tokens.y.reshaped(vectors.y.rows(), vectors.y.cols());
      for (const FisherType type : {FisherType::Type2, FisherType::Empirical})
        CHECK(largest_error(estimated_blocks(model, tokens, {.fisher = type}),
                            estimated_blocks(model, vectors, {.fisher = type})) < 1e-13);
    };
    check(MeanSquaredError<double>(s.loss), MeanSquaredError<double>(s.loss));
    check(BinaryCrossEntropy<double>(s.loss), BinaryCrossEntropy<double>(s.loss));
    check(SoftmaxCrossEntropy<double>({.reduction = s.loss.reduction, .classes = 3}),
          SoftmaxCrossEntropy<double>(s.loss));
  });
}

TEST_CASE("T16: for one example, linear up to the pooling, reduce is exact whatever comes after") {
  for_each_setting([](Setting& s) {
    AnyModel model;
    append_linear(model, {4, 5, 3}, s.rng, s.bias);
    model.push_back(s.token_pool());
    model.push_back(Tanh<double>{});
    append_linear(model, {3, 4}, s.rng, s.bias);
    model.push_back(Tanh<double>{});
    append_linear(model, {4, 3}, s.rng, s.bias);
    for (const AnyLoss& loss : all_losses(s.loss)) {
      const Task task(model, loss, s.shape(), 1, s.rng);
      CHECK(largest_error(estimated_blocks(model, task, kReduce), ggn_blocks(model, task)) <
            kExact);
      CHECK(largest_error(estimated_blocks(
                              model, task,
                              {.fisher = FisherType::Empirical, .sharing = WeightSharing::Reduce}),
                          fisher_blocks(model, task, {task.y})) < kExact);
    }
  });
}

TEST_CASE("Negative control: T16 needs a linear path up to the pooling, and one example") {
  for_each_setting([](Setting& s) {
    AnyModel model;
    append_linear(model, {4, 5}, s.rng, s.bias);
    model.push_back(Tanh<double>{});
    append_linear(model, {5, 3}, s.rng, s.bias);
    model.push_back(s.token_pool());
    model.push_back(Tanh<double>{});
    append_linear(model, {3, 3}, s.rng, s.bias);
    const SoftmaxCrossEntropy<double> loss(s.loss);
    Task one(model, loss, s.shape(), 1, s.rng);
    Task several(model, loss, s.shape(), s.examples, s.rng);
    one.x *= 3;
    several.x *= 3;
    const auto errors =
        relative_errors(estimated_blocks(model, one, kReduce), ggn_blocks(model, one));
    CHECK(errors[0] > 1e-2);
    CHECK(errors[1] < kExact);
    CHECK(errors[2] < kExact);
    CHECK(relative_errors(estimated_blocks(model, several, kReduce), ggn_blocks(model, several))
              .front() > 1e-2);
  });
}

}  // namespace kfac::test::weight_sharing_theorems_test
