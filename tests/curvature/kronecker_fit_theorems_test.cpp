#include <kfac/curvature/full_block.hpp>
#include <kfac/curvature/kronecker_fit_block.hpp>
#include <kfac/curvature/tensor_normal_block.hpp>

#include "support/catch.hpp"
#include "support/eigensolver.hpp"
#include "support/random_networks.hpp"

// What the blocks that are made of each example's gradient are of the exact block.

namespace kfac::test::kronecker_fit_theorems_test {

namespace {

/// The largest singular value of C rearranged so that Kronecker products have rank one: the norm of
/// the nearest one.
double norm_of_nearest(const Matrix<double>& c, Index rows, Index columns) {
  Matrix<double> rearranged(rows * rows, columns * columns);
  for (Index i = 0; i < columns; ++i)
    for (Index j = 0; j < columns; ++j)
      rearranged.col(i + columns * j) = c.block(i * rows, j * rows, rows, rows).reshaped();
  const Matrix<double> gram = rearranged * rearranged.transpose();
  return std::sqrt(Eigen::SelfAdjointEigenSolver<Matrix<double>>(gram).eigenvalues().maxCoeff());
}

BlockFactory<double> converged_fits() {
  return [](const LayerView<double>&, const BlockOptions<double>& options) {
    return std::make_unique<KroneckerFitBlock<double>>(options, 2000, 1e-15);
  };
}

}  // namespace

TEST_CASE("The diagonal block is the exact one's diagonal, and the full block the exact one") {
  for_each_random_task([](AnyModel& model, const Task& task, const auto& options,
                          const Samples& samples) {
    const Blocks exact = exact_blocks(model, task, samples);
    const Blocks full =
        estimated_blocks(model, task, options, block_factory<FullBlock<double>>(), samples);
    const Blocks diagonal =
        estimated_blocks(model, task, options, block_factory<DiagonalBlock<double>>(), samples);
    CHECK(largest_error(full, exact) < 1e-10);
    for (std::size_t i = 0; i < exact.size(); ++i)
      CHECK(relative_error(diagonal[i], Matrix<double>(exact[i].diagonal().asDiagonal())) < 1e-10);
  });
}

TEST_CASE(
    "KFOC is the nearest Kronecker product, so nearer than K-FAC and TNT, whose trace is exact") {
  for_each_random_task(
      [](AnyModel& model, const Task& task, const auto& options, const Samples& samples) {
        const auto of = [&](const BlockFactory<double>& kind) {
          return estimated_blocks(model, task, options, kind, samples);
        };
        const Blocks exact = exact_blocks(model, task, samples);
        const Blocks kfac = of(block_factory<KroneckerBlock<double>>());
        const Blocks tensor_normal = of(block_factory<TensorNormalBlock<double>>());
        const auto estimator = fitted(model, task, options, converged_fits(), samples);
        const Blocks fit = dense_blocks(*estimator);
        for (std::size_t i = 0; i < exact.size(); ++i) {
          const auto error = [&](const Blocks& blocks) { return (blocks[i] - exact[i]).norm(); };
          const auto& block = *estimator->layers()[i]->blocks()[0];
          const double norm = exact[i].norm();
          const double nearest = norm_of_nearest(exact[i], block.outputs(), block.columns());
          CHECK(std::abs(fit[i].norm() - nearest) <= 1e-8 * norm);
          CHECK(std::abs(error(fit) * error(fit) + nearest * nearest - norm * norm) <=
                1e-8 * norm * norm);
          CHECK(error(fit) <= error(kfac) + 1e-8 * norm);
          CHECK(error(fit) <= error(tensor_normal) + 1e-8 * norm);
          CHECK(std::abs(tensor_normal[i].trace() - exact[i].trace()) <= 1e-11 * exact[i].trace());
        }
      });
}

TEST_CASE("T2: in deep linear networks with MSE, TNT and KFOC are the GGN, as K-FAC is") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Rng rng(seed);
    const LossOptions reduction{.reduction = seed % 4 < 2 ? Reduction::Mean : Reduction::Sum};
    AnyModel model;
    append_linear(model, {1 + rng.below(4), 1 + rng.below(5), 1 + rng.below(4), 2}, rng,
                  seed % 2 == 0);
    const Shape shape{model.layers()[0].kronecker->inputs};
    const Task task(model, MeanSquaredError<double>(reduction), shape, 1 + rng.below(8), rng);
    const auto exact = ggn_blocks(model, task);
    for (const BlockFactory<double>& kind :
         {block_factory<TensorNormalBlock<double>>(), block_factory<KroneckerFitBlock<double>>()})
      CHECK(largest_error(estimated_blocks(model, task, {}, kind), exact) < 1e-10);
  }
}

}  // namespace kfac::test::kronecker_fit_theorems_test
