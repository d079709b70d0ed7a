#include <kfac/curvature/ekfac_block.hpp>
#include <kfac/curvature/full_block.hpp>
#include <kfac/nn/conv.hpp>
#include <kfac/nn/global_pooling.hpp>

#include "support/catch.hpp"
#include "support/dense_blocks.hpp"
#include "support/eigensolver.hpp"

// A network used on inputs of different shape, against sums over the batches by hand.

namespace kfac::test::input_shapes_test {

namespace {

constexpr double kExact = 1e-12;

/// What one network has seen in several shapes.
struct Shapes {
  std::vector<Task> tasks;

  void fit(Estimator& estimator) const {
    for (Index pass = 0; estimator.begin_pass(pass); ++pass) {
      for (const Task& task : tasks) estimator.add(task.x, task.y, {.shape = task.shape});
      estimator.end_pass();
    }
  }
};

/// Checks all kinds of blocks of `shapes` against sums of what each of the tasks has alone.
/// `positions(shape, i)` is the number of positions of the i-th layer with curvature; `averages`
/// whether the loss is a mean.
template <class Positions>
void check_sums(AnyModel& model, const AnyLoss& loss, bool averages, const Shapes& shapes,
                const Positions& positions) {
  const auto scale_of = [&](const Task& task) {
    return loss.scale(model.output_shape(task.shape).size(), task.examples());
  };
  double inverse = 0;
  for (const Task& task : shapes.tasks) inverse = (averages ? inverse : 0.0) + 1 / scale_of(task);
  Blocks exact;
  for (const Task& task : shapes.tasks) {
    const Blocks one = ggn_blocks(model, task);
    exact.resize(one.size());
    for (std::size_t i = 0; i < one.size(); ++i) {
      if (exact[i].size() == 0) exact[i].setZero(one[i].rows(), one[i].cols());
      exact[i] += one[i] / (scale_of(task) * inverse);
    }
  }
  Estimator full(model, loss, {}, block_factory<FullBlock<double>>());
  shapes.fit(full);
  CHECK(largest_error(dense_blocks(full), exact) < kExact);
  Estimator diagonal(model, loss, {}, block_factory<DiagonalBlock<double>>());
  shapes.fit(diagonal);
  Estimator ekfac(model, loss, {}, block_factory<EkfacBlock<double>>());
  shapes.fit(ekfac);
  for (std::size_t i = 0; i < exact.size(); ++i) {
    const auto& block = block_of<EkfacBlock<double>>(*ekfac.layers()[i]);
    CHECK(relative_error(dense_blocks(diagonal)[i].diagonal(), exact[i].diagonal()) < kExact);
    CHECK(block.matrix()->trace() == Approx(exact[i].trace()).epsilon(1e-12));
  }

  for (const WeightSharing sharing : {WeightSharing::Expand, WeightSharing::Reduce}) {
    Estimator all(model, loss, {.sharing = sharing});
    shapes.fit(all);
    for (std::size_t i = 0; i < exact.size(); ++i) {
      const auto& block = block_of(*all.layers()[i]);
      Matrix<double> a = 0 * block.input_factor(), g = 0 * block.output_gradient_factor();
      double columns = 0;
      for (const Task& task : shapes.tasks) {
        const auto one =
            fitted(model, task, {.sharing = sharing}, block_factory<KroneckerBlock<double>>());
        const Index count = sharing == WeightSharing::Expand
                                ? task.examples() * positions(task.shape, i)
                                : task.examples();
        a += static_cast<double>(count) * block_of(*one->layers()[i]).input_factor();
        g += block_of(*one->layers()[i]).output_gradient_factor() / (scale_of(task) * inverse);
        columns += static_cast<double>(count);
      }
      CHECK(relative_error(block.input_factor(), a / columns) < kExact);
      CHECK(relative_error(block.output_gradient_factor(), g) < kExact);
    }
  }
}

}  // namespace

TEST_CASE("Batches with other numbers of tokens add up to the curvature of all of them") {
  Rng rng(15);
  for (const Reduction reduction : {Reduction::Mean, Reduction::Sum})
    for (const AnyLoss& loss :
         {AnyLoss(MeanSquaredError<double>({.reduction = reduction})),
          AnyLoss(SoftmaxCrossEntropy<double>({.reduction = reduction, .classes = 2}))}) {
      AnyModel model;
      append_linear(model, {3, 4}, rng, true);
      model.push_back(Tanh<double>{});
      append_linear(model, {4, 2}, rng, true);
      Shapes shapes;
      for (const Index tokens : {2, 5, 1, 3})
        shapes.tasks.emplace_back(model, loss, Shape{tokens, 3}, 1 + rng.below(4), rng);
      check_sums(model, loss, reduction == Reduction::Mean, shapes,
                 [](const Shape& shape, std::size_t) { return shape[0]; });
    }
}

TEST_CASE("Batches of images of other sizes add up to the curvature of all of them") {
  Rng rng(16);
  for (const Reduction reduction : {Reduction::Mean, Reduction::Sum})
    for (const AnyLoss& loss : all_losses({.reduction = reduction})) {
      AnyModel model(
          {Conv2d<double>({.in_channels = 1, .out_channels = 2, .kernel_size = {2, 2}}, rng),
           Tanh<double>{}, SpatialMean<double>{}, Linear<double>(2, 3, rng)});
      Shapes shapes;
      for (const Index width : {3, 5, 2})
        shapes.tasks.emplace_back(model, loss, Shape{1, 4, width}, 1 + rng.below(4), rng);
      check_sums(model, loss, reduction == Reduction::Mean, shapes,
                 [](const Shape& shape, std::size_t layer) {
                   return layer == 0 ? 3 * (shape[2] - 1) : Index{1};
                 });
    }
}

}  // namespace kfac::test::input_shapes_test
