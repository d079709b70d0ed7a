#include <Eigen/SVD>

#include "attribution/exact_influence.hpp"
#include "support/catch.hpp"
#include "support/message_of.hpp"

namespace kfac::test::query_gradients_test {

namespace {

/// The nearest matrix of a rank, by the singular value decomposition.
Matrix<double> truncated(const Matrix<double>& matrix, Index rank) {
  if (rank == 0 || rank >= std::min(matrix.rows(), matrix.cols())) return matrix;
  const Eigen::JacobiSVD<Matrix<double>> svd(matrix, Eigen::ComputeThinU | Eigen::ComputeThinV);
  const Matrix<double> scaled =
      svd.matrixU().leftCols(rank) * svd.singularValues().head(rank).asDiagonal();
  return scaled * svd.matrixV().leftCols(rank).transpose();
}

}  // namespace

TEST_CASE("Influence: with a rank, each query's preconditioned gradients are truncated optimally") {
  for (std::uint64_t seed = 0; seed < 16; ++seed) {
    INFO("seed " << seed);
    InfluenceCase at(seed);
    const auto estimate = at.estimate(InfluenceStrategy::Ekfac);
    const InfluenceOptions options;
    AnyInfluence influence(at.model(), at.loss, estimate, options);
    const Matrix<double> training = loss_gradients(at.model(), at.training);
    const Matrix<double> queries =
        exact_inverse(at.model(), estimate, options) * loss_gradients(at.model(), at.queries);
    const auto data = growing_slices(at.training);
    const Matrix<double> full = influence.pairwise(growing_slices(at.queries), data);
    for (const Index rank : {1, 2, 3, 100}) {
      Matrix<double> low = queries;
      for (const ParameterBlock& block : parameter_blocks(at.model()))
        for (Index q = 0; q < low.cols(); ++q) {
          const Matrix<double> matrix = low.col(q)
                                            .segment(block.offset, block.size())
                                            .reshaped(block.outputs, block.columns());
          low.col(q).segment(block.offset, block.size()) = truncated(matrix, rank).reshaped();
        }
      const ScoreOptions score_options{.rank = rank};
      CHECK(relative_error(influence.pairwise(growing_slices(at.queries), data, score_options),
                           Matrix<double>(low.transpose() * training)) < 1e-8);
      const Matrix<double> sum = influence.pairwise(
          growing_slices(at.queries), data, {.aggregate = Aggregate::Training, .rank = rank});
      CHECK(relative_error(sum, Matrix<double>(low.transpose() * training.rowwise().sum())) < 1e-8);
    }
    CHECK(relative_error(influence.pairwise(growing_slices(at.queries), data, {.rank = 100}),
                         full) < 1e-14);
  }
}

TEST_CASE("Influence: a low rank is not the full one") {
  InfluenceCase at(0);
  AnyInfluence influence(at.model(), at.loss, at.estimate(InfluenceStrategy::Ekfac));
  const auto data = growing_slices(at.training);
  CHECK(relative_error(influence.pairwise(data, data, {.rank = 1}),
                       influence.pairwise(data, data)) > 1e-4);
}

TEST_CASE("Influence: the memory limit chooses how many queries are held, and refuses too little") {
  InfluenceCase at(0);
  AnyInfluence influence(at.model(), at.loss, at.estimate(InfluenceStrategy::Ekfac));
  const auto data = growing_slices(at.training);
  const Index examples = at.training.examples();
  const Matrix<double> expected = influence.pairwise(data, data);
  // 67 parameters; of rank 1, 2 + 9 numbers for each of two groups, 16, and 3 + 5.
  CHECK(influence.memory(10, 20, 4).total() == 8.0 * (10 * 20 + 4 * 67));
  CHECK(influence.memory(10, 20, 4, {.rank = 1}).total() ==
        8.0 * (10 * 20 + 4 * (2 * (2 + 9) + 16 + 3 + 5)));
  CHECK(influence.memory(10, 20, 4, {.aggregate = Aggregate::Both}).total() ==
        8.0 * (1 + 4 * 67 + 67));
  CHECK(influence.memory(10, 20, 4, {}, true).total() == 8.0 * (3 * 10 * 20 + 4 * 67));
  CHECK(influence.memory(10, 20, 4).parts[1].name == "layer 0/0");

  const double least = influence.memory(examples, examples, 1).total();
  for (const double limit : {least, least + 8 * 67, 1e9}) {
    CHECK(relative_error(influence.pairwise(data, data, {.memory_limit = limit}), expected) <
          1e-12);
    CHECK(relative_error(influence.pairwise_by_layer(data, data, {.memory_limit = 1e9}).total(),
                         expected) < 1e-12);
  }
  CHECK_THROWS_AS(influence.pairwise(data, data, {.memory_limit = least - 1}), MemoryError);
  CHECK_THROWS_AS(influence.pairwise(data, data, {.query_batch = 2, .memory_limit = least}),
                  MemoryError);
  CHECK(message_of<MemoryError>([&] {
          influence.pairwise(data, data, {.memory_limit = 100});
        }).find("kfac::Influence: 'memory_limit' is 100 B, expected at least") == 0);
}

TEST_CASE("Influence: large batches of queries and examples go through scratch in parts") {
  // More than 2^20 numbers of products: 40 outputs, 60 queries, 700 examples.
  Rng rng(3);
  Sequential model{Linear<double>(3, 40, rng), Tanh<double>{}, Linear<double>(40, 2, rng)};
  const SoftmaxCrossEntropy<double> loss;
  const Dataset<double> queries{random_matrix(3, 60, rng), random_labels(2, 60, rng)};
  const Dataset<double> data{random_matrix(3, 700, rng), random_labels(2, 700, rng)};
  Influence influence(model, loss, estimate_curvature(model, loss, slices(data, 700)),
                      {.strategy = InfluenceStrategy::Kfac});
  for (const Index rank : {0, 30}) {
    const Matrix<double> at_once =
        influence.pairwise(slices(queries, 60), slices(data, 700), {.rank = rank});
    const Matrix<double> in_parts =
        influence.pairwise(slices(queries, 7), slices(data, 50), {.rank = rank, .query_batch = 5});
    CHECK(relative_error(at_once, in_parts) < 1e-12);
  }
}

}  // namespace kfac::test::query_gradients_test
