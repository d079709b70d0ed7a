#include <kfac/curvature/ekfac_block.hpp>
#include <kfac/curvature/estimate_curvature.hpp>

#include "support/catch.hpp"
#include "support/eigensolver.hpp"
#include "support/exact.hpp"
#include "support/message_of.hpp"
#include "support/parameter_block_networks.hpp"

namespace kfac::test::estimate_curvature_test {

namespace {

using Structure = CurvatureStructure;
using Result = CurvatureEstimate<double>;

Blocks dense_blocks(const Result& estimate) {
  Blocks blocks;
  for (const BlockEstimate<double>& block : estimate.blocks) blocks.push_back(dense_of(block));
  return blocks;
}

/// What the criteria's gradients at sampled targets make, drawn in the order of the slices.
Matrix<double> sampled_fisher(AnyModel& model, const Task& task, Index samples,
                              std::uint64_t seed) {
  const Ggn<AnyModel, AnyLoss> at(model, task.loss, task.x, task.shape);
  const Matrix<double> outputs = at.outputs();
  std::vector<Matrix<double>> vectors(static_cast<std::size_t>(samples), outputs);
  Rng rng(seed);
  Index first = 0;
  for (const AnySlice& slice : growing_slices(task)) {
    const Index count = slice.inputs.cols();
    for (Matrix<double>& v : vectors) {
      Matrix<double> gradient(outputs.rows(), count);
      task.loss.sampled_gradient(outputs.middleCols(first, count), rng, gradient);
      v.middleCols(first, count) = gradient / std::sqrt(static_cast<double>(samples));
    }
    first += count;
  }
  return outer_products(at, vectors, task.loss.scale(outputs.rows(), outputs.cols()));
}

Matrix<double> empirical_fisher(AnyModel& model, const Task& task) {
  const Ggn<AnyModel, AnyLoss> at(model, task.loss, task.x, task.shape);
  const Matrix<double> outputs = at.outputs();
  const double r = task.loss.scale(outputs.rows(), outputs.cols());
  Matrix<double> v(outputs.rows(), outputs.cols());
  task.loss.gradient(outputs, task.y, v);
  return outer_products(at, {Matrix<double>(v / r)}, r);
}

/// Calls `body(model, task, options)` for random networks, losses, reductions and Fisher types.
template <class Body>
void for_each_task(Body&& body) {
  for (std::uint64_t seed = 0; seed < 72; ++seed) {
    INFO("seed " << seed);
    Rng rng(seed);
    RandomNetwork network = seed % 4 == 0 ? network_of_all_blocks(rng) : random_network(rng);
    const Reduction reduction =
        std::vector{Reduction::Mean, Reduction::Sum, Reduction::ExampleMean}[seed / 9 % 3];
    const AnyLoss loss = all_losses({.reduction = reduction})[seed / 3 % 3];
    const Task task(network.model, loss, network.shape, 1 + rng.below(7), rng);
    const EstimateOptions options{
        .fisher =
            std::vector{FisherType::Type2, FisherType::Empirical, FisherType::MonteCarlo}[seed % 3],
        .samples = 1 + rng.below(3),
        .seed = seed,
        .sharing = rng.below(2) == 0 ? WeightSharing::Expand : WeightSharing::Reduce};
    body(network.model, task, options);
  }
}

/// The matrix whose blocks are estimated.
Matrix<double> exact_matrix(AnyModel& model, const Task& task, const EstimateOptions& options) {
  if (options.fisher == FisherType::Empirical) return empirical_fisher(model, task);
  if (options.fisher == FisherType::MonteCarlo)
    return sampled_fisher(model, task, options.samples, options.seed);
  return Ggn<AnyModel, AnyLoss>(model, task.loss, task.x, task.shape).dense();
}

Result estimate(AnyModel& model, const Task& task, EstimateOptions options, Structure structure) {
  options.structure = structure;
  return estimate_curvature(model, task.loss, growing_slices(task), options);
}

}  // namespace

TEST_CASE("estimate_curvature: full and diagonal blocks are exact, whatever the slices") {
  for_each_task([](AnyModel& model, const Task& task, const EstimateOptions& options) {
    const Blocks exact = exact_blocks(model, exact_matrix(model, task, options));
    Blocks diagonals;
    for (const Matrix<double>& block : exact)
      diagonals.emplace_back(Vector<double>(block.diagonal()).asDiagonal());
    CHECK(largest_error(dense_blocks(estimate(model, task, options, Structure::Full)), exact) <
          1e-10);
    CHECK(largest_error(dense_blocks(estimate(model, task, options, Structure::Diagonal)),
                        diagonals) < 1e-10);
  });
}

TEST_CASE(
    "estimate_curvature: factors are those of the estimator, and make the diagonal where none "
    "are") {
  for_each_task([](AnyModel& model, const Task& task, const EstimateOptions& options) {
    const Result result = estimate(model, task, options, Structure::Kronecker);
    Estimator expected(model, task.loss,
                       {.fisher = options.fisher,
                        .samples = options.samples,
                        .seed = options.seed,
                        .sharing = options.sharing},
                       block_factory<KroneckerBlock<double>>());
    std::vector<std::pair<Matrix<double>, Matrix<double>>> batches;
    if (task.shape.rank() > 1) {
      expected.begin_pass(0);
      for (const AnySlice& slice : growing_slices(task))
        expected.add(slice.inputs, slice.targets, {.shape = task.shape});
      expected.end_pass();
    } else {
      for (const AnySlice& slice : growing_slices(task))
        batches.emplace_back(slice.inputs, slice.targets);
      expected.fit(batches);
    }
    const Matrix<double> exact = exact_matrix(model, task, options);
    std::size_t layer = 0;
    for (const BlockEstimate<double>& block : result.blocks) {
      if (!block.block.factored) {
        CHECK_FALSE(block.has_factors());
        CHECK(relative_error(Vector<double>(block.diagonal.reshaped()),
                             Vector<double>(exact.diagonal().segment(block.block.offset,
                                                                     block.block.size()))) < 1e-10);
        continue;
      }
      const auto& kronecker =
          block_of(*expected.layers()[layer], static_cast<std::size_t>(block.block.group));
      CHECK(block.factors.a == kronecker.input_factor());
      CHECK(block.factors.g == kronecker.output_gradient_factor());
      CHECK(block.diagonal.size() + block.full.size() + block.eigen.size() == 0);
      if (block.block.group + 1 == block.block.groups) ++layer;
      // For one example at one position, K-FAC is exact.
      if (task.examples() > 1 || task.shape.rank() > 1) continue;
      CHECK(relative_error(dense_of(block), Matrix<double>(exact.block(
                                                block.block.offset, block.block.offset,
                                                block.block.size(), block.block.size()))) < 1e-10);
    }
  });
}

TEST_CASE("estimate_curvature: EKFAC has the exact block's diagonal in the factors' eigenbases") {
  for_each_task([](AnyModel& model, const Task& task, const EstimateOptions& options) {
    const Result result = estimate(model, task, options, Structure::Ekfac);
    const Blocks exact = exact_blocks(model, exact_matrix(model, task, options));
    for (std::size_t i = 0; i < exact.size(); ++i) {
      const BlockEstimate<double>& block = result.blocks[i];
      CHECK(block.has_moments == block.block.factored);
      if (!block.block.factored) continue;
      const Matrix<double> basis = linalg::kronecker_product<double>(
          block.eigen.input_basis().vectors, block.eigen.output_basis().vectors);
      const Matrix<double> rotated = basis.transpose() * exact[i] * basis;
      CHECK(relative_error(Vector<double>(block.eigen.grid().reshaped()),
                           Vector<double>(rotated.diagonal())) < 1e-10);
      Matrix<double> of_factors =
          basis.transpose() * linalg::kronecker_product<double>(block.factors.a, block.factors.g) *
          basis;
      const double size = of_factors.norm();
      of_factors.diagonal().setZero();
      CHECK(of_factors.norm() <= 1e-12 * size);
    }
  });
}

TEST_CASE(
    "estimate_curvature: the stages of EKFAC by themselves give the same, and so does a block "
    "that makes them at once") {
  Rng rng(3);
  RandomNetwork network = network_of_all_blocks(rng);
  AnyModel& model = network.model;
  const Task task(model, SoftmaxCrossEntropy<double>(), network.shape, 8, rng);
  for (const FisherType fisher : {FisherType::Type2, FisherType::Empirical, FisherType::MonteCarlo,
                                  FisherType::CurvaturePropagation}) {
    EstimateOptions options{.fisher = fisher, .samples = 2, .seed = 5};
    const Result whole = estimate(model, task, options, Structure::Ekfac);
    CHECK(whole.record.structure == Structure::Ekfac);
    Result staged = estimate(model, task, options, Structure::Kronecker);
    CHECK(staged.record.structure == Structure::Kronecker);
    const Blocks before = dense_blocks(staged);
    decompose(staged);
    CHECK(staged.record.structure == Structure::Kronecker);
    CHECK(largest_error(dense_blocks(staged), before) < 1e-12);
    CHECK_FALSE(staged.blocks[0].has_moments);
    fit_moments(staged, model, task.loss, growing_slices(task));
    CHECK(staged.record == whole.record);
    CHECK(dense_blocks(staged) == dense_blocks(whole));

    Estimator at_once(model, task.loss, {.fisher = fisher, .samples = 2, .seed = 5},
                      block_factory<EkfacBlock<double>, DiagonalBlock<double>>());
    for (Index pass = 0; at_once.begin_pass(pass); ++pass) {
      for (const AnySlice& slice : growing_slices(task))
        at_once.add(slice.inputs, slice.targets, {.shape = task.shape});
      at_once.end_pass();
    }
    CHECK(largest_error(dense_blocks(whole), test::dense_blocks(at_once)) < 1e-12);
    decompose(staged);
    CHECK_FALSE(staged.blocks[0].has_moments);
    CHECK(largest_error(dense_blocks(staged), before) < 1e-12);
  }
}

TEST_CASE("fit_moments: data of another size leave the scale that the record says") {
  Rng rng(4);
  Sequential model{Linear<double>(3, 2, rng), Tanh<double>{}, Linear<double>(2, 2, rng)};
  const Dataset<double> some{random_matrix(3, 5, rng), random_labels(2, 5, rng)};
  const Matrix<double> twice_inputs = some.inputs.replicate(1, 2);
  const Dataset<double> twice{twice_inputs, some.targets.replicate(2, 1)};
  for (const Reduction reduction : {Reduction::Mean, Reduction::Sum}) {
    const SoftmaxCrossEntropy<double> loss({.reduction = reduction});
    auto once = estimate_curvature(model, loss, slices(some, 5), {.structure = Structure::Ekfac});
    auto other = once;
    fit_moments(other, model, loss, slices(twice, 3));
    CHECK(other.record.examples == 5);
    CHECK(once.record.moment_examples == 5);
    CHECK(other.record.moment_examples == 10);
    CHECK(relative_error(other.blocks[0].eigen.grid(), once.blocks[0].eigen.grid()) < 1e-12);
  }
}

TEST_CASE("estimate_curvature: of some layers, the blocks of the others are empty") {
  Rng rng(9);
  RandomNetwork network = network_of_all_blocks(rng);
  AnyModel& model = network.model;
  const Task task(model, SoftmaxCrossEntropy<double>(), network.shape, 5, rng);
  const double all = curvature_memory<double>(parameter_blocks(model), Structure::Full).total();
  for (const Structure structure :
       {Structure::Diagonal, Structure::Kronecker, Structure::Ekfac, Structure::Full}) {
    const Result whole = estimate(model, task, {}, structure);
    for (const std::string name : {"0", "1", "4"}) {
      const auto is_it = [&](const std::string& layer) { return layer == name; };
      const Result part =
          estimate(model, task, {.layers = is_it, .memory_limit = all - 1}, structure);
      CHECK(part.record == whole.record);
      REQUIRE(part.blocks.size() == 4);
      for (std::size_t i = 0; i < 4; ++i) {
        CHECK(part.blocks[i].block == whole.blocks[i].block);
        if (is_it(part.blocks[i].block.layer))
          CHECK(dense_of(part.blocks[i]) == dense_of(whole.blocks[i]));
        else
          CHECK(part.blocks[i].is_empty());
      }
    }
  }
}

TEST_CASE("estimate_curvature: the record has the number of examples and the loss's scale") {
  Rng rng(5);
  RandomNetwork network = random_network(rng);
  AnyModel& model = network.model;
  const Index outputs = model.output_shape(network.shape).size();
  for (const Reduction reduction : {Reduction::Mean, Reduction::Sum, Reduction::ExampleMean})
    for (const AnyLoss& loss : all_losses({.reduction = reduction})) {
      const Task task(model, loss, network.shape, 7, rng);
      const Result result = estimate(model, task, {.seed = 3}, Structure::Full);
      CHECK(result.record.examples == 7);
      CHECK(result.record.loss_scale == Approx(loss.scale(outputs, 7)).epsilon(1e-14));
      CHECK(result.record.averages == (reduction != Reduction::Sum));
      CHECK(result.record.seed == 3);
      CHECK(result.parameters() == model.parameter_count());
      // The curvature of the sum of criteria, J_n^T H_n J_n, is what it is for all reductions.
      Matrix<double> sum = Matrix<double>::Zero(result.parameters(), result.parameters());
      const Ggn<AnyModel, AnyLoss> at(model, loss, task.x, task.shape);
      const Matrix<double> jacobian = at.jacobian();
      const Matrix<double> values = at.outputs();
      for (Index n = 0; n < 7; ++n)
        for (Index column = 0; column < loss.hessian_sqrt_columns(outputs); ++column) {
          Matrix<double> root(outputs, 1);
          loss.hessian_sqrt(values.col(n), column, root);
          const Vector<double> v = jacobian.middleRows(n * outputs, outputs).transpose() * root;
          sum += v * v.transpose();
        }
      Blocks scaled = dense_blocks(result);
      for (Matrix<double>& block : scaled) block /= result.record.loss_scale;
      CHECK(largest_error(scaled, exact_blocks(model, sum)) < 1e-10);
    }
}

TEST_CASE("estimate_curvature: sampled estimates depend on the seed, and on nothing else") {
  Rng rng(6);
  RandomNetwork network = network_of_all_blocks(rng);
  const Task task(network.model, SoftmaxCrossEntropy<double>(), network.shape, 5, rng);
  for (const FisherType fisher : {FisherType::MonteCarlo, FisherType::CurvaturePropagation}) {
    const auto at = [&](std::uint64_t seed) {
      return dense_blocks(
          estimate(network.model, task, {.fisher = fisher, .seed = seed}, Structure::Ekfac));
    };
    CHECK(at(1) == at(1));
    CHECK(at(1)[0] != at(2)[0]);
  }
}

TEST_CASE("estimate_curvature: more memory than is allowed is refused, and exactly enough is not") {
  Rng rng(7);
  RandomNetwork network = network_of_all_blocks(rng);
  AnyModel& model = network.model;
  const Task task(model, SoftmaxCrossEntropy<double>(), network.shape, 2, rng);
  for (const Structure structure :
       {Structure::Diagonal, Structure::Kronecker, Structure::Ekfac, Structure::Full}) {
    const double needed = curvature_memory<double>(parameter_blocks(model), structure).total();
    EstimateOptions options{.memory_limit = needed};
    CHECK_NOTHROW(estimate(model, task, options, structure));
    options.memory_limit = needed - 1;
    CHECK_THROWS_AS(estimate(model, task, options, structure), MemoryError);
  }
  // 18^2 numbers of each group's block, 16^2 and 15^2, three copies of each, in bytes.
  CHECK(curvature_memory<double>(parameter_blocks(model), Structure::Full).total() ==
        3 * 8 * (18 * 18 + 18 * 18 + 16 * 16 + 15 * 15));
  CHECK(message_of<MemoryError>(
            [&] { estimate(model, task, {.memory_limit = 1000}, Structure::Full); }) ==
        "kfac::estimate_curvature: 'memory_limit' is 1 kB, expected at least 27.096 kB (of which "
        "'0/0' takes 7.776 kB)");
  CHECK(message_of<OptionError>([&] {
          estimate(model, task, {.memory_limit = 0}, Structure::Full);
        }) == "kfac::estimate_curvature: 'memory_limit' is 0, expected > 0");
}

TEST_CASE("Estimates: what does not fit is an exception, and leaves the estimate as it was") {
  Rng rng(8);
  Sequential model{Linear<double>(3, 2, rng), Tanh<double>{}, Linear<double>(2, 2, rng)};
  Sequential wider{Linear<double>(3, 2, rng), Tanh<double>{}, Linear<double>(2, 3, rng)};
  Sequential longer{Linear<double>(3, 2, rng), Linear<double>(2, 2, rng),
                    Linear<double>(2, 2, rng)};
  const SoftmaxCrossEntropy<double> loss;
  const Dataset<double> data{random_matrix(3, 5, rng), random_labels(2, 5, rng)};
  CHECK_THROWS_AS(estimate_curvature(model, loss, {}), StateError);
  CHECK(message_of<OptionError>([&] {
          estimate_curvature(model, loss, slices(data, 5), {.samples = 0});
        }) == "kfac::CurvatureEstimator: 'samples' is 0, expected >= 1");
  Result result = estimate_curvature(model, loss, slices(data, 5));
  CHECK(message_of<StateError>([&] { fit_moments(result, model, loss, slices(data, 5)); }) ==
        "kfac::fit_moments: 'estimate' has no eigenbases, expected decompose before it (layer "
        "'0')");
  decompose(result);
  const Blocks before = dense_blocks(result);
  CHECK(message_of<ShapeError>([&] { fit_moments(result, wider, loss, slices(data, 5)); }) ==
        "kfac::fit_moments: 'estimate' has block '2', Linear 2x(2+1), expected '2', Linear "
        "3x(2+1)");
  CHECK(message_of<ShapeError>([&] { fit_moments(result, longer, loss, slices(data, 5)); }) ==
        "kfac::fit_moments: 'estimate' has 2 blocks, expected 3");
  CHECK(dense_blocks(result) == before);
  CHECK(result.record.structure == Structure::Kronecker);
  Result broken = result;
  broken.blocks[1].factors.g(0, 0) = std::numeric_limits<double>::infinity();
  CHECK(message_of<ValueError>([&] { decompose(broken); }) ==
        "kfac::decompose: a factor is not finite (layer '2')");
  CHECK(dense_blocks(broken) == before);
  Result diagonal =
      estimate_curvature(model, loss, slices(data, 5), {.structure = Structure::Diagonal});
  CHECK(message_of<StateError>([&] { fit_moments(diagonal, model, loss, slices(data, 5)); }) ==
        "kfac::fit_moments: 'estimate' has no factors, expected those of "
        "CurvatureStructure::Kronecker");
  CHECK(message_of<StateError>([&] {
          estimate_curvature(model, loss, slices(data, 5),
                             {.layers = [](const std::string&) { return false; }});
        }) == "kfac::estimate_curvature: 'layers' picks none, expected at least one");
  model.layers()[2].parameters.setConstant(1e200);  // finite outputs, curvature beyond double
  const Dataset<double, Matrix<double>> regression{data.inputs, random_matrix(2, 5, rng)};
  const MeanSquaredError<double> squared;
  CHECK_THROWS_AS(estimate_curvature(model, squared, slices(regression, 5)), ValueError);
}

}  // namespace kfac::test::estimate_curvature_test
