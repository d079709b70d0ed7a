#include "support/catch.hpp"
#include "support/dense_blocks.hpp"

// Each Fisher type against what it stands for.

namespace kfac::test::fisher_types_test {

static_assert(FisherType::Exact == FisherType::Type2);

namespace {

const BlockFactory<double> kKroneckerBlocks = block_factory<KroneckerBlock<double>>();

/// Three outputs, of vectors or of each token; a last layer for every shape.
AnyModel tanh_network(Rng& rng, Index outputs = 3) {
  AnyModel model;
  append_linear(model, {4, 5}, rng, true);
  model.push_back(Tanh<double>{});
  append_linear(model, {5, outputs}, rng, false);
  return model;
}

/// The mean over seeds of the squared relative error of all blocks against type-2.
double mean_square_error(AnyModel& model, const Task& task, FisherType type, Index samples,
                         std::uint64_t seeds) {
  const Blocks exact = estimated_blocks(model, task, {});
  double sum = 0;
  for (std::uint64_t seed = 0; seed < seeds; ++seed)
    for (const double error : relative_errors(
             estimated_blocks(model, task, {.fisher = type, .samples = samples, .seed = seed}),
             exact))
      sum += error * error;
  return sum / static_cast<double>(seeds * exact.size());
}

Matrix<double> augmented(const Matrix<double>& x) {
  Matrix<double> result = Matrix<double>::Ones(x.rows() + 1, x.cols());
  result.topRows(x.rows()) = x;
  return result;
}

/// The sum of the columns of each example.
Matrix<double> sums_of_tokens(const Matrix<double>& columns, Index tokens) {
  Matrix<double> sums(columns.rows(), columns.cols() / tokens);
  for (Index n = 0; n < sums.cols(); ++n)
    sums.col(n) = columns.middleCols(n * tokens, tokens).rowwise().sum();
  return sums;
}

}  // namespace

TEST_CASE("Monte-Carlo and curvature propagation converge as one over the root of the samples") {
  Rng rng(1);
  AnyModel model = tanh_network(rng);
  for (const AnyLoss& loss : all_losses({})) {
    const Task task(model, loss, {4}, 3, rng);
    for (const FisherType type : {FisherType::MonteCarlo, FisherType::CurvaturePropagation}) {
      const double few = mean_square_error(model, task, type, 8, 24);
      const double many = mean_square_error(model, task, type, 8 * 64, 24);
      CHECK(few / many > 64 / 3.0);
      CHECK(few / many < 64 * 3.0);
      CHECK(many < 0.01);
    }
  }
}

TEST_CASE("Signs have less variance than samples where outputs are independent") {
  Rng rng(2);
  AnyModel model = tanh_network(rng);
  const auto ratio = [&](const AnyLoss& loss) {
    const Task task(model, loss, {4}, 3, rng);
    return mean_square_error(model, task, FisherType::CurvaturePropagation, 1, 400) /
           mean_square_error(model, task, FisherType::MonteCarlo, 1, 400);
  };
  CHECK(ratio(MeanSquaredError<double>()) < 0.7);
  // The larger |p - 1/2|, the more; at 1/2 samples are signs.
  CHECK(ratio(BinaryCrossEntropy<double>()) < 1.05);
}

TEST_CASE("Of one output, curvature propagation is exact with one sample") {
  Rng rng(3);
  AnyModel model = tanh_network(rng, 1);
  for (const AnyLoss& loss :
       {AnyLoss(MeanSquaredError<double>()), AnyLoss(BinaryCrossEntropy<double>())}) {
    const Task task(model, loss, {4}, 5, rng);
    CHECK(mean_square_error(model, task, FisherType::CurvaturePropagation, 1, 3) < 1e-24);
    CHECK(mean_square_error(model, task, FisherType::MonteCarlo, 1, 3) > 1e-4);
  }
}

TEST_CASE("The exact Fisher is that of all labels, each as likely as the model has it") {
  Rng rng(4);
  AnyModel model = tanh_network(rng);
  for (const Reduction reduction : {Reduction::Mean, Reduction::Sum, Reduction::ExampleMean}) {
    const SoftmaxCrossEntropy<double> loss({.reduction = reduction});
    const Task task(model, loss, {4}, 5, rng);
    Ggn at(model, loss, task.x, task.shape);
    const Matrix<double> outputs = at.outputs();
    const double r = loss.scale(3, 5);
    Matrix<double> likelihood = outputs.array().exp();
    likelihood.array().rowwise() /= likelihood.colwise().sum().array().eval();
    std::vector<Matrix<double>> vectors;
    for (int label = 0; label < 3; ++label)
      vectors.push_back((loss.gradient(outputs, Labels::Constant(5, label)) / r) *
                        likelihood.row(label).cwiseSqrt().asDiagonal());
    const Blocks exact = diagonal_blocks(outer_products(at, vectors, r), model);
    CHECK(largest_error(ggn_blocks(model, task), exact) < 1e-12);
    const Blocks diagonal = estimated_blocks(model, task, {.fisher = FisherType::Exact},
                                             block_factory<DiagonalBlock<double>>());
    for (std::size_t i = 0; i < exact.size(); ++i)
      CHECK(relative_error(diagonal[i].diagonal(), exact[i].diagonal()) < 1e-12);
  }
}

TEST_CASE("The empirical Fisher's factors are those of the loss's own gradients") {
  Rng rng(5);
  AnyModel model({Linear<double>(4, 3, rng)});
  for (const Reduction reduction : {Reduction::Mean, Reduction::Sum, Reduction::ExampleMean})
    for (const AnyLoss& loss : all_losses({.reduction = reduction})) {
      const Task task(model, loss, {4}, 6, rng);
      const double r = loss.scale(3, 6);
      Matrix<double> gradient(3, 6);
      loss.gradient(model.forward(task.x), task.y, gradient);
      const auto estimator =
          fitted(model, task, {.fisher = FisherType::Empirical}, kKroneckerBlocks);
      const auto& block = block_of(*estimator->layers()[0]);
      const Matrix<double> x = augmented(task.x);
      CHECK(relative_error(block.input_factor(), x * x.transpose() / 6) < 1e-13);
      CHECK(relative_error(block.output_gradient_factor(), gradient * gradient.transpose() / r) <
            1e-13);
    }
}

TEST_CASE("Forward-only curvature is R times the second moment of the inputs, with G = I") {
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    Rng rng(seed);
    AnyModel model = tanh_network(rng);
    const Index tokens = 1 + rng.below(4), examples = 1 + rng.below(4);
    for (const AnyLoss& loss :
         all_losses({.reduction = seed % 2 == 0 ? Reduction::Mean : Reduction::Sum})) {
      const Task task(model, loss, {tokens, 4}, examples, rng);
      const double r = loss.scale(3 * tokens, examples);
      const auto layers = model.layers();
      const ConstMatrixMap<double> first(layers[0].parameters.data(), 5, 5);
      const Matrix<double> inputs = augmented(task.x.reshaped(4, tokens * examples));
      const Matrix<double> hidden = (first * inputs).array().tanh();
      for (const WeightSharing sharing : {WeightSharing::Expand, WeightSharing::Reduce}) {
        const auto expected = [&](const Matrix<double>& columns, Index outputs) {
          const Matrix<double> x =
              sharing == WeightSharing::Expand ? columns : sums_of_tokens(columns, tokens);
          return linalg::kronecker_product<double>(r * x * x.transpose(),
                                                   Matrix<double>::Identity(outputs, outputs));
        };
        const auto estimator = fitted(
            model, task, {.fisher = FisherType::ForwardOnly, .sharing = sharing}, kKroneckerBlocks);
        const Blocks blocks = dense_blocks(*estimator);
        CHECK(relative_error(blocks[0], expected(inputs, 5)) < 1e-13);
        CHECK(relative_error(blocks[1], expected(hidden, 3)) < 1e-13);
        const auto& g = block_of(*estimator->layers()[1]).output_gradient_factor();
        CHECK(relative_error(g, g(0, 0) * Matrix<double>::Identity(3, 3)) == 0);
      }
    }
  }
}

