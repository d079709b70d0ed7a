#include <kfac/curvature/diagonal_input_block.hpp>
#include <kfac/nn/embedding.hpp>
#include <kfac/nn/positions.hpp>

#include "support/blocks.hpp"
#include "support/catch.hpp"
#include "support/dense_blocks.hpp"

// K-FAC with a diagonal input factor: of embeddings, against K-FAC and dense matrices.

namespace kfac::test::diagonal_input_block_test {

namespace {

constexpr double kExact = 1e-12;
using K = KroneckerBlock<double>;
using D = DiagonalInputBlock<double>;

constexpr Index kVocabulary = 5, kFeatures = 3;

AnyModel network(Rng& rng, bool is_linear, std::optional<Index> padding = {}) {
  AnyModel model({Embedding<double>(
      {.vocabulary = kVocabulary, .features = kFeatures, .padding_idx = padding}, rng)});
  if (!is_linear) model.push_back(Tanh<double>{});
  append_linear(model, {kFeatures, 2}, rng, true);
  return model;
}

Task task_of(const AnyModel& model, const AnyLoss& loss, Index tokens, Index examples, Rng& rng) {
  Task task(model, loss, {tokens}, examples, rng);
  for (double& token : task.x.reshaped()) token = static_cast<double>(rng.below(kVocabulary));
  return task;
}

/// Fed with the same, the two kinds of the first layer.
struct Pair {
  std::unique_ptr<Estimator> kronecker, diagonal;

  Pair(AnyModel& model, const Task& task, const EstimatorOptions<double>& options,
       const PositionMask* mask = nullptr)
      : kronecker(std::make_unique<Estimator>(model, task.loss, options, block_factory<K>())),
        diagonal(std::make_unique<Estimator>(model, task.loss, options, block_factory<D>())) {
    for (const auto& estimator : {&kronecker, &diagonal})
      (*estimator)->fit(task.x, task.y, {.shape = task.shape, .mask = mask});
  }
  const K& expected() const { return block_of<K>(*kronecker->layers()[0]); }
  const D& actual() const { return block_of<D>(*diagonal->layers()[0]); }
  /// The largest error of the factors.
  double error() const {
    const Matrix<double> a = expected().input_factor().diagonal().asDiagonal();
    return std::max(
        relative_error(Matrix<double>(actual().input_factor().asDiagonal()), a),
        relative_error(actual().output_gradient_factor(), expected().output_gradient_factor()));
  }
};

PositionMask random_mask(Index tokens, Index examples, Rng& rng) {
  PositionMask mask(tokens, examples);
  for (Index n = 0; n < examples; ++n) {
    for (Index s = 0; s < tokens; ++s) mask(s, n) = rng.below(2) == 0;
    mask(rng.below(tokens), n) = true;
  }
  return mask;
}

}  // namespace

TEST_CASE("DiagonalInputBlock of an embedding is K-FAC of dense one-hot columns") {
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    Rng rng(seed);
    const std::optional<Index> padding =
        seed % 2 == 0 ? std::optional<Index>() : std::optional<Index>(2);
    AnyModel model = network(rng, false, padding);
    const Index tokens = 1 + rng.below(4), examples = 1 + rng.below(5);
    const Task task = task_of(model, MeanSquaredError<double>(), tokens, examples, rng);
    const PositionMask mask = random_mask(tokens, examples, rng);
    for (const FisherType type :
         {FisherType::Type2, FisherType::Empirical, FisherType::ForwardOnly})
      for (const FactorBalance pi : {FactorBalance::None, FactorBalance::Trace,
                                     FactorBalance::Frobenius, FactorBalance::OneNorm})
        for (const PositionMask* given : {static_cast<const PositionMask*>(nullptr), &mask}) {
          const Pair pair(model, task, {.fisher = type, .pi = pi}, given);
          CHECK(pair.error() < kExact);
          CHECK(relative_error(dense_of(pair.actual()), dense_of(pair.expected())) < kExact);
          CHECK(relative_error(pair.actual().matrix(0.3)->dense(),
                               pair.expected().matrix(0.3)->dense()) < kExact);
          const Matrix<double> v = random_matrix(kFeatures, kVocabulary, rng);
          Matrix<double> a = v, b = v;
          K expected = pair.expected();
          D actual = pair.actual();
          REQUIRE(expected.refresh_inverse(0.3));
          REQUIRE(actual.refresh_inverse(0.3));
          const double expected_dot = expected.precondition_with_dot(b);
          CHECK(actual.precondition_with_dot(a) == Approx(expected_dot).epsilon(1e-12));
          CHECK(relative_error(a, b) < kExact);
        }
  }
}

TEST_CASE("DiagonalInputBlock with reduced positions has the diagonal of K-FAC's factor") {
  Rng rng(5);
  AnyModel model = network(rng, false);
  const Task task = task_of(model, MeanSquaredError<double>(), 4, 6, rng);
  const PositionMask mask = random_mask(4, 6, rng);
  for (const FisherType type : {FisherType::Type2, FisherType::ForwardOnly})
    for (const PositionMask* given : {static_cast<const PositionMask*>(nullptr), &mask}) {
      const Pair pair(model, task, {.fisher = type, .sharing = WeightSharing::Reduce}, given);
      CHECK(pair.error() < kExact);
      const Matrix<double> a = pair.expected().input_factor();
      CHECK_FALSE(a.isDiagonal(1e-3));
    }
}

