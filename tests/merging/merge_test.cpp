#include <kfac/merging/merge.hpp>

#include "support/catch.hpp"
#include "support/eigensolver.hpp"
#include "support/merge_models.hpp"

namespace kfac::test::merge_test {

namespace {

using Models = std::vector<MergeModel<double>>;
using Structure = CurvatureStructure;
using linalg::KroneckerSumPreconditioner;
using linalg::KrylovStatus;

Structure structure_for(MergeMethod method) {
  return method == MergeMethod::Diagonal ? Structure::Diagonal : Structure::Kronecker;
}

/// Calls `body(candidates)` with 1 to 4 models of each of so many random networks.
template <class Body>
void for_random_models(Structure structure, Body&& body, std::uint64_t seeds = 24) {
  for (std::uint64_t seed = 0; seed < seeds; ++seed) {
    INFO("seed " << seed);
    Rng rng(seed);
    Candidates candidates;
    add_random(candidates, 1 + static_cast<Index>(seed % 4), structure, rng);
    body(candidates.models);
  }
}

/// Linear regression by closed form, and its data: K-FAC's block is the exact one.
struct Regression {
  AnyModel model;
  Task task;

  Regression(Index inputs, Index outputs, Index examples, LossOptions options, bool bias, Rng& rng)
      : model(with_linear(inputs, outputs, bias, rng)),
        task(model, MeanSquaredError<double>(options), {inputs}, examples, rng) {
    fit(task.x, task.y);
  }
  void fit(const Matrix<double>& x, const Matrix<double>& y) {
    set_flat_parameters(model, least_squares(x, y, model.layers()[0].kronecker->bias));
  }
  static AnyModel with_linear(Index inputs, Index outputs, bool bias, Rng& rng) {
    AnyModel model;
    append_linear(model, {inputs, outputs}, rng, bias);
    return model;
  }
  static Vector<double> least_squares(const Matrix<double>& x, const Matrix<double>& y, bool bias) {
    Matrix<double> augmented = Matrix<double>::Ones(x.rows() + (bias ? 1 : 0), x.cols());
    augmented.topRows(x.rows()) = x;
    const Matrix<double> gram = augmented * augmented.transpose();
    const Matrix<double> w = gram.ldlt().solve(augmented * y.transpose()).transpose();
    return w.reshaped();
  }
};

}  // namespace

TEST_CASE("merge: solves the dense equations, with every method and any number of models") {
  for (const MergeMethod method : {MergeMethod::Average, MergeMethod::Diagonal,
                                   MergeMethod::RegMean, MergeMethod::Kronecker}) {
    INFO("method " << static_cast<int>(method));
    for_random_models(structure_for(method), [&](const Models& models) {
      const MergeOptions options{
          .method = method, .damping = 0.03, .output_damping = 0.02, .tolerance = 1e-12};
      const MergeResult<double> result = merge(models, options);
      CHECK(relative_error(result.parameters, dense_merge(models, options)) < 1e-9);
      CHECK(result.converged());
      CHECK(result.largest_residual() < 1e-11);
      REQUIRE(result.blocks.size() == models[0].blocks.size());
      for (std::size_t i = 0; i < result.blocks.size(); ++i) {
        const MergedBlock& block = result.blocks[i];
        CHECK(block.block == models[0].blocks[i]);
        BlockMerge expected = BlockMerge::Average;
        if (method == MergeMethod::RegMean) expected = BlockMerge::RegMean;
        if (method == MergeMethod::Kronecker)
          expected = models.size() > 2 ? BlockMerge::ConjugateGradients : BlockMerge::Exact;
        if (method == MergeMethod::Diagonal ||
            (method != MergeMethod::Average && !block.block.factored))
          expected = BlockMerge::Diagonal;
        CHECK(block.merge == expected);
      }
    });
  }
}

TEST_CASE("merge: conjugate gradients find what the exact solver does, from any start") {
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    INFO("seed " << seed);
    Rng rng(seed);
    Candidates candidates;
    add_random(candidates, 2, Structure::Kronecker, rng);
    const Models& models = candidates.models;
    const Vector<double> expected = dense_merge(models, {.damping = 0.03, .output_damping = 0.02});
    const Vector<double> elsewhere = random_matrix(expected.size(), 1, rng);
    for (const MergeStart start : {MergeStart::Average, MergeStart::RegMean, MergeStart::Given})
      for (const KroneckerSumPreconditioner preconditioner :
           {KroneckerSumPreconditioner::Diagonal, KroneckerSumPreconditioner::Kronecker}) {
        const MergeResult<double> result = merge(models, {.damping = 0.03,
                                                          .output_damping = 0.02,
                                                          .solver = MergeSolver::ConjugateGradients,
                                                          .tolerance = 1e-12,
                                                          .preconditioner = preconditioner,
                                                          .start = start,
                                                          .initial = elsewhere});
        CHECK(relative_error(result.parameters, expected) < 1e-9);
      }
    const MergeResult<double> exact =
        merge(models, {.damping = 0.03, .output_damping = 0.02, .solver = MergeSolver::Exact});
    CHECK(relative_error(exact.parameters, expected) < 1e-9);
    // At the solution there is nothing to do.
    const MergeResult<double> again = merge(models, {.damping = 0.03,
                                                     .output_damping = 0.02,
                                                     .solver = MergeSolver::ConjugateGradients,
                                                     .start = MergeStart::Given,
                                                     .initial = exact.parameters});
    for (const MergedBlock& block : again.blocks) CHECK(block.iterations == 0);
    CHECK((again.parameters - exact.parameters).norm() < 1e-15 * exact.parameters.norm());
  }
}

