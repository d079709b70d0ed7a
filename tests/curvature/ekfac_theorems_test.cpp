#include <kfac/curvature/ekfac_block.hpp>

#include "support/catch.hpp"
#include "support/eigensolver.hpp"
#include "support/random_networks.hpp"

// What EKFAC is of the exact block, beside K-FAC.

namespace kfac::test::ekfac_theorems_test {

namespace {

/// The basis that EKFAC has of these factors.
Matrix<double> basis_of(const EkfacBlock<double>& block) {
  linalg::KroneckerEigen<double> eigen;
  REQUIRE(eigen.compute(block.input_factor(), block.output_gradient_factor()));
  return linalg::kronecker_product<double>(eigen.input_basis().vectors,
                                           eigen.output_basis().vectors);
}

/// Of one layer.
struct LayerBlocks {
  Matrix<double> exact, kfac, ekfac, basis;
};

/// Calls `body` with the blocks of every layer of 200 random networks.
template <class Body>
void for_each_layer(Body&& body) {
  for_each_random_task([&](AnyModel& model, const Task& task, const auto& options,
                           const Samples& samples) {
    const Blocks exact = exact_blocks(model, task, samples);
    const Blocks kfac =
        estimated_blocks(model, task, options, block_factory<KroneckerBlock<double>>(), samples);
    const auto ekfac = fitted(model, task, options, block_factory<EkfacBlock<double>>(), samples);
    for (std::size_t i = 0; i < exact.size(); ++i) {
      const auto& block = block_of<EkfacBlock<double>>(*ekfac->layers()[i]);
      body(LayerBlocks{exact[i], kfac[i], block.matrix()->dense(), basis_of(block)});
    }
  });
}

}  // namespace

TEST_CASE("EKFAC's eigenvalues are the diagonal of the exact block in K-FAC's eigenbasis") {
  for_each_layer([](const LayerBlocks& c) {
    const Matrix<double>& u = c.basis;
    CHECK(relative_error(u.transpose() * u, Matrix<double>::Identity(u.rows(), u.cols())) < 1e-12);
    const Vector<double> eigenvalues = (u.transpose() * c.exact * u).diagonal();
    const Matrix<double> expected = u * eigenvalues.asDiagonal() * u.transpose();
    CHECK((c.ekfac - expected).norm() <= 1e-10 * c.exact.norm());
  });
}

TEST_CASE("EKFAC is never further from the exact block than K-FAC, and often nearer") {
  Index layers = 0, nearer = 0;
  for_each_layer([&](const LayerBlocks& c) {
    const double error = (c.ekfac - c.exact).norm();
    const double of_kfac = (c.kfac - c.exact).norm();
    // Both may be 0 but for round-off.
    CHECK(error <= of_kfac * (1 + 1e-12) + 1e-14 * c.exact.norm());
    ++layers;
    if (error < 0.9 * of_kfac) ++nearer;
  });
  CHECK(nearer > layers / 4);
}

TEST_CASE("T7: EKFAC has the trace of the exact block") {
  for_each_layer([](const LayerBlocks& c) {
    CHECK(std::abs(c.ekfac.trace() - c.exact.trace()) <= 1e-11 * c.exact.trace());
  });
}

TEST_CASE("T2: in deep linear networks with MSE, EKFAC is the GGN, as K-FAC is") {
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
         {block_factory<KroneckerBlock<double>>(), block_factory<EkfacBlock<double>>()})
      CHECK(largest_error(estimated_blocks(model, task, {}, kind), exact) < 1e-10);
  }
}

}  // namespace kfac::test::ekfac_theorems_test
