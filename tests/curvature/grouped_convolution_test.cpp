#include <Eigen/LU>

#include <kfac/nn/conv.hpp>
#include <kfac/nn/conv_transpose.hpp>
#include <kfac/nn/flatten.hpp>
#include <kfac/nn/global_pooling.hpp>

#include "support/catch.hpp"
#include "support/dense_blocks.hpp"

namespace kfac::test::grouped_convolution_test {

namespace {

/// Layers in groups from 6 channels with a kernel of 2 x 2: depthwise with 1, 2 and 3 outputs a
/// channel, and of 2 and 3 groups.
struct Grouping {
  Index groups, out_channels;
};
constexpr std::array<Grouping, 5> kGroupings{{{6, 6}, {6, 12}, {6, 18}, {2, 4}, {3, 6}}};

AnyLayer<double> convolution(const Grouping& grouping, bool bias, Rng& rng) {
  return Conv2d<double>({.in_channels = 6,
                         .out_channels = grouping.out_channels,
                         .kernel_size = {2, 2},
                         .groups = grouping.groups,
                         .bias = bias},
                        rng);
}
AnyLayer<double> transposed(const Grouping& grouping, bool bias, Rng& rng) {
  return ConvTranspose2d<double>({.in_channels = 6,
                                  .out_channels = grouping.out_channels,
                                  .kernel_size = {2, 2},
                                  .stride = {2, 1},
                                  .groups = grouping.groups,
                                  .bias = bias},
                                 rng);
}

}  // namespace

TEST_CASE("Preconditioner: each group of a convolution has a block of its own") {
  Rng rng(10);
  Sequential model{
      Unflatten<double>({4, 3, 3}),
      Conv2d<double>({.in_channels = 4, .out_channels = 6, .kernel_size = {2, 2}, .groups = 2},
                     rng),
      Flatten<double>{}, Linear<double>(24, 3, rng)};
  Preconditioner preconditioner(model, {.damping = 0.1, .inverse_every = 1});
  const auto& blocks = preconditioner.layers()[0]->blocks();
  REQUIRE(blocks.size() == 2);
  struct Recorder : Observer<double> {
    Matrix<double> input, gradient;
    void on_input(const std::string&, const SharedBatch<double>& batch) override {
      input = batch.matrix();
    }
    void on_output_gradient(const std::string&, const SharedBatch<double>& batch) override {
      gradient = batch.matrix();
    }
  } recorder;
  model.layers()[1].hooks->attach(recorder);
  const SoftmaxCrossEntropy<double> loss;
  const Matrix<double> x = random_matrix(36, 5, rng);
  model.backward(loss.gradient(model.forward(x), random_labels(3, 5, rng)));
  const Vector<double> raw = model.gradient();
  REQUIRE(preconditioner.step().ok());
  for (Index group = 0; group < 2; ++group) {
    Matrix<double> patches(9, recorder.input.cols());
    patches << recorder.input.middleRows(8 * group, 8),
        Matrix<double>::Ones(1, recorder.input.cols());
    const Matrix<double> gradients = recorder.gradient.middleRows(3 * group, 3);
    const Matrix<double> a = patches * patches.transpose() / (5.0 * 4.0);
    const Matrix<double> g = 5 * gradients * gradients.transpose();
    const KroneckerBlock<double>& block =
        block_of(*preconditioner.layers()[0], static_cast<std::size_t>(group));
    CHECK(relative_error(block.input_factor(), a) < 1e-12);
    CHECK(relative_error(block.output_gradient_factor(), g) < 1e-12);

    const double pi = std::sqrt((a.trace() / 9) / (g.trace() / 3));
    const double root = std::sqrt(0.1);
    const Matrix<double> damped =
        linalg::kronecker_product<double>(a + pi * root * Matrix<double>::Identity(9, 9),
                                          g + root / pi * Matrix<double>::Identity(3, 3));
    const Vector<double> expected =
        damped.partialPivLu().solve(Vector<double>(raw.segment(27 * group, 27)));
    CHECK(relative_error(model.gradient().segment(27 * group, 27), expected) < 1e-10);
  }
}

TEST_CASE("The block of each group is exact for one example where the kernel covers the image") {
  Rng rng(1);
  for (const Grouping& grouping : kGroupings)
    for (const AnyLoss& loss : all_losses({})) {
      AnyModel model({convolution(grouping, true, rng), Tanh<double>{}, Flatten<double>{},
                      Linear<double>(grouping.out_channels, 3, rng)});
      const Task task(model, loss, {6, 2, 2}, 1, rng);
      const Blocks exact = ggn_blocks(model, task);
      REQUIRE(exact.size() == static_cast<std::size_t>(grouping.groups) + 1);
      CHECK(largest_error(estimated_blocks(model, task, {}), exact) < 1e-10);
    }
}

TEST_CASE("The block of each group in front of a global pool is the GGN with reduce") {
  Rng rng(2);
  for (const Grouping& grouping : kGroupings)
    for (const bool bias : {true, false})
      for (const AnyLayer<double>& layer :
           {convolution(grouping, bias, rng), transposed(grouping, bias, rng)}) {
        AnyModel model({layer, SpatialMean<double>{}});
        const Task task(model, MeanSquaredError<double>(), {6, 3, 4}, 3, rng);
        const Blocks exact = ggn_blocks(model, task);
        REQUIRE(exact.size() == static_cast<std::size_t>(grouping.groups));
        CHECK(largest_error(estimated_blocks(model, task, {.sharing = WeightSharing::Reduce}),
                            exact) < 1e-10);
      }
}

}  // namespace kfac::test::grouped_convolution_test