TEST_CASE("merge: models that are equal stay as they are, whatever their curvature") {
  for_random_models(Structure::Kronecker, [](Models models) {
    for (MergeModel<double>& model : models) model.parameters = models[0].parameters;
    for (const MergeMethod method :
         {MergeMethod::Average, MergeMethod::RegMean, MergeMethod::Kronecker}) {
      const MergeResult<double> result = merge(models, {.method = method});
      CHECK(relative_error(result.parameters, models[0].parameters) < 1e-15);
      CHECK(result.converged());
    }
  });
}

TEST_CASE("merge: the order of the models does not matter") {
  for_random_models(Structure::Kronecker, [](Models models) {
    const MergeOptions options{.damping = 0.03, .tolerance = 1e-13};
    const Vector<double> expected = merge(models, options).parameters;
    std::rotate(models.begin(), models.begin() + 1, models.end());
    CHECK(relative_error(merge(models, options).parameters, expected) < 1e-10);
  });
}

TEST_CASE("merge: of differences to a base it gives what it gives of the parameters") {
  for_random_models(Structure::Kronecker, [](Models models) {
    const MergeOptions options{.damping = 0.03, .tolerance = 1e-13};
    const Vector<double> merged = merge(models, options).parameters;
    Rng rng(1);
    const Vector<double> base = random_matrix(merged.size(), 1, rng);
    for (MergeModel<double>& model : models) model.parameters -= base;
    CHECK(relative_error(base + merge(models, options).parameters, merged) < 1e-9);
  });
}

TEST_CASE("merge: linear models become the one that all their data together give") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    INFO("seed " << seed);
    Rng rng(seed);
    const Index inputs = 1 + rng.below(4);
    const Index outputs = 1 + rng.below(3);
    const bool bias = rng.below(2) == 0;
    const LossOptions loss{.reduction = seed % 2 == 0 ? Reduction::Mean : Reduction::Sum};
    Candidates candidates;
    Matrix<double> x(inputs, 0), y(outputs, 0);
    for (Index t = 0; t < 2 + static_cast<Index>(seed % 3); ++t) {
      const Regression part(inputs, outputs, 6 + rng.below(20), loss, bias, rng);
      candidates.add(part.model, part.task, {});
      x.conservativeResize(Eigen::NoChange, x.cols() + part.task.examples());
      y.conservativeResize(Eigen::NoChange, x.cols());
      x.rightCols(part.task.examples()) = part.task.x;
      y.rightCols(part.task.examples()) = part.task.y;
    }
    const Vector<double> joint = Regression::least_squares(x, y, bias);
    for (const MergeMethod method : {MergeMethod::RegMean, MergeMethod::Kronecker}) {
      const MergeResult<double> result =
          merge(candidates.models,
                {.method = method, .damping = 0, .output_damping = 0, .tolerance = 1e-13});
      CHECK(relative_error(result.parameters, joint) < 1e-10);
    }
    const Vector<double> average =
        merge(candidates.models, {.method = MergeMethod::Average}).parameters;
    CHECK(relative_error(average, joint) > 1e-3);
  }
}

