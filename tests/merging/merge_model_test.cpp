#include <kfac/merging/merge.hpp>

#include "support/catch.hpp"
#include "support/eigensolver.hpp"
#include "support/merge_models.hpp"
#include "support/message_of.hpp"

namespace kfac::test::merge_model_test {

namespace {

using Models = std::vector<MergeModel<double>>;

/// Models with a common first layer and heads "2" of so many outputs.
void add_heads(Candidates& candidates, const std::vector<Index>& outputs, Rng& rng) {
  for (const Index classes : outputs) {
    AnyModel model;
    model.push_back(Linear<double>(3, 4, rng));
    model.push_back(Tanh<double>{});
    model.push_back(Linear<double>(4, classes, rng));
    const Task task(model, SoftmaxCrossEntropy<double>(), {3}, 7, rng);
    candidates.add(model, task, {});
  }
}

}  // namespace

TEST_CASE("merge: heads are kept from the model asked for, whatever their sizes") {
  Rng rng(1);
  Candidates candidates;
  add_heads(candidates, {2, 4, 3}, rng);
  const Models& models = candidates.models;
  const MergeResult<double> result =
      merge(models, {.damping = 0.01, .tolerance = 1e-12, .heads = {"2"}, .head_of = 1});
  CHECK(result.parameters.size() == models[1].parameters.size());
  REQUIRE(result.blocks.size() == 2);
  CHECK(result.blocks[1].merge == BlockMerge::Kept);
  CHECK(result.blocks[1].block == models[1].blocks[1]);
  CHECK(result.parameters.tail(4 * 5) == models[1].parameters.tail(4 * 5));
  // What is shared is merged as if there were no heads.
  Models trunks = models;
  std::deque<Estimates> estimates;
  for (MergeModel<double>& trunk : trunks) {
    Estimates& estimate = estimates.emplace_back(*trunk.curvature);
    estimate.blocks.pop_back();
    trunk.blocks.pop_back();
    trunk.parameters.conservativeResize(trunk.blocks[0].size());
    trunk.curvature = &estimate;
  }
  CHECK(relative_error(result.parameters.head(4 * 4), dense_merge(trunks, {.damping = 0.01})) <
        1e-9);
  // A model of that architecture takes them.
  AnyModel network = candidates.networks[1];
  set_flat_parameters(network, result.parameters);
}

TEST_CASE("merge: heads of disjoint classes are concatenated, class by class") {
  Rng rng(2);
  Candidates candidates;
  add_heads(candidates, {2, 4, 3}, rng);
  const MergeResult<double> result =
      merge(candidates.models, {.heads = {"2"}, .head_rule = HeadRule::Concatenate});
  CHECK(result.blocks[1].merge == BlockMerge::Concatenated);
  CHECK(result.blocks[1].block.outputs == 9);
  AnyModel network;
  network.push_back(Linear<double>(3, 4, rng));
  network.push_back(Tanh<double>{});
  network.push_back(Linear<double>(4, 9, rng));
  set_flat_parameters(network, result.parameters);
  const Matrix<double> x = random_matrix(3, 5, rng);
  const Matrix<double> outputs = network.forward(x);
  Index row = 0;
  for (std::size_t t = 0; t < 3; ++t) {
    AnyModel& own = candidates.networks[t];
    Vector<double> parameters = flat_parameters(own);
    parameters.head(16) = result.parameters.head(16);
    set_flat_parameters(own, parameters);
    const Matrix<double> expected = own.forward(x);
    CHECK(relative_error(Matrix<double>(outputs.middleRows(row, expected.rows())), expected) <
          1e-14);
    row += expected.rows();
  }
  CHECK(result.summary().find("concatenated") != std::string::npos);
}

TEST_CASE("merge: models of one architecture but for layers that are no heads are refused") {
  Rng rng(3);
  Candidates candidates;
  add_heads(candidates, {2, 4}, rng);
  const Models models = candidates.models;
  CHECK(message_of<ShapeError>([&] { merge(models); }) ==
        "kfac::merge: 'models[1].blocks' has '2', Linear 4x(4+1), expected Linear 2x(4+1) as "
        "models[0] has (layer '2')");
  CHECK(message_of<ShapeError>([&] {
          Models other = models;
          other[1].blocks.pop_back();
          other[1].parameters.conservativeResize(16);
          other[1].curvature = nullptr;
          merge(other, {.method = MergeMethod::Average});
        }) ==
        "kfac::merge: 'models[1].blocks' has no such block, expected Linear 2x(4+1) as "
        "models[0] has (layer '2')");
  CHECK(message_of<ShapeError>([&] {
          Models other = {models[1], models[0]};
          other[0].blocks.pop_back();
          other[0].parameters.conservativeResize(16);
          other[0].curvature = nullptr;
          merge(other, {.method = MergeMethod::Average});
        }) == "kfac::merge: 'models[1].blocks' has 2 blocks, expected 1");
  Candidates wider;
  add_heads(wider, {2}, rng);
  AnyModel network;
  append_linear(network, {3, 4}, rng, true);
  network.push_back(Tanh<double>{});
  append_linear(network, {4, 2}, rng, false);
  wider.models.push_back(merge_model(network));
  CHECK(message_of<ShapeError>([&] {
          merge(
              wider.models,
              {.method = MergeMethod::Average, .heads = {"2"}, .head_rule = HeadRule::Concatenate});
        }) ==
        "kfac::merge: 'models[1].blocks' has '2', Linear 2x(4), expected but for the "
        "outputs Linear 2x(4+1) as models[0] has (layer '2')");
  const RandomNetwork all = network_of_all_blocks(rng);
  Candidates grouped;
  const Task task(all.model, SoftmaxCrossEntropy<double>(), all.shape, 4, rng);
  grouped.add(all.model, task, {});
  for (const char* layer : {"0", "1"})
    CHECK(message_of<ShapeError>([&] {
            merge(grouped.models, {.heads = {layer}, .head_rule = HeadRule::Concatenate});
          }) == "kfac::merge: 'heads' has '" + std::string(layer) +
                    "', which is no linear map of one group, expected one for "
                    "HeadRule::Concatenate");
}

TEST_CASE("merge: bad models and options are named") {
  Rng rng(4);
  Candidates candidates;
  add_heads(candidates, {3, 3, 3}, rng);
  const Models models = candidates.models;
  const auto with = [&](auto&& change) {
    Models changed = models;
    change(changed);
    return changed;
  };
  CHECK(message_of<ShapeError>([] { merge(Models{}); }) ==
        "kfac::merge: 'models' is empty, expected at least one");
  CHECK(message_of<OptionError>([&] { merge(with([](Models& m) { m[1].weight = -1; })); }) ==
        "kfac::merge: 'models[1].weight' is -1, expected >= 0 and finite");
  CHECK(message_of<OptionError>([&] {
          merge(with([](Models& m) {
            for (auto& model : m) model.weight = 0;
          }));
        }) == "kfac::merge: 'weight' is 0, expected a positive sum");
  CHECK(message_of<ShapeError>([&] {
          merge(with([](Models& m) { m[2].parameters.conservativeResize(5); }));
        }) == "kfac::merge: 'models[2].parameters' has 5 entries, expected 31");
  CHECK(message_of<ValueError>([&] {
          merge(with(
              [](Models& m) { m[0].parameters(3) = std::numeric_limits<double>::infinity(); }));
        }) == "kfac::merge: 'models[0].parameters' is inf at (3, 0), expected finite numbers");
  CHECK(message_of<ShapeError>([&] {
          Estimates cut = *models[0].curvature;
          cut.blocks.pop_back();
          merge(with([&](Models& m) { m[0].curvature = &cut; }));
        }) == "kfac::merge: 'estimate' has 1 blocks, expected 2");
  CHECK(message_of<ValueError>([&] {
          Estimates bad = *models[0].curvature;
          bad.record.loss_scale = 0;
          merge(with([&](Models& m) { m[0].curvature = &bad; }));
        }) == "kfac::merge: 'models[0].curvature' has the loss_scale 0, expected > 0 and finite");
  CHECK(message_of<ValueError>([&] {
          Estimates bad = *models[0].curvature;
          bad.record.examples = 0;
          merge(with([&](Models& m) { m[0].curvature = &bad; }), {.method = MergeMethod::RegMean});
        }) == "kfac::merge: 'models[0].curvature' is of 0 examples, expected at least 1");
  CHECK(message_of<StateError>([&] { merge(with([](Models& m) { m[1].curvature = nullptr; })); }) ==
        "kfac::merge: 'models[1]' has no curvature to merge with, expected one of the "
        "structure that 'method' asks for (layer '0')");
  CHECK(message_of<StateError>([&] { merge(models, {.method = MergeMethod::Diagonal}); }) ==
        "kfac::merge: 'models[0]' has no diagonal to merge with, expected one of the structure "
        "that 'method' asks for (layer '0')");

  const auto message = [&](const MergeOptions& options) {
    return message_of<OptionError>([&] { merge(models, options); });
  };
  CHECK(message({.damping = -1}) == "kfac::merge: 'damping' is -1, expected >= 0 and finite");
  CHECK(message({.output_damping = -1}) ==
        "kfac::merge: 'output_damping' is -1, expected >= 0 and finite");
  CHECK(message({.off_diagonal = 1.5}) == "kfac::merge: 'off_diagonal' is 1.5, expected in [0, 1]");
  CHECK(message({.tolerance = -1}) == "kfac::merge: 'tolerance' is -1, expected >= 0 and finite");
  CHECK(message({.max_iterations = -1}) == "kfac::merge: 'max_iterations' is -1, expected >= 0");
  CHECK(message({.head_of = -1}) == "kfac::merge: 'head_of' is -1, expected >= 0");
  CHECK(message({.head_of = 3}) == "kfac::merge: 'head_of' is 3, expected the index of a model");
  CHECK(message({.heads = {"1"}}) ==
        "kfac::merge: 'heads' has '1', expected the name of a layer with parameters");
  CHECK(message({.solver = MergeSolver::Exact}) ==
        "kfac::merge: 'solver' is Exact for 3 models, expected at most 2, or ConjugateGradients");
  CHECK(message({.memory_limit = 0}) == "kfac::merge: 'memory_limit' is 0, expected > 0");
  CHECK(message_of<ShapeError>([&] {
          merge(models, {.start = MergeStart::Given, .initial = Vector<double>::Zero(3)});
        }) == "kfac::merge: 'initial' has 3 entries, expected 31");
}

TEST_CASE("merge: without damping a singular block is refused by its name") {
  Rng rng(5);
  Candidates candidates;
  add_heads(candidates, {3, 3}, rng);
  for (Estimates& estimate : candidates.estimates) {
    estimate.blocks[0].factors = {Matrix<double>::Identity(4, 4), Matrix<double>::Identity(4, 4)};
    estimate.blocks[1].factors.a.row(2).setZero();
    estimate.blocks[1].factors.a.col(2).setZero();
  }
  for (const MergeMethod method : {MergeMethod::RegMean, MergeMethod::Kronecker})
    CHECK(message_of<SingularError>(
              [&] { merge(candidates.models, {.method = method, .damping = 0}); }) ==
          "kfac::merge: the sum of the models' curvatures is singular to working precision, "
          "expected damping > 0 (layer '2')");
  CHECK(merge(candidates.models, {.damping = 1e-6}).converged());
}

TEST_CASE("merge: what would take too much memory is refused before it is allocated") {
  Rng rng(6);
  Candidates candidates;
  add_heads(candidates, {3, 3}, rng);
  const MemoryEstimate memory = merge_memory<double>(candidates.models[0].blocks, 2);
  CHECK(memory.total() > 2 * 2 * (16 + 25) * sizeof(double));
  CHECK_NOTHROW(merge(candidates.models, {.memory_limit = memory.total()}));
  CHECK(message_of<MemoryError>([&] {
          merge(candidates.models, {.memory_limit = memory.total() - 1});
        }).find("kfac::merge: 'memory_limit' is ") == 0);
  // Averages need no factors; more models need more.
  CHECK(merge_memory<double>(candidates.models[0].blocks, 2, {.method = MergeMethod::Average})
            .total() < memory.total());
  CHECK(merge_memory<double>(candidates.models[0].blocks, 3).total() > memory.total());
}

}  // namespace kfac::test::merge_model_test
