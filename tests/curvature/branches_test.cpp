#include <kfac/nn/conv.hpp>
#include <kfac/nn/global_pooling.hpp>
#include <kfac/nn/parallel.hpp>

#include "support/catch.hpp"
#include "support/dense_blocks.hpp"

// The curvature of networks with branches.

namespace kfac::test::branches_test {

namespace {

using CrossEntropy = SoftmaxCrossEntropy<double>;

/// Sums and stacks of vectors, one within the other.
AnyModel vectors(Rng& rng) {
  return AnyModel(
      {Linear<double>(3, 4, rng), Tanh<double>{},
       Concatenate(
           Add(Linear<double>(4, 2, rng),
               Sequential(Linear<double>(4, 3, rng), Tanh<double>{}, Linear<double>(3, 2, rng))),
           DynamicAdd<double>({Linear<double>(4, 3, rng), Linear<double>(4, 3, rng)}),
           Identity<double>{}),
       Tanh<double>{}, Linear<double>(9, 3, rng)});
}

/// A block of Inception and one of a residual network.
AnyModel images(Rng& rng) {
  const auto conv = [&](Index in, Index out, Index kernel, Index stride) {
    return Conv2d<double>({.in_channels = in,
                           .out_channels = out,
                           .kernel_size = {kernel, kernel},
                           .stride = {stride, stride},
                           .padding = {kernel / 2, kernel / 2}},
                          rng);
  };
  return AnyModel(
      {Concatenate(conv(1, 1, 1, 1), Sequential(conv(1, 2, 3, 1), Tanh<double>{})), Tanh<double>{},
       Add(Sequential(conv(3, 2, 3, 2), Tanh<double>{}, conv(2, 2, 1, 1)), conv(3, 2, 1, 2)),
       SpatialMean<double>{}, Linear<double>(2, 3, rng)});
}

/// J^T H J of all examples, J by central differences.
Matrix<double> differenced_ggn(AnyModel& model, const CrossEntropy& loss, const Matrix<double>& x,
                               const Shape& shape) {
  const double step = 1e-6;
  const Matrix<double> outputs = model.forward(x, shape);
  std::vector<Matrix<double>> columns;
  for (auto& layer : model.layers())
    for (Index i = 0; i < layer.parameters.size(); ++i) {
      const double before = layer.parameters[i];
      layer.parameters[i] = before + step;
      const Matrix<double> plus = model.forward(x, shape);
      layer.parameters[i] = before - step;
      const Matrix<double> minus = model.forward(x, shape);
      layer.parameters[i] = before;
      columns.emplace_back((plus - minus) / (2 * step));
    }
  const auto count = static_cast<Index>(columns.size());
  Matrix<double> ggn(count, count);
  Matrix<double> product(outputs.rows(), outputs.cols());
  const double scale = loss.scale(outputs.rows(), outputs.cols());
  for (Index j = 0; j < count; ++j) {
    loss.hessian_product(outputs, columns[static_cast<std::size_t>(j)], product);
    for (Index i = 0; i < count; ++i)
      ggn(i, j) = scale * columns[static_cast<std::size_t>(i)].cwiseProduct(product).sum();
  }
  return ggn;
}

}  // namespace

TEST_CASE("The GGN of a network with branches is that of its differences") {
  Rng rng(1);
  for (int trial = 0; trial < 3; ++trial) {
    AnyModel of_vectors = vectors(rng), of_images = images(rng);
    const CrossEntropy loss;
    for (auto* model : {&of_vectors, &of_images}) {
      const Shape shape = model == &of_vectors ? Shape{3} : Shape{1, 4, 4};
      const Matrix<double> x = random_matrix(shape.size(), 4, rng);
      const Matrix<double> exact = Ggn<AnyModel, CrossEntropy>(*model, loss, x, shape).dense();
      CHECK(relative_error(exact, differenced_ggn(*model, loss, x, shape)) < 1e-8);
    }
  }
}

TEST_CASE("Each layer of each branch has its exact block for one example") {
  Rng rng(2);
  for (const AnyLoss& loss : all_losses({})) {
    AnyModel model = vectors(rng);
    const Task task(model, loss, {3}, 1, rng);
    const Blocks exact = ggn_blocks(model, task);
    REQUIRE(exact.size() == 7);
    CHECK(largest_error(estimated_blocks(model, task, {}), exact) < 1e-10);
  }
}

TEST_CASE("Linear branches in front of a global pool have their exact blocks with reduce") {
  Rng rng(3);
  const auto conv = [&](Index kernel) {
    return Conv2d<double>({.in_channels = 2,
                           .out_channels = 2,
                           .kernel_size = {kernel, kernel},
                           .padding = {kernel / 2, kernel / 2}},
                          rng);
  };
  for (const bool sums : {true, false}) {
    AnyModel model;
    if (sums)
      model.push_back(Add(conv(3), conv(1)));
    else
      model.push_back(Concatenate(conv(3), conv(1)));
    model.push_back(SpatialMean<double>{});
    const Task task(model, MeanSquaredError<double>(), {2, 4, 3}, 3, rng);
    CHECK(largest_error(estimated_blocks(model, task, {.sharing = WeightSharing::Reduce}),
                        ggn_blocks(model, task)) < 1e-10);
  }
}

}  // namespace kfac::test::branches_test