TEST_CASE("merge: estimates of means and of sums count alike, by their examples") {
  for (const Structure structure : {Structure::Kronecker, Structure::Diagonal})
    for_random_models(structure, [&](const Models& models) {
      const MergeOptions options{.method = structure == Structure::Diagonal
                                               ? MergeMethod::Diagonal
                                               : MergeMethod::Kronecker,
                                 .damping = 0.03,
                                 .tolerance = 1e-13};
      const Vector<double> expected = merge(models, options).parameters;
      // The same curvature, as it is of a loss of another scale.
      std::deque<Estimates> others;
      Models scaled = models;
      for (std::size_t t = 0; t < models.size(); ++t) {
        others.push_back(*models[t].curvature);
        const double factor = t % 2 == 0 ? 1 / static_cast<double>(others[t].record.examples) : 7;
        others[t].record.loss_scale *= factor;
        for (BlockEstimate<double>& block : others[t].blocks) {
          block.factors.g *= factor;
          block.diagonal *= factor;
        }
        scaled[t].curvature = &others[t];
      }
      CHECK(relative_error(merge(scaled, options).parameters, expected) < 1e-10);
    });
}

TEST_CASE("merge: curvature without output gradients makes K-FAC RegMean") {
  Rng rng(3);
  Candidates candidates;
  for (Index t = 0; t < 3; ++t) {
    AnyModel model;
    append_linear(model, {3, 4, 2}, rng, true);
    const Task task(model, SoftmaxCrossEntropy<double>(), {3}, 3 + 4 * t, rng);
    candidates.add(model, task, {.fisher = FisherType::ForwardOnly});
  }
  CHECK(
      relative_error(
          merge(candidates.models, {.damping = 0.01, .tolerance = 1e-13}).parameters,
          merge(candidates.models, {.method = MergeMethod::RegMean, .damping = 0.01}).parameters) <
      1e-10);
}

TEST_CASE("merge: the more its G are damped, the nearer is K-FAC to RegMean") {
  for_random_models(Structure::Kronecker, [](const Models& models) {
    const Vector<double> limit =
        merge(models, {.method = MergeMethod::RegMean, .damping = 0.03}).parameters;
    // The G are multiples of the identity then, by which the models weigh: as many as examples.
    Models weighted = models;
    for (MergeModel<double>& model : weighted) {
      model.weight *= static_cast<double>(model.curvature->record.examples) *
                      model.curvature->record.loss_scale;
    }
    std::deque<Estimates> estimates;
    for (MergeModel<double>& model : weighted) {
      Estimates& estimate = estimates.emplace_back(*model.curvature);
      for (BlockEstimate<double>& block : estimate.blocks)
        if (block.has_factors()) block.factors.g /= block.factors.g.diagonal().mean();
      model.curvature = &estimate;
    }
    double last = std::numeric_limits<double>::infinity();
    for (const double damping : {1e2, 1e4, 1e6}) {
      const MergeResult<double> merged =
          merge(weighted, {.damping = 0.03, .output_damping = damping, .tolerance = 1e-13});
      double error = 0;
      for (const MergedBlock& block : merged.blocks)
        if (block.block.factored)
          error =
              std::max(error, (block.block.of(merged.parameters) - block.block.of(limit)).norm());
      CHECK((error < last / 50 || error < 1e-12));
      last = error;
    }
  });
}

TEST_CASE("merge: a model counts by its weight, and not at all without") {
  Rng rng(4);
  Candidates candidates;
  add_random(candidates, 3, Structure::Kronecker, rng);
  Models models = candidates.models;
  for (const MergeMethod method :
       {MergeMethod::Average, MergeMethod::RegMean, MergeMethod::Kronecker}) {
    models[1].weight = 1e9;
    CHECK(relative_error(
              merge(models, {.method = method, .damping = 0.1, .tolerance = 1e-13}).parameters,
              models[1].parameters) < 1e-6);
    models[1].weight = 0;
    CHECK(merge(models, {.method = method}).parameters ==
          merge(Models{models[0], models[2]}, {.method = method}).parameters);
    models[1] = candidates.models[1];
  }
}