TEST_CASE("DiagonalInputBlock of any other inputs has the diagonal of K-FAC's factor") {
  Rng rng(6);
  for (int repeat = 0; repeat < 8; ++repeat) {
    const MapData data = MapData::random(rng);
    BlockOptions<double> options = data.options();
    options.sharing = repeat % 2 == 0 ? WeightSharing::Expand : WeightSharing::Reduce;
    K expected(options);
    D actual(options);
    data.fit(expected, 1.3);
    data.fit(actual, 1.3);
    CHECK(relative_error(actual.input_factor(), expected.input_factor().diagonal()) < kExact);
    CHECK(relative_error(actual.output_gradient_factor(), expected.output_gradient_factor()) <
          kExact);
  }
}

TEST_CASE("DiagonalInputBlock is the exact block of an embedding under linear layers and MSE") {
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    Rng rng(seed);
    AnyModel model = network(rng, true);
    const Task task =
        task_of(model, MeanSquaredError<double>(), 1 + rng.below(4), 1 + rng.below(6), rng);
    const Matrix<double> exact = ggn_blocks(model, task)[0];
    CHECK(relative_error(estimated_blocks(model, task, {}, block_factory<D>())[0], exact) < kExact);
    // Not with something nonlinear on top.
    AnyModel other = network(rng, false);
    const Task wrong = task_of(other, MeanSquaredError<double>(), 2, 6, rng);
    CHECK(relative_error(estimated_blocks(other, wrong, {}, block_factory<D>())[0],
                         ggn_blocks(other, wrong)[0]) > 1e-2);
  }
}

TEST_CASE("DiagonalInputBlock is exact for one token of one example, and any loss") {
  Rng rng(7);
  AnyModel model = network(rng, false);
  for (const AnyLoss& loss : all_losses({})) {
    const Task task = task_of(model, loss, 1, 1, rng);
    CHECK(relative_error(estimated_blocks(model, task, {}, block_factory<D>())[0],
                         ggn_blocks(model, task)[0]) < kExact);
  }
}

TEST_CASE("DiagonalInputBlock is the exact block of learned positions in a linear network") {
  Rng rng(8);
  AnyModel model;
  append_linear(model, {2, 3}, rng, true);
  model.push_back(LearnedPositions<double>(4, 3, rng));
  append_linear(model, {3, 2}, rng, true);
  for (const Index tokens : {1, 3, 4}) {
    const Task task(model, MeanSquaredError<double>(), {tokens, 2}, 5, rng);
    const Matrix<double> exact = ggn_blocks(model, task)[1];
    CHECK(relative_error(estimated_blocks(model, task, {}, block_factory<D>())[1], exact) < kExact);
    CHECK(relative_error(estimated_blocks(model, task, {}, block_factory<K>())[1], exact) < kExact);
  }
}

TEST_CASE("DiagonalInputBlock leaves columns of zeros alone, and multiplies many") {
  Rng rng(9);
  constexpr Index kInputs = 700, kOutputs = 2;
  D block({.inputs = kInputs, .outputs = kOutputs, .bias = false});
  block.accumulate(random_matrix(kInputs, 20, rng), random_matrix(kOutputs, 20, rng));
  REQUIRE(block.refresh_inverse(0.1));
  Matrix<double> v = random_matrix(kOutputs, kInputs, rng);
  for (Index j = 0; j < kInputs; j += 3) v.col(j).setZero();
  const Matrix<double> before = v;
  const double dot = block.precondition_with_dot(v);
  for (Index j = 0; j < kInputs; j += 3) CHECK(v.col(j).isZero(0));
  CHECK(dot == Approx(v.cwiseProduct(before).sum()));
  Matrix<double> expected = before;
  block.matrix(0.1)->solve(expected);
  CHECK(relative_error(v, expected) < kExact);
  Matrix<double> nothing = Matrix<double>::Zero(kOutputs, kInputs);
  CHECK(block.precondition_with_dot(nothing) == 0);
  CHECK(nothing.isZero(0));
  CHECK(block.cost().factors == "A diagonal of 700, G 2x2");
}

TEST_CASE("DiagonalInputBlock without damping needs every token to have come") {
  Rng rng(10);
  D block({.inputs = 3, .outputs = 2, .bias = false});
  Matrix<double> x = Matrix<double>::Zero(3, 8);
  for (Index n = 0; n < 8; ++n) x(n % 2, n) = 1;
  block.accumulate(x, random_matrix(2, 8, rng));
  CHECK(block.matrix(0.0)->singular());
  CHECK_THROWS_AS(block.refresh_inverse(0.0), SingularError);
  CHECK(block.refresh_inverse(1e-3));
}

}  // namespace kfac::test::diagonal_input_block_test
