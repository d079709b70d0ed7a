#include <string>
#include <utility>

#include <kfac/nn/embedding.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/positions.hpp>
#include <kfac/nn/sequential.hpp>

#include "nn/support.hpp"
#include "support/message_of.hpp"

// Vectors for tokens and for positions.

namespace kfac::test::embedding_test {

namespace {

/// Always the same tokens, whatever the input: the battery moves inputs, which tokens do not allow.
struct OnTokens : Embedding<double> {
  OnTokens(const Embedding<double>& layer, Matrix<double> tokens)
      : Embedding<double>(layer), tokens_(std::move(tokens)) {}
  ConstBatchView<double> given(const ConstBatchView<double>& x) const {
    return {{tokens_.data(), x.values.rows(), x.values.cols()}, x.shape};
  }
  void forward(const ConstBatchView<double>& x, BatchView<double> y, Scratch& scratch,
               const Mode& mode) const {
    Embedding<double>::forward(given(x), std::move(y), scratch, mode);
  }
  void backward(const ConstBatchView<double>& x, const ConstBatchView<double>& y,
                const ConstBatchView<double>& g, BatchView<double>* dx, VectorMap<double>* dw,
                Scratch& scratch, const Mode& mode) const {
    Embedding<double>::backward(given(x), y, g, dx, dw, scratch, mode);
  }
  void tangent(const ConstBatchView<double>& x, const ConstBatchView<double>& y,
               const ConstBatchView<double>* dx, const ConstVectorMap<double>* dw,
               BatchView<double> dy, Scratch& scratch) const {
    Embedding<double>::tangent(given(x), y, dx, dw, std::move(dy), scratch);
  }
  void backward_tangent(const ConstBatchView<double>& x, const ConstBatchView<double>& y,
                        const ConstBatchView<double>& g, const ConstBatchView<double>* dx,
                        const ConstVectorMap<double>* dw, const ConstBatchView<double>& dg,
                        BatchView<double>* into_x, VectorMap<double>* into_w,
                        Scratch& scratch) const {
    Embedding<double>::backward_tangent(given(x), y, g, dx, dw, dg, into_x, into_w, scratch);
  }