TEST_CASE("merge: entries of A off the diagonal are shrunk by the option, biases set apart") {
  for (const MergeMethod method : {MergeMethod::RegMean, MergeMethod::Kronecker})
    for_random_models(Structure::Kronecker, [&](const Models& models) {
      MergeOptions options{
          .method = method, .damping = 0.03, .output_damping = 0.03, .tolerance = 1e-12};
      options.off_diagonal = 0.6;
      CHECK(relative_error(merge(models, options).parameters, dense_merge(models, options)) < 1e-9);

      // Biases apart: A without its last row and column.
      options.bias = MergeBias::Average;
      const Vector<double> apart = merge(models, options).parameters;
      const Vector<double> average = merge(models, {.method = MergeMethod::Average}).parameters;
      for (std::size_t i = 0; i < models[0].blocks.size(); ++i) {
        const ParameterBlock& block = models[0].blocks[i];
        if (!block.factored || !block.bias) continue;
        CHECK(relative_error(Vector<double>(block.of(apart).col(block.inputs)),
                             Vector<double>(block.of(average).col(block.inputs))) < 1e-14);
        const Index size = block.outputs * block.inputs;
        Matrix<double> sum = Matrix<double>::Zero(size, size);
        Vector<double> right = Vector<double>::Zero(size);
        MergeOptions undamped = options;
        undamped.damping = undamped.output_damping = 0;
        for (const MergeModel<double>& model : models) {
          Estimates cut = *model.curvature;
          BlockEstimate<double>& own = cut.blocks[i];
          // The mean of the diagonal, by which damping goes, is that of all of A.
          const auto damp = [](Matrix<double>& factor) {
            factor.diagonal().array() += 0.03 * factor.diagonal().mean();
          };
          damp(own.factors.a);
          if (method == MergeMethod::Kronecker) damp(own.factors.g);
          own.factors.a.conservativeResize(block.inputs, block.inputs);
          MergeModel<double> part = model;
          part.curvature = &cut;
          part.blocks[i].bias = false;
          const Matrix<double> f = dense_curvature(part, i, undamped);
          sum += f;
          right += f * Vector<double>(block.of(model.parameters).leftCols(block.inputs).reshaped());
        }
        const Vector<double> expected = sum.ldlt().solve(right);
        CHECK(relative_error(Vector<double>(block.of(apart).leftCols(block.inputs).reshaped()),
                             expected) < 1e-9);
      }
    });
}

TEST_CASE("merge: what is not converged is reported with its true residual") {
  Rng rng(6);
  Candidates candidates;
  add_random(candidates, 3, Structure::Kronecker, rng);
  const Models& models = candidates.models;
  const MergeOptions options{.damping = 1e-3,
                             .output_damping = 1e-3,
                             .tolerance = 1e-12,
                             .max_iterations = 1,
                             .preconditioner = KroneckerSumPreconditioner::Diagonal};
  const MergeResult<double> result = merge(models, options);
  CHECK_FALSE(result.converged());
  CHECK(result.summary().find("after 1 iterations, not converged") != std::string::npos);
  double largest = 0;
  for (std::size_t i = 0; i < result.blocks.size(); ++i) {
    const MergedBlock& merged = result.blocks[i];
    if (!merged.block.factored) continue;
    CHECK(merged.merge == BlockMerge::ConjugateGradients);
    CHECK(merged.iterations == 1);
    Vector<double> right = Vector<double>::Zero(merged.block.size());
    Vector<double> left = right;
    for (const MergeModel<double>& model : models) {
      const Matrix<double> f = dense_curvature(model, i, options);
      right += f * model.parameters.segment(merged.block.offset, merged.block.size());
      left += f * result.parameters.segment(merged.block.offset, merged.block.size());
    }
    const double residual = (right - left).norm() / right.norm();
    CHECK(merged.relative_residual == Approx(residual).epsilon(1e-8).margin(1e-14));
    CHECK((merged.status == KrylovStatus::MaxIterations) == (residual > 1e-12));
    largest = std::max(largest, residual);
  }
  CHECK(largest > 1e-6);
  CHECK(result.largest_residual() == Approx(largest));
}

