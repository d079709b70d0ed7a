#include <kfac/attribution/influence.hpp>

#include "attribution/exact_influence.hpp"
#include "support/catch.hpp"

namespace kfac::test::influence_test {

namespace {

using Strategy = InfluenceStrategy;

/// Half the sum of the squared outputs: a measurement of one's own.
const auto half_squares = [](const auto& outputs, const auto&, MatrixRef<double> into) {
  into = outputs;
};

/// The columns of each layer's blocks alone.
Matrix<double> of_layer(AnyModel& model, const std::string& layer, Matrix<double> gradients) {
  for (const ParameterBlock& block : parameter_blocks(model))
    if (block.layer != layer) gradients.middleRows(block.offset, block.size()).setZero();
  return gradients;
}

}  // namespace

TEST_CASE("Influence: scores are those of dense algebra, for all strategies and kinds of layers") {
  for (std::uint64_t seed = 0; seed < 36; ++seed) {
    InfluenceCase at(seed);
    const Matrix<double> of_training = loss_gradients(at.model(), at.training);
    const Matrix<double> of_queries = loss_gradients(at.model(), at.queries);
    const Matrix<double> squares = measured_gradients(at.model(), at.queries, half_squares);
    const Matrix<double> own_squares = measured_gradients(at.model(), at.training, half_squares);
    const auto training = growing_slices(at.training);
    const auto queries = growing_slices(at.queries);
    for (const Strategy strategy : kStrategies) {
      INFO("seed " << seed << ", strategy " << static_cast<int>(strategy));
      const InfluenceOptions options{.strategy = strategy,
                                     .relative_damping = seed % 2 == 0 ? 0.1 : 0.0,
                                     .damping = seed % 2 == 0 ? 0.0 : 0.02};
      const auto estimate = at.estimate(strategy);
      const Matrix<double> inverse = exact_inverse(at.model(), estimate, options);
      AnyInfluence influence(at.model(), at.loss, estimate, options);
      const Matrix<double> preconditioned = inverse * of_training;
      CHECK(relative_error(influence.pairwise(queries, training),
                           Matrix<double>(of_queries.transpose() * preconditioned)) < 1e-10);
      CHECK(relative_error(influence.pairwise(queries, training, half_squares),
                           Matrix<double>(squares.transpose() * preconditioned)) < 1e-10);
      CHECK(relative_error(influence.self(training),
                           Vector<double>((of_training.transpose() * preconditioned).diagonal())) <
            1e-10);
      CHECK(relative_error(influence.self(training, half_squares),
                           Vector<double>((own_squares.transpose() * preconditioned).diagonal())) <
            1e-10);

      const LayerScores<double> layers = influence.pairwise_by_layer(queries, training);
      const LayerScores<double> own = influence.self_by_layer(training);
      const LayerScores<double> own_of_squares = influence.self_by_layer(training, half_squares);
      CHECK(relative_error(layers.total(),
                           Matrix<double>(of_queries.transpose() * preconditioned)) < 1e-10);
      for (std::size_t i = 0; i < layers.layers.size(); ++i) {
        const Matrix<double> alone = of_layer(at.model(), layers.layers[i], preconditioned);
        const double size = 1e-300 + preconditioned.norm();
        const auto is_near = [&](const Matrix<double>& actual, const Matrix<double>& gradients) {
          const Matrix<double> expected = gradients.transpose() * alone;
          const bool square = actual.cols() == 1 && expected.cols() > 1;
          const Matrix<double> chosen = square ? Matrix<double>(expected.diagonal()) : expected;
          CHECK((actual - chosen).norm() <= 1e-10 * (chosen.norm() + size * gradients.norm()));
        };
        is_near(layers.scores[i], of_queries);
        is_near(own.scores[i], of_training);
        is_near(own_of_squares.scores[i], own_squares);
      }
    }
  }
}

TEST_CASE("Influence: sums of measurements, of losses or of both come before the scores") {
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    InfluenceCase at(seed);
    const auto estimate = at.estimate(Strategy::Ekfac);
    AnyInfluence influence(at.model(), at.loss, estimate);
    const auto training = growing_slices(at.training);
    const auto queries = growing_slices(at.queries);
    const Matrix<double> all = influence.pairwise(queries, training);
    const auto with = [&](Aggregate aggregate) {
      return influence.pairwise(queries, training, {.aggregate = aggregate});
    };
    CHECK(relative_error(with(Aggregate::Queries), Matrix<double>(all.colwise().sum())) < 1e-10);
    CHECK(relative_error(with(Aggregate::Training), Matrix<double>(all.rowwise().sum())) < 1e-10);
    CHECK(with(Aggregate::Both).size() == 1);
    CHECK(with(Aggregate::Both)(0, 0) == Approx(all.sum()).epsilon(1e-9));
    CHECK(influence.pairwise_by_layer(queries, training, {.aggregate = Aggregate::Both})
              .total()(0, 0) == Approx(all.sum()).epsilon(1e-9));
  }
}

TEST_CASE("Influence: neither slices nor the number of queries held at once matter") {
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    InfluenceCase at(seed);
    for (const Strategy strategy : {Strategy::Diagonal, Strategy::Ekfac}) {
      AnyInfluence influence(at.model(), at.loss, at.estimate(strategy), {.strategy = strategy});
      const Matrix<double> expected =
          influence.pairwise(one_slice(at.queries), one_slice(at.training));
      const Vector<double> own = influence.self(one_slice(at.training));
      CHECK(relative_error(influence.self(growing_slices(at.training)), own) < 1e-12);
      for (const Index rank : {0, 1})
        for (const Index batch : {1, 2, 3}) {
          const Matrix<double> low =
              influence.pairwise(one_slice(at.queries), one_slice(at.training), {.rank = rank});
          CHECK(relative_error(
                    influence.pairwise(growing_slices(at.queries), growing_slices(at.training),
                                       {.rank = rank, .query_batch = batch}),
                    low) < 1e-12);
          if (rank == 0) CHECK(relative_error(low, expected) < 1e-12);
        }
    }
  }
}

