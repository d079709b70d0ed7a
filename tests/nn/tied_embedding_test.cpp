#include <kfac/nn/activations.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/residual.hpp>
#include <kfac/nn/tied_embedding.hpp>
#include <kfac/testing/relative_error.hpp>

#include "support/catch.hpp"
#include "support/message_of.hpp"
#include "support/random.hpp"

namespace kfac::test::tied_embedding_test {

using testing::relative_error;

namespace {

constexpr Index kVocabulary = 5, kFeatures = 3, kTokens = 4, kExamples = 2;

Matrix<double> random_tokens(Rng& rng) {
  Matrix<double> tokens(kTokens, kExamples);
  for (Index i = 0; i < tokens.size(); ++i)
    tokens.data()[i] = static_cast<double>(rng.below(kVocabulary));
  return tokens;
}

/// A tied model, and one of the same layers whose output weights are a copy of the embedding's.
struct Pair {
  explicit Pair(Rng& rng)
      : embedding({.vocabulary = kVocabulary, .features = kFeatures}, rng),
        middle(kFeatures, kFeatures, rng),
        output(kFeatures, kVocabulary, rng, {.bias = false}),
        tied{TiedEmbedding(embedding, Residual(middle, Tanh<double>{}))},
        untied{embedding, Residual(middle, Tanh<double>{}), with_weight(output, embedding)} {}

  static Linear<double> with_weight(Linear<double> linear, const Embedding<double>& embedding) {
    linear.augmented_weight() = embedding.weight().transpose();
    return linear;
  }
  /// What is like the parameters of the untied model, as it is for the tied one: two uses summed.
  static Vector<double> summed(const Vector<double>& v) {
    constexpr Index kEmbedding = kVocabulary * kFeatures;
    Vector<double> result = v.head(v.size() - kEmbedding);
    const Matrix<double> output = v.tail(kEmbedding).reshaped(kVocabulary, kFeatures);
    result.head(kEmbedding) += output.transpose().reshaped();
    return result;
  }
  /// A direction of the tied model's parameters as one of the untied model's.
  static Vector<double> doubled(const Vector<double>& v) {
    constexpr Index kEmbedding = kVocabulary * kFeatures;
    Vector<double> result(v.size() + kEmbedding);
    const Matrix<double> embedding = v.head(kEmbedding).reshaped(kFeatures, kVocabulary);
    result << v, embedding.transpose().reshaped();
    return result;
  }

  Embedding<double> embedding;
  Linear<double> middle, output;
  Sequential<TiedEmbedding<double, Residual<Linear<double>, Tanh<double>>>> tied;
  Sequential<Embedding<double>, Residual<Linear<double>, Tanh<double>>, Linear<double>> untied;
};

}  // namespace

TEST_CASE("TiedEmbedding: passes are those of two layers with one weight", "[nn][exact]") {
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    Rng rng(seed);
    Pair pair(rng);
    const Matrix<double> x = random_tokens(rng);
    const Matrix<double> y = pair.tied.forward(x);
    CHECK(pair.tied.output_shape({kTokens}) == Shape{kTokens, kVocabulary});
    CHECK(relative_error(y, pair.untied.forward(x)) < 1e-14);

    const Matrix<double> g = normal<double>(y.rows(), y.cols(), rng);
    pair.tied.backward(g);
    pair.untied.backward(g);
    CHECK(relative_error(pair.tied.gradient(), Pair::summed(pair.untied.gradient())) < 1e-14);

    const Vector<double> v = normal<double>(pair.tied.parameter_count(), 1, rng);
    CHECK(relative_error(pair.tied.tangent(v), pair.untied.tangent(Pair::doubled(v))) < 1e-14);
    const Matrix<double> dg = normal<double>(y.rows(), y.cols(), rng);
    const Vector<double> change = pair.tied.backward_tangent(g, v, dg, pair.tied.workspace());
    const Vector<double> expected =
        pair.untied.backward_tangent(g, Pair::doubled(v), dg, pair.untied.workspace());
    CHECK(relative_error(change, Pair::summed(expected)) < 1e-13);
  }
}

TEST_CASE("TiedEmbedding: its parts have names and sizes", "[nn]") {
  Rng rng(1);
  Pair pair(rng);
  const auto layers = pair.tied.layers();
  REQUIRE(layers.size() == 3);
  CHECK(layers[0].name == "0.embedding");
  CHECK(layers[1].name == "0.0.0");
  CHECK_FALSE(layers[0].kronecker->diagonal_input);
  CHECK(pair.untied.layers()[0].kronecker->diagonal_input);
  CHECK(pair.tied.parameter_count() == kVocabulary * kFeatures + kFeatures * (kFeatures + 1));
}

TEST_CASE("TiedEmbedding: says what is wrong", "[nn][errors]") {
  Rng rng(2);
  Sequential model{TiedEmbedding(Embedding<double>({.vocabulary = 4, .features = 3}, rng),
                                 Linear<double>(3, 2, rng))};
  CHECK(message_of<ShapeError>([&] { model.forward(Matrix<double>::Ones(2, 1)); }) ==
        "kfac::TiedEmbedding: the layers' output has shape 2x2, expected that of the embedded "
        "tokens, 2x3 (layer '0')");
}

}  // namespace kfac::test::tied_embedding_test