TEST_CASE("merge: without damping, what no model has curvature for stays at the start") {
  Rng rng(7);
  Candidates candidates;
  for (Index t = 0; t < 3; ++t) {
    AnyModel model;
    append_linear(model, {4, 3}, rng, false);
    Task task(model, SoftmaxCrossEntropy<double>(), {4}, 5, rng);
    task.x.row(2).setZero();  // an input that is always off
    candidates.add(model, task, {});
  }
  const ParameterBlock& block = candidates.models[0].blocks[0];
  const auto column = [&](const Vector<double>& flat) {
    return Vector<double>(block.of(flat).col(2));
  };
  const Vector<double> average =
      merge(candidates.models, {.method = MergeMethod::Average}).parameters;
  const MergeResult<double> merged =
      merge(candidates.models, {.damping = 0, .output_damping = 0, .tolerance = 1e-10});
  CHECK(merged.converged());
  CHECK(relative_error(column(merged.parameters), column(average)) < 1e-12);
  CHECK(relative_error(merged.parameters, average) > 1e-3);

  for (Estimates& estimate : candidates.estimates) {
    estimate.blocks[0].diagonal = estimate.blocks[0].factors.g.diagonal() *
                                  estimate.blocks[0].factors.a.diagonal().transpose();
  }
  const Vector<double> by_diagonals =
      merge(candidates.models, {.method = MergeMethod::Diagonal, .damping = 0}).parameters;
  CHECK(relative_error(column(by_diagonals), column(average)) < 1e-14);
  CHECK(relative_error(by_diagonals, average) > 1e-3);
}

TEST_CASE("merge: estimates of all structures serve as far as they go") {
  Rng rng(8);
  RandomNetwork network = network_of_all_blocks(rng);
  const Task task(network.model, SoftmaxCrossEntropy<double>(), network.shape, 6, rng);
  Candidates kronecker, ekfac, full, diagonal;
  for (Index t = 0; t < 2; ++t) {
    const Vector<double> change = random_matrix(network.model.parameter_count(), 1, rng);
    set_flat_parameters(network.model, flat_parameters(network.model) + 0.3 * change);
    kronecker.add(network.model, task, {.structure = Structure::Kronecker});
    ekfac.add(network.model, task, {.structure = Structure::Ekfac});
    full.add(network.model, task, {.structure = Structure::Full});
    diagonal.add(network.model, task, {.structure = Structure::Diagonal});
  }
  CHECK(relative_error(merge(ekfac.models).parameters, merge(kronecker.models).parameters) < 1e-12);
  CHECK(relative_error(merge(full.models, {.method = MergeMethod::Diagonal}).parameters,
                       merge(diagonal.models, {.method = MergeMethod::Diagonal}).parameters) <
        1e-10);
  // Without any curvature of its own, a layer without Kronecker structure is averaged.
  for (Estimates& estimate : kronecker.estimates) estimate.blocks[2].diagonal.resize(0, 0);
  const MergeResult<double> result = merge(kronecker.models);
  CHECK(result.blocks[2].merge == BlockMerge::Average);
  const Vector<double> sum = kronecker.models[0].parameters + kronecker.models[1].parameters;
  CHECK(relative_error(Vector<double>(result.blocks[2].block.of(result.parameters).reshaped()),
                       Vector<double>(result.blocks[2].block.of(sum).reshaped() / 2)) < 1e-15);
}

TEST_CASE("merge: of float models it is that of the same in double, to rounding") {
  Rng rng(9);
  std::deque<Sequential<Linear<float>, Tanh<float>, Linear<float>>> networks;
  std::deque<CurvatureEstimate<float>> estimates;
  std::vector<MergeModel<float>> models;
  std::deque<Estimates> wide;
  Models wide_models;
  const SoftmaxCrossEntropy<float> loss;
  for (Index t = 0; t < 3; ++t) {
    networks.emplace_back(Linear<float>(3, 4, rng), Tanh<float>{}, Linear<float>(4, 3, rng));
    const Dataset<float> data{random_matrix<float>(3, 9, rng), random_labels(3, 9, rng)};
    estimates.push_back(estimate_curvature(networks.back(), loss, slices(data, 5)));
    models.push_back(merge_model(networks.back(), &estimates.back()));
    Estimates& estimate = wide.emplace_back();
    estimate.record = estimates.back().record;
    for (const BlockEstimate<float>& block : estimates.back().blocks)
      estimate.blocks.push_back(
          {.block = block.block,
           .factors = {block.factors.a.cast<double>(), block.factors.g.cast<double>()}});
    wide_models.push_back(
        {models.back().parameters.cast<double>(), models.back().blocks, &estimate, 1});
  }
  const MergeResult<float> result = merge(models, {.damping = 1e-3});
  CHECK(result.converged());
  CHECK(
      (result.parameters - merge(wide_models, {.damping = 1e-3}).parameters.cast<float>()).norm() ==
      0);
}

}  // namespace kfac::test::merge_test