TEST_CASE("Kinds of blocks without a forward-only form say so") {
  Rng rng(6);
  AnyModel model = tanh_network(rng);
  const Task task(model, MeanSquaredError<double>(), {4}, 3, rng);
  Estimator estimator(model, task.loss, {.fisher = FisherType::ForwardOnly},
                      block_factory<DiagonalBlock<double>>());
  CHECK_THROWS_WITH(estimator.fit(task.x, task.y),
                    "kfac::CurvatureBlock::add_output_identity: a diagonal block has no "
                    "forward-only form, expected a K-FAC block (layer '0')");
  CHECK_THROWS_AS(estimator.fit(task.x, task.y), StateError);
  CHECK(model.workspace().mode.training);
  CHECK_THROWS_AS(estimator.layers()[0]->blocks()[0]->matrix(), StateError);
}

TEST_CASE("Given labels take the place of drawn ones, and are the same every time") {
  Rng rng(7);
  AnyModel model = tanh_network(rng);
  for (const AnyLoss& loss : all_losses({})) {
    const Task task(model, loss, {4}, 4, rng);
    const Matrix<double> outputs = model.forward(task.x);
    Rng same(31);
    Samples samples;
    for (int sample = 0; sample < 3; ++sample) samples.push_back(loss.sample(outputs, same));
    const auto of = [&](std::uint64_t seed, FisherType type) {
      return estimated_blocks(model, task, {.fisher = type, .samples = 2, .seed = seed},
                              kKroneckerBlocks, samples);
    };
    const Blocks given = of(1, FisherType::MonteCarlo);
    CHECK(largest_error(of(2, FisherType::MonteCarlo), given) == 0);
    CHECK(largest_error(of(3, FisherType::Type2), given) == 0);
    const EstimatorOptions<double> drawn{
        .fisher = FisherType::MonteCarlo, .samples = 3, .seed = 31};
    CHECK(largest_error(estimated_blocks(model, task, drawn), given) < 1e-12);
  }
}

TEST_CASE("Given labels have to fit the outputs") {
  Rng rng(8);
  AnyModel model = tanh_network(rng);
  for (const AnyLoss& loss : all_losses({})) {
    const Task task(model, loss, {4}, 4, rng);
    Samples samples{task.y, task.y.leftCols(3)};
    CHECK_THROWS_AS(fitted(model, task, {}, kKroneckerBlocks, samples), ShapeError);
    samples[1] = task.y;
    CHECK_NOTHROW(fitted(model, task, {}, kKroneckerBlocks, samples));
  }
}

}  // namespace kfac::test::fisher_types_test