 private:
  Matrix<double> tokens_;
};
static_assert(KroneckerLayer<OnTokens> && TwiceDifferentiableLayer<OnTokens>);

Matrix<double> random_tokens(Index vocabulary, Index rows, Index columns, Rng& rng) {
  Matrix<double> tokens(rows, columns);
  for (double& token : tokens.reshaped()) token = static_cast<double>(rng.below(vocabulary));
  return tokens;
}

/// Keeps what the first layer announces.
struct Inputs : Observer<double> {
  Matrix<double> columns;
  std::vector<double> rows;
  void on_input(const std::string&, const SharedBatch<double>& input) override {
    columns = input.matrix();
    const double* const given = input.one_hot();
    REQUIRE(given != nullptr);
    rows.assign(given, given + input.columns());
    // Of a part of the examples it is that part's.
    CHECK(input.examples(1, 1).one_hot() == given + input.positions());
    CHECK(input.examples(1, 1).matrix() ==
          columns.middleCols(input.positions(), input.positions()));
    CHECK(input.features(0, 1).one_hot() == nullptr);
  }
};

}  // namespace

TEST_CASE("Embedding gives each token its column, on any shape", "[nn][exact]") {
  Rng rng(1);
  for (const Shape& shape : {Shape{1}, Shape{4}, Shape{2, 3}}) {
    Embedding<double> layer({.vocabulary = 5, .features = 3}, rng);
    const Matrix<double> x = random_tokens(5, shape.size(), 3, rng);
    const Matrix<double> weight = layer.weight();
    Sequential model(layer);
    const Matrix<double> y = model.forward(x, shape);
    REQUIRE(y.rows() == 3 * shape.size());
    for (Index n = 0; n < 3; ++n)
      for (Index t = 0; t < shape.size(); ++t)
        CHECK(y.col(n).segment(3 * t, 3) == weight.col(static_cast<Index>(x(t, n))));
    Shape expected = shape;
    expected.push_back(3);
    CHECK(layer.output_shape(shape) == expected);
  }
}

TEST_CASE("Embedding passes the layer battery", "[nn][gradient]") {
  Rng rng(2);
  for (int trial = 0; trial < 4; ++trial) {
    const Index vocabulary = between(1, 6, rng), features = between(1, 4, rng);
    const Index tokens = between(1, 4, rng), batch = between(1, 3, rng);
    const Embedding<double> layer({.vocabulary = vocabulary, .features = features}, rng);
    const auto check = require_twice_differentiable(
        OnTokens(layer, random_tokens(vocabulary, tokens, batch, rng)), {tokens}, batch, rng);
    CHECK(check.kronecker.has_value());
  }
}

TEST_CASE("Embedding of padding gets no gradient and announces a column of zeros", "[nn]") {
  Rng rng(3);
  Embedding<double> layer({.vocabulary = 4, .features = 2, .padding_idx = 1}, rng);
  CHECK(layer.weight().col(1).isZero(0));
  layer.weight().col(1) << 0.5, -1;  // may be anything
  Sequential model(std::move(layer), Linear<double>(2, 3, rng));
  Matrix<double> x(3, 2);
  x << 0, 1, 1, 3, 3, 1;
  Inputs inputs;
  model.layers()[0].hooks->attach(inputs);
  const Matrix<double> y = model.forward(x);
  CHECK(y.col(1).head(3) == y.col(1).tail(3));
  CHECK(inputs.rows == std::vector<double>{0, -1, 3, -1, 3, -1});
  CHECK(inputs.columns.colwise().sum() == Eigen::RowVectorXd{{1, 0, 1, 0, 1, 0}});
  model.backward(normal<double>(9, 2, rng));
  const MatrixMap<double> gradient(model.gradient().data(), 2, 4);
  CHECK(gradient.col(1).isZero(0));
  CHECK(gradient.col(2).isZero(0));  // not in the batch
  CHECK_FALSE(gradient.col(0).isZero(0));
  // Neither do outputs change with it.
  Vector<double> direction = Vector<double>::Zero(model.parameter_count());
  direction.segment(2, 2).setOnes();
  CHECK(model.tangent(direction).isZero(0));
}

TEST_CASE("Embedding writes the whole gradient, whatever was there", "[nn]") {
  Rng rng(4);
  Sequential model(Embedding<double>({.vocabulary = 50, .features = 3}, rng));
  const Matrix<double> tokens = random_tokens(50, 4, 2, rng);
  const Matrix<double> g = normal<double>(12, 2, rng);
  model.forward(tokens);
  model.gradient().setConstant(7);
  model.backward(g);
  Matrix<double> expected = Matrix<double>::Zero(3, 50);
  for (Index n = 0; n < 2; ++n)
    for (Index t = 0; t < 4; ++t)
      expected.col(static_cast<Index>(tokens(t, n))) += g.col(n).segment(3 * t, 3);
  CHECK(error_of(model.gradient(), expected.reshaped()) < 1e-15);
  CHECK(model.input_gradient(g).isZero(0));
}

TEST_CASE("Embedding announces one-hot columns, a bounded number at a time", "[nn]") {
  Rng rng(5);
  constexpr Index kVocabulary = 40000, kTokens = 16, kBatch = 5;
  Sequential model(Embedding<float>({.vocabulary = kVocabulary, .features = 1}, rng));
  struct Blocks : Observer<float> {
    Index examples = 0, largest = 0;
    float sum = 0;
    void on_input(const std::string&, const SharedBatch<float>& input) override {
      input.for_each_block([&](const SharedBatch<float>& block, Index) {
        examples += block.batch();
        largest = std::max(largest, block.batch());
        sum += block.matrix().sum();
      });
    }
  } blocks;
  model.layers()[0].hooks->attach(blocks);
  Matrix<float> x(kTokens, kBatch);
  for (float& token : x.reshaped()) token = static_cast<float>(rng.below(kVocabulary));
  model.forward(x);
  CHECK(blocks.examples == kBatch);
  CHECK(blocks.largest == 1);
  CHECK(blocks.sum == static_cast<float>(kTokens * kBatch));
}

TEST_CASE("Embedding names itself, its parameter and what does not fit", "[nn][error]") {
  Rng rng(6);
  Embedding<float> layer({.vocabulary = 7, .features = 2}, rng);
  CHECK(Embedding<float>::kind() == std::string("Embedding"));
  REQUIRE(layer.parameter_info().size() == 1);
  CHECK(layer.parameter_info()[0].name == "weight");
  CHECK(layer.parameter_info()[0].columns == 7);
  CHECK(layer.kronecker_structure().diagonal_input);
  Sequential model(std::move(layer));
  for (const float wrong : {7.0F, -1.0F, 2.5F}) {
    Matrix<float> x = Matrix<float>::Zero(3, 2);
    x(2, 1) = wrong;
    CHECK(message_of<ValueError>([&] { model.forward(x); }) ==
          "kfac::Embedding: 'input' is " + kfac::detail::text(wrong) +
              " at (2, 1), expected an integer from 0 to 6");
  }
  CHECK(message_of<ShapeError>([&] {
          model.output_shape({1, 1, 1, 1});
        }) ==
        "kfac::Embedding: 'input' has shape 1x1x1x1, expected 1 to 3 axes of tokens (layer '0')");
  const auto message = [&](const EmbeddingOptions& options) {
    return message_of<OptionError>([&] { Embedding<float>(options, rng); });
  };
  CHECK(message({.vocabulary = 0}) == "kfac::Embedding: 'vocabulary' is 0, expected >= 1");
  CHECK(message({.features = 0}) == "kfac::Embedding: 'features' is 0, expected >= 1");
  CHECK(message({.vocabulary = 3, .padding_idx = 3}) ==
        "kfac::Embedding: 'padding_idx' is 3, expected in [0, vocabulary)");
  CHECK(message({.vocabulary = 20000000}) ==
        "kfac::Embedding: 'vocabulary' is 20000000, expected no more than the scalar has integers");
}

TEST_CASE("LearnedPositions add a vector for each position", "[nn][gradient]") {
  Rng rng(7);
  LearnedPositions<double> layer(5, 3, rng, {.deviation = 0.5});
  for (const Index tokens : {1, 3, 5}) {
    const Matrix<double> x = normal<double>(3 * tokens, 4, rng);
    Sequential model(layer);
    Inputs inputs;
    model.layers()[0].hooks->attach(inputs);
    const Matrix<double> y = model.forward(x, {tokens, 3});
    const Vector<double> added = layer.weight().leftCols(tokens).reshaped();
    CHECK(error_of(y, x.colwise() + added) == 0);
    for (Index i = 0; i < tokens * 4; ++i) CHECK(inputs.columns(i % tokens, i) == 1);
    CHECK(inputs.columns.sum() == static_cast<double>(4 * tokens));
    const auto check = require_twice_differentiable(layer, {tokens, 3}, 2, rng);
    CHECK(check.kronecker.has_value());
  }
  LearnedPositions<double> spread(400, 50, rng);
  CHECK(spread.weight().norm() / std::sqrt(20000.0) == Approx(0.02).epsilon(0.05));
  CHECK(LearnedPositions<double>::kind() == std::string("LearnedPositions"));
  CHECK(message_of<ShapeError>([&] {
          layer.output_shape({6, 3});
        }) ==
        "kfac::LearnedPositions: 'input' has shape 6x3, expected at most 5 tokens x 3 features");
  CHECK(message_of<OptionError>([&] { LearnedPositions<double>(0, 3, rng); }) ==
        "kfac::LearnedPositions: 'max_tokens' is 0, expected >= 1");
  CHECK(message_of<OptionError>([&] { LearnedPositions<double>(2, 0, rng); }) ==
        "kfac::LearnedPositions: 'features' is 0, expected >= 1");
  CHECK(message_of<OptionError>([&] { LearnedPositions<double>(2, 3, rng, {.deviation = -1}); }) ==
        "kfac::LearnedPositions: 'deviation' is -1, expected >= 0 and finite");
}

TEST_CASE("SinusoidalPositions add the waves of Vaswani et al.", "[nn][gradient]") {
  Rng rng(8);
  Sequential model(SinusoidalPositions<double>{});
  for (const Index tokens : {2, 7, 3})
    for (const Index features : {4, 5}) {
      const Matrix<double> x = normal<double>(tokens * features, 3, rng);
      const Matrix<double> y = model.forward(x, {tokens, features});
      for (Index t = 0; t < tokens; ++t)
        for (Index j = 0; j < features; ++j) {
          const auto even = static_cast<double>(j - j % 2);
          const double phase =
              static_cast<double>(t) / std::pow(10000.0, even / static_cast<double>(features));
          const double wave = j % 2 == 0 ? std::sin(phase) : std::cos(phase);
          CHECK(y(t * features + j, 1) == Approx(x(t * features + j, 1) + wave).margin(1e-13));
        }
      require_twice_differentiable(SinusoidalPositions<double>{}, {tokens, features}, 2, rng);
    }
  CHECK(SinusoidalPositions<double>::kind() == std::string("SinusoidalPositions"));
  CHECK(message_of<ShapeError>([&] { model.output_shape({6}); }) ==
        "kfac::SinusoidalPositions: 'input' has shape 6, expected tokens x features (layer '0')");
}

}  // namespace kfac::test::embedding_test
