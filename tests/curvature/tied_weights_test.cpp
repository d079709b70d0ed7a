#include <sstream>
#include <vector>

#include <kfac/curvature/block_passes.hpp>
#include <kfac/curvature/curvature_estimator.hpp>
#include <kfac/curvature/diagonal_block.hpp>
#include <kfac/curvature/ekfac_block.hpp>
#include <kfac/curvature/full_block.hpp>
#include <kfac/curvature/ggn.hpp>
#include <kfac/loss/mean_squared_error.hpp>
#include <kfac/loss/softmax_cross_entropy.hpp>
#include <kfac/nn/activations.hpp>
#include <kfac/nn/conv.hpp>
#include <kfac/nn/flatten.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/repeat.hpp>
#include <kfac/nn/residual.hpp>
#include <kfac/nn/siamese.hpp>
#include <kfac/nn/tied_embedding.hpp>

#include "support/catch.hpp"
#include "support/dense_blocks.hpp"
#include "support/eigensolver.hpp"
#include "support/message_of.hpp"

namespace kfac::test::tied_weights_test {

namespace {

using TiedEmbedding4 = TiedEmbedding<double, Residual<Linear<double>, Tanh<double>>>;

struct Data {
  AnyLoss loss;
  Shape shape;
  Matrix<double> x, y;
};

/// A network that applies parameters several times, and data for it.
struct TiedCase {
  const char* name = "";
  AnyModel model;
  Data data;
};

Matrix<double> random_tokens(Index tokens, Index vocabulary, Index examples, Rng& rng) {
  Matrix<double> result(tokens, examples);
  for (Index i = 0; i < result.size(); ++i)
    result.data()[i] = static_cast<double>(rng.below(vocabulary));
  return result;
}

AnyModel siamese(Rng& rng) {
  AnyModel model;
  model.push_back(Siamese(2, Linear<double>(3, 4, rng), Tanh<double>{}, Linear<double>(4, 2, rng)));
  model.push_back(Flatten<double>{});
  model.push_back(Linear<double>(4, 3, rng));
  return model;
}
AnyModel siamese_images(Rng& rng) {
  AnyModel model;
  model.push_back(
      Siamese(3, Conv2d<double>({.out_channels = 2, .kernel_size = {2, 2}}, rng), Tanh<double>{}));
  model.push_back(Flatten<double>{});
  model.push_back(Linear<double>(24, 3, rng));
  return model;
}
AnyModel repeated(Rng& rng) {
  AnyModel model;
  model.push_back(Linear<double>(2, 3, rng));
  model.push_back(Repeat(3, Linear<double>(3, 3, rng), Tanh<double>{}));
  model.push_back(Linear<double>(3, 3, rng));
  return model;
}
/// Uses within a use, of parts of examples.
AnyModel nested(Rng& rng) {
  AnyModel model;
  model.push_back(Repeat(2, Siamese(2, Repeat(2, Linear<double>(3, 3, rng), Tanh<double>{}))));
  model.push_back(Flatten<double>{});
  model.push_back(Linear<double>(6, 3, rng));
  return model;
}
AnyModel tied_embedding(Rng& rng) {
  AnyModel model;
  model.push_back(TiedEmbedding(Embedding<double>({.vocabulary = 4, .features = 3}, rng),
                                Residual(Linear<double>(3, 3, rng), Tanh<double>{})));
  return model;
}

/// All of them, with a loss and three examples.
std::vector<TiedCase> cases(const AnyLoss& loss, Rng& rng) {
  constexpr Index kExamples = 3, kTokens = 2, kVocabulary = 4;
  std::vector<TiedCase> result;
  const auto add = [&](const char* name, AnyModel model, const Shape& shape) {
    // Where there are no tokens, random numbers will do.
    Matrix<double> x = model.layer(0).target<TiedEmbedding4>()
                           ? random_tokens(shape.size(), kVocabulary, kExamples, rng)
                           : random_matrix(shape.size(), kExamples, rng);
    const Matrix<double> zero = Matrix<double>::Zero(model.output_shape(shape).size(), kExamples);
    result.push_back({name, std::move(model), {loss, shape, std::move(x), loss.sample(zero, rng)}});
  };
  add("siamese", siamese(rng), {2, 3});
  add("siamese images", siamese_images(rng), {3, 1, 3, 3});
  add("repeated", repeated(rng), {2});
  add("nested", nested(rng), {2, 3});
  add("tied embedding", tied_embedding(rng), {kTokens});
  return result;
}

Blocks blocks(TiedCase& tied, const BlockFactory<double>& kind) {
  Estimator estimator(tied.model, tied.data.loss, {}, kind);
  estimator.fit(tied.data.x, tied.data.y,
                {.shape = tied.data.shape, .mask = nullptr, .samples = {}});
  return dense_blocks(estimator);
}
Blocks exact_blocks(TiedCase& tied) {
  const Data& data = tied.data;
  return diagonal_blocks(Ggn<AnyModel, AnyLoss>(tied.model, data.loss, data.x, data.shape).dense(),
                         tied.model);
}

}  // namespace

TEST_CASE("Tied weights: a full block is the exact GGN, EKFAC and the diagonal agree with it",
          "[curvature][exact]") {
  Rng rng(1);
  std::ostringstream table;
  table << "K-FAC's relative errors in Frobenius norm, layer by layer, for each loss\n";
  for (const AnyLoss& loss : all_losses({.reduction = Reduction::Mean}))
    for (TiedCase& tied : cases(loss, rng)) {
      INFO(tied.name);
      const Blocks exact = exact_blocks(tied);
      CHECK(largest_error(blocks(tied, block_factory<FullBlock<double>>()), exact) < 1e-12);
      const Blocks diagonal = blocks(tied, block_factory<DiagonalBlock<double>>());
      const Blocks ekfac = blocks(tied, block_factory<EkfacBlock<double>>());
      const Blocks factors = blocks(tied, block_factory<KroneckerBlock<double>>());
      table << tied.name << ':';
      for (const double error : relative_errors(factors, exact)) table << ' ' << error;
      table << '\n';
      for (std::size_t i = 0; i < exact.size(); ++i) {
        CHECK(relative_error(diagonal[i].diagonal(), exact[i].diagonal()) < 1e-12);
        CHECK(ekfac[i].trace() == Approx(exact[i].trace()).epsilon(1e-10));
        CHECK((ekfac[i] - exact[i]).norm() <=
              (factors[i] - exact[i]).norm() + 1e-12 * exact[i].norm());
      }
    }
  WARN(table.str());
}

TEST_CASE("Tied weights: the sum of a batch's own gradients is that of a backward pass",
          "[curvature][exact]") {
  Rng rng(2);
  for (TiedCase& tied : cases(MeanSquaredError<double>{}, rng)) {
    INFO(tied.name);
    BlockPasses passes(tied.model);
    const Matrix<double> y = passes.forward(tied.data.x, tied.data.shape);
    const Matrix<double> g = random_matrix(y.rows(), y.cols(), rng);
    Vector<double> sum = Vector<double>::Zero(tied.model.parameter_count());
    passes.backward(g, [&](std::size_t i, const auto& inputs, const auto& gradients) {
      const ParameterBlock& block = passes.blocks()[i];
      Matrix<double> x(block.columns(), inputs.columns());
      x.topRows(block.inputs) = inputs.matrix();
      if (block.bias) x.bottomRows(1).setOnes();
      block.of(sum) = gradients.matrix() * x.transpose();
    });
    tied.model.forward(tied.data.x, tied.data.shape);
    tied.model.backward(g);
    CHECK(relative_error(sum, tied.model.gradient()) < 1e-13);
  }
}

TEST_CASE("Tied weights: K-FAC is exact for linear siamese branches, each with its own error",
          "[curvature][exact]") {
  Rng rng(3);
  TiedCase tied{"linear branches", {}, {MeanSquaredError<double>{}, {3, 2}, {}, {}}};
  tied.model.push_back(Siamese(3, Linear<double>(2, 3, rng), Linear<double>(3, 2, rng)));
  tied.data.x = random_matrix(6, 5, rng);
  tied.data.y = random_matrix(6, 5, rng);
  CHECK(largest_error(blocks(tied, block_factory<KroneckerBlock<double>>()), exact_blocks(tied)) <
        1e-12);
  // Where the branches meet it is not.
  tied.model.push_back(Flatten<double>{});
  tied.model.push_back(Linear<double>(6, 6, rng));
  Blocks approximate = blocks(tied, block_factory<KroneckerBlock<double>>());
  CHECK(relative_errors(approximate, exact_blocks(tied))[0] > 0.01);
}

TEST_CASE("Tied weights: a tied embedding's factors have the trace of both uses' own",
          "[curvature][exact]") {
  Rng rng(4);
  const Embedding<double> embedding({.vocabulary = 4, .features = 3}, rng);
  const Linear<double> middle(3, 3, rng);
  Linear<double> output(3, 4, rng, {.bias = false});
  output.augmented_weight() = embedding.weight().transpose();
  for (const AnyLoss& loss : all_losses({.reduction = Reduction::Sum})) {
    TiedCase tied{"tied", {}, {loss, {5}, random_tokens(5, 4, 6, rng), {}}};
    tied.data.y = loss.sample(Matrix<double>::Zero(20, 6), rng);
    TiedCase untied{"untied", {}, tied.data};
    tied.model.push_back(TiedEmbedding(embedding, Residual(middle, Tanh<double>{})));
    untied.model.push_back(embedding);
    untied.model.push_back(Residual(middle, Tanh<double>{}));
    untied.model.push_back(output);
    const BlockFactory<double> kind = block_factory<KroneckerBlock<double>>();
    const Blocks one = blocks(tied, kind), two = blocks(untied, kind);
    CHECK(one[0].trace() == Approx(two[0].trace() + two[2].trace()).epsilon(1e-10));
    CHECK(relative_error(one[1], two[1]) < 1e-12);
  }
}

TEST_CASE("Tied weights: the inputs of a transposed use are not known before backward",
          "[curvature][errors]") {
  Rng rng(5);
  AnyModel model = tied_embedding(rng);
  BlockPasses passes(model);
  passes.forward(random_tokens(2, 4, 3, rng));
  CHECK(message_of<StateError>([&] { passes.inputs(0); }) ==
        "kfac::BlockPasses::inputs: the layer's transpose is used too, whose inputs come with "
        "backward, expected a layer that is only used forward (layer '0.embedding')");
  CHECK(passes.inputs(1).positions() == 2);
}

}  // namespace kfac::test::tied_weights_test
