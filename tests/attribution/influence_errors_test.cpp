#include <limits>

#include <kfac/attribution/influence.hpp>
#include <kfac/curvature/estimate_curvature.hpp>

#include "support/catch.hpp"
#include "support/eigensolver.hpp"
#include "support/message_of.hpp"
#include "support/networks.hpp"

namespace kfac::test::influence_errors_test {

TEST_CASE("Influence: what does not fit or is not finite is an exception that says where") {
  Rng rng(13);
  Sequential model{Linear<double>(3, 2, rng), Tanh<double>{}, Linear<double>(2, 2, rng)};
  Sequential wider{Linear<double>(3, 2, rng), Tanh<double>{}, Linear<double>(2, 3, rng)};
  const SoftmaxCrossEntropy<double> loss;
  const Dataset<double> data{random_matrix(3, 5, rng), random_labels(2, 5, rng)};
  const auto all = slices(data, 5);
  const auto kronecker = estimate_curvature(model, loss, all);
  const auto diagonal =
      estimate_curvature(model, loss, all, {.structure = CurvatureStructure::Diagonal});
  const auto make = [&](const CurvatureEstimate<double>& estimate,
                        const InfluenceOptions& options) {
    return [&model, &loss, &estimate, options] { Influence(model, loss, estimate, options); };
  };
  CHECK(message_of<StateError>(make(kronecker, {})) ==
        "kfac::Influence: 'estimate' has no second moments of layer '0', expected that of "
        "CurvatureStructure::Ekfac");
  CHECK(message_of<StateError>(make(diagonal, {.strategy = InfluenceStrategy::Kfac})) ==
        "kfac::Influence: 'estimate' has no factors of layer '0', expected that of "
        "estimate_curvature with CurvatureStructure::Kronecker");
  CHECK(message_of<StateError>(make(kronecker, {.strategy = InfluenceStrategy::Diagonal})) ==
        "kfac::Influence: 'estimate' has no diagonal of layer '0', expected that of "
        "estimate_curvature with CurvatureStructure::Diagonal");
  CHECK(message_of<StateError>(make(kronecker, {.strategy = InfluenceStrategy::Full})) ==
        "kfac::Influence: 'estimate' has no full block of layer '0', expected that of "
        "estimate_curvature with CurvatureStructure::Full");
  CHECK(
      message_of<SingularError>(make(
          kronecker, {.strategy = InfluenceStrategy::Kfac, .relative_damping = 0, .damping = 0})) ==
      "kfac::Influence: 'damping' is 0 and an eigenvalue is 0, expected damping > 0 (layer '2')");
  CHECK(message_of<OptionError>(make(kronecker, {.relative_damping = -1})) ==
        "kfac::InfluenceOptions: 'relative_damping' is -1, expected >= 0 and finite");
  CHECK(message_of<OptionError>(make(kronecker, {.damping = -2})) ==
        "kfac::InfluenceOptions: 'damping' is -2, expected >= 0 and finite");
  CHECK(message_of<StateError>(
            make(kronecker, {.layers = [](const std::string&) { return false; }})) ==
        "kfac::Influence: 'layers' picks none, expected at least one");
  CHECK(message_of<ShapeError>(
            [&] { Influence(wider, loss, diagonal, {.strategy = InfluenceStrategy::Diagonal}); }) ==
        "kfac::Influence: 'estimate' has block '2', Linear 2x(2+1), expected '2', Linear "
        "3x(2+1)");
  CurvatureEstimate<double> broken = diagonal;
  broken.blocks[1].diagonal(1, 2) = std::numeric_limits<double>::quiet_NaN();
  CHECK(message_of<ValueError>(make(broken, {.strategy = InfluenceStrategy::Diagonal})) ==
        "kfac::Influence: 'estimate' is nan at (1, 2), expected finite numbers (layer '2')");

  Influence influence(model, loss, kronecker, {.strategy = InfluenceStrategy::Kfac});
  CHECK(message_of<ShapeError>([&] { influence.pairwise({}, all); }) ==
        "kfac::Influence: 'queries' has no examples, expected at least one");
  CHECK(message_of<ShapeError>([&] { influence.self({}); }) ==
        "kfac::Influence: 'training' has no examples, expected at least one");
  CHECK(message_of<OptionError>([&] { influence.pairwise(all, all, {.rank = -1}); }) ==
        "kfac::ScoreOptions: 'rank' is -1, expected >= 0");
  CHECK(message_of<OptionError>([&] { influence.pairwise(all, all, {.query_batch = -1}); }) ==
        "kfac::ScoreOptions: 'query_batch' is -1, expected >= 0");
  CHECK(message_of<OptionError>([&] { influence.pairwise(all, all, {.memory_limit = 0}); }) ==
        "kfac::ScoreOptions: 'memory_limit' is 0, expected > 0");
  const auto infinite = [](const auto&, const auto&, MatrixRef<double> into) {
    into.setConstant(std::numeric_limits<double>::infinity());
  };
  CHECK(message_of<ValueError>([&] { influence.pairwise(all, all, infinite); }) ==
        "kfac::Influence: the measurement's gradient of 'queries' is not finite, expected finite "
        "numbers");
  const auto huge = [](const auto&, const auto&, MatrixRef<double> into) {
    into.setConstant(1e308);
    into.row(0).setConstant(-1e308);
  };
  Dataset<double> far = data;
  far.inputs *= 1e3;
  far.inputs.col(3).setConstant(1e300);
  CHECK(message_of<ValueError>([&] { influence.pairwise(slices(far, 5), all, huge); }) ==
        "kfac::Influence: 'queries' has a gradient that is not finite, expected finite numbers "
        "(layer '2')");
  const auto large = [](const auto&, const auto&, MatrixRef<double> into) {
    into.setConstant(1e200);
  };
  CHECK(message_of<ValueError>([&] { influence.pairwise(all, all, large, {.rank = 1}); }) ==
        "kfac::Influence: 'queries' has a gradient whose square is not finite, expected finite "
        "numbers (layer '2')");
  const Dataset<double> wrong{data.inputs, Labels::Constant(5, 2)};
  CHECK_THROWS_AS(influence.pairwise(all, slices(wrong, 5)), ValueError);
}

}  // namespace kfac::test::influence_errors_test
