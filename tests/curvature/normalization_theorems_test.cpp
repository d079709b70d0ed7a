#include <kfac/curvature/diagonal_block.hpp>
#include <kfac/curvature/full_block.hpp>
#include <kfac/curvature/unitwise_block.hpp>
#include <kfac/nn/batch_norm.hpp>
#include <kfac/nn/flatten.hpp>
#include <kfac/nn/global_pooling.hpp>
#include <kfac/nn/group_norm.hpp>
#include <kfac/nn/rms_norm.hpp>

#include "support/catch.hpp"
#include "support/dense_blocks.hpp"
#include "support/units.hpp"

// The curvature of scales and shifts, in evaluation, against dense matrices.

namespace kfac::test::normalization_theorems_test {

namespace {

constexpr double kExact = 1e-12;
using K = KroneckerBlock<double>;

/// A normalisation with any parameters, and statistics of some batches.
template <class L>
L random_norm(L layer, const Shape& shape, Rng& rng) {
  layer.parameters() = random_matrix(layer.parameter_count(), 1, rng);
  if constexpr (requires { layer.running_mean(); }) {
    typename L::Scratch scratch;
    const Matrix<double> x = random_matrix(shape.size(), 6, rng);
    Matrix<double> y(x.rows(), 6);
    layer.forward({{x.data(), x.rows(), 6}, shape}, {{y.data(), y.rows(), 6}, shape}, scratch, {});
    layer.absorb(scratch);
  }
  return layer;
}

struct Case {
  AnyModel model;
  Shape shape;
  std::size_t norm;  // which layer
};

/// Networks with a normalisation of 4 units: of vectors, tokens (with an output for each),
/// sequences and images.
std::vector<Case> networks(Rng& rng) {
  std::vector<Case> cases;
  const auto on_tokens = [&](const Shape& shape, const AnyLayer<double>& norm) {
    AnyModel model;
    append_linear(model, {3, 4}, rng, true);
    model.push_back(norm);
    model.push_back(Tanh<double>{});
    append_linear(model, {4, 2}, rng, true);
    cases.push_back({std::move(model), shape, 1});
  };
  const auto on_images = [&](const Shape& image, const AnyLayer<double>& norm) {
    AnyModel model;
    append_linear(model, {3, image.size()}, rng, true);
    model.push_back(Unflatten<double>(image));
    model.push_back(norm);
    model.push_back(Tanh<double>{});
    model.push_back(SpatialMean<double>{});
    append_linear(model, {4, 2}, rng, true);
    cases.push_back({std::move(model), {3}, 2});
  };
  on_tokens({3}, random_norm(LayerNorm<double>(4), {4}, rng));
  on_tokens({3}, random_norm(BatchNorm1d<double>(4), {4}, rng));
  on_tokens({3, 3}, random_norm(LayerNorm<double>(4), {3, 4}, rng));
  on_tokens({2, 3}, random_norm(RMSNorm<double>(4), {2, 4}, rng));
  on_images({4, 3}, random_norm(BatchNorm1d<double>(4), {4, 3}, rng));
  on_images({4, 2, 3}, random_norm(GroupNorm<double>(2, 4), {4, 2, 3}, rng));
  on_images({4, 2, 2}, random_norm(BatchNorm2d<double>(4), {4, 2, 2}, rng));
  return cases;
}

/// The estimate of its block.
Matrix<double> estimate(Case& at, const Task& task, const BlockFactory<double>& kind,
                        FisherType type = FisherType::Type2) {
  const auto estimator = fitted(at.model, task, {.fisher = type}, kind);
  REQUIRE(estimator->layers().size() == 3);
  REQUIRE(estimator->layers()[1]->layer().units == 4);
  return estimator->layers()[1]->blocks()[0]->matrix()->dense();
}

}  // namespace

TEST_CASE("Scale and shift: full, unit-wise and diagonal blocks are parts of the exact one") {
  Rng rng(1);
  for (Case& at : networks(rng)) {
    INFO(at.model.layers()[at.norm].kind << " on " << at.shape.to_string());
    for (const AnyLoss& loss : all_losses({}))
      for (const Index examples : {1, 5}) {
        const Task task(at.model, loss, at.shape, examples, rng);
        const Matrix<double> exact =
            diagonal_block(Ggn<AnyModel, AnyLoss>(at.model, task.loss, task.x, task.shape).dense(),
                           at.model, at.norm);
        const Matrix<double> own = between_own_units(exact, 4);
        const Matrix<double> diagonal = exact.diagonal().asDiagonal();
        CHECK(relative_error(estimate(at, task, block_factory<K, FullBlock<double>>()), exact) <
              kExact);
        CHECK(relative_error(estimate(at, task, block_factory<K, UnitwiseBlock<double>>()), own) <
              kExact);
        CHECK(relative_error(estimate(at, task, block_factory<K, DiagonalBlock<double>>()),
                             diagonal) < kExact);
        // They differ, where there are scale and shift.
        if (exact.rows() == 8) CHECK(relative_error(own, diagonal) > 1e-3);
        CHECK(relative_error(own, exact) > 1e-3);
      }
  }
}

TEST_CASE("Scale and shift: all Fisher types are those of the examples' own gradients") {
  Rng rng(2);
  for (Case& at : networks(rng)) {
    const Task task(at.model, MeanSquaredError<double>(), at.shape, 4, rng);
    const Matrix<double> full =
        estimate(at, task, block_factory<K, FullBlock<double>>(), FisherType::Empirical);
    const Matrix<double> unitwise =
        estimate(at, task, block_factory<K, UnitwiseBlock<double>>(), FisherType::Empirical);
    const Ggn<AnyModel, AnyLoss> ggn(at.model, task.loss, task.x, task.shape);
    Matrix<double> v(ggn.outputs().rows(), 4);
    const double r = task.loss.scale(v.rows(), 4);
    task.loss.gradient(ggn.outputs(), task.y, v);
    const Matrix<double> exact = diagonal_block(outer_products(ggn, {v / r}, r), at.model, at.norm);
    CHECK(relative_error(full, exact) < kExact);
    CHECK(relative_error(unitwise, between_own_units(exact, 4)) < kExact);
  }
}

}  // namespace kfac::test::normalization_theorems_test