TEST_CASE("Influence: the same data as queries and training have self-influence on the diagonal") {
  InfluenceCase at(5);
  AnyInfluence influence(at.model(), at.loss, at.estimate(Strategy::Kfac),
                         {.strategy = Strategy::Kfac});
  const auto data = growing_slices(at.training);
  const Matrix<double> scores = influence.pairwise(data, data);
  CHECK(relative_error(scores, Matrix<double>(scores.transpose())) < 1e-12);
  CHECK(relative_error(influence.self(data), Vector<double>(scores.diagonal())) < 1e-12);
}

TEST_CASE("Influence: only the layers that are picked count") {
  InfluenceCase at(0);
  for (const Strategy strategy : kStrategies) {
    const auto is_last = [](const std::string& layer) { return layer == "4"; };
    const auto estimate = at.estimate(strategy);
    AnyInfluence all(at.model(), at.loss, estimate, {.strategy = strategy});
    AnyInfluence last(at.model(), at.loss, estimate, {.strategy = strategy, .layers = is_last});
    // It then does not matter that the others were not estimated.
    const auto part = estimate_curvature(at.model(), at.loss, growing_slices(at.training),
                                         {.structure = structure_for(strategy), .layers = is_last});
    AnyInfluence estimated(at.model(), at.loss, part, {.strategy = strategy, .layers = is_last});
    const auto data = growing_slices(at.training);
    const LayerScores<double> expected = all.pairwise_by_layer(data, data);
    CHECK(expected.layers == std::vector<std::string>{"0", "1", "4"});
    CHECK(relative_error(last.pairwise(data, data), expected.scores[2]) < 1e-12);
    CHECK(relative_error(estimated.pairwise(data, data), expected.scores[2]) < 1e-12);
    CHECK(last.pairwise_by_layer(data, data).layers == std::vector<std::string>{"4"});
    CHECK(relative_error(last.self(data), Vector<double>(expected.scores[2].diagonal())) < 1e-12);
  }
}

TEST_CASE("Influence: damping is absolute and relative to each block's mean eigenvalue") {
  InfluenceCase at(4);
  const auto estimate = at.estimate(Strategy::Ekfac);
  const AnyInfluence influence(at.model(), at.loss, estimate,
                               {.relative_damping = 0.25, .damping = 0.5});
  const auto dampings = influence.dampings();
  REQUIRE(dampings.size() == estimate.blocks.size());
  const double scale =
      estimate.record.averages ? 1 : 1.0 / static_cast<double>(at.training.examples());
  for (std::size_t i = 0; i < dampings.size(); ++i) {
    CHECK(dampings[i].first == estimate.blocks[i].block.name());
    CHECK(dampings[i].second ==
          Approx(0.5 + 0.25 * scale * dense_of(estimate.blocks[i]).diagonal().mean()));
  }
  const auto by_default = AnyInfluence(at.model(), at.loss, estimate).dampings();
  CHECK(by_default[0].second == Approx((dampings[0].second - 0.5) * 0.4));
}

TEST_CASE("Influence: how the loss was reduced does not matter, but for a mean over outputs") {
  Rng rng(11);
  RandomNetwork network = network_of_all_blocks(rng);
  AnyModel& model = network.model;
  const Task task(model, SoftmaxCrossEntropy<double>(), network.shape, 6, rng);
  const auto scores = [&](const AnyLoss& loss) {
    const auto data = growing_slices(task);
    const auto estimate =
        estimate_curvature(model, loss, data, {.structure = CurvatureStructure::Ekfac});
    return AnyInfluence(model, loss, estimate, {.relative_damping = 0, .damping = 0.01})
        .pairwise(data, data);
  };
  const Matrix<double> of_mean = scores(SoftmaxCrossEntropy<double>());
  CHECK(relative_error(scores(SoftmaxCrossEntropy<double>(LossOptions{Reduction::Sum})), of_mean) <
        1e-10);
  CHECK(relative_error(scores(SoftmaxCrossEntropy<double>(LossOptions{Reduction::ExampleMean})),
                       of_mean) < 1e-10);
}

TEST_CASE("Influence: nobody hears of it, and the network stays as it was") {
  Rng rng(12);
  RandomNetwork network = network_of_all_blocks(rng);
  AnyModel& model = network.model;
  const Task task(model, SoftmaxCrossEntropy<double>(), network.shape, 4, rng);
  const auto data = growing_slices(task);
  AnyInfluence influence(
      model, task.loss,
      estimate_curvature(model, task.loss, data, {.structure = CurvatureStructure::Ekfac}));
  const Vector<double> before = flat_parameters(model);
  model.forward(task.x, network.shape);
  model.backward(Matrix<double>::Ones(3, 4));
  const Vector<double> gradient = model.gradient();
  influence.pairwise(data, data);
  influence.self(data);
  CHECK(flat_parameters(model) == before);
  CHECK(model.gradient() == gradient);
  CHECK(model.workspace().mode.training);
}

}  // namespace kfac::test::influence_test
