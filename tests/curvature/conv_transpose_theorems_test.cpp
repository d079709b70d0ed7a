#include <kfac/nn/channels_last.hpp>
#include <kfac/nn/conv_transpose.hpp>
#include <kfac/nn/global_pooling.hpp>

#include "support/catch.hpp"
#include "support/dense_blocks.hpp"

// Where K-FAC of transposed convolutions equals the exact block, and where it must not.

namespace kfac::test::conv_transpose_theorems_test {

namespace {

constexpr double kExact = 1e-10;

constexpr EstimatorOptions<double> kExpand{.sharing = WeightSharing::Expand};
constexpr EstimatorOptions<double> kReduce{.sharing = WeightSharing::Reduce};

using Mse = MeanSquaredError<double>;

/// Any strides, paddings, dilations and groups.
ConvTranspose2dOptions random_options(Index in_channels, Index out_channels, Rng& rng) {
  ConvTranspose2dOptions options;
  options.in_channels = in_channels;
  options.out_channels = out_channels;
  for (std::size_t axis = 0; axis < 2; ++axis) {
    options.kernel_size[axis] = 1 + rng.below(3);
    options.stride[axis] = 1 + rng.below(3);
    options.padding[axis] = rng.below(2);
    if (rng.below(2) == 0) options.padding_end[axis] = rng.below(2);
    options.dilation[axis] = 1 + rng.below(2);
    options.output_padding[axis] =
        rng.below(std::max(options.stride[axis], options.dilation[axis]));
  }
  options.groups = 1 + rng.below(2);
  options.bias = rng.below(2) == 0;
  if (rng.below(2) == 0) options.workspace = 0;
  return options;
}

AnyLayer<double> random_pool(Rng& rng) {
  if (rng.below(2) == 0) return SpatialSum<double>{};
  return SpatialMean<double>{};
}

}  // namespace

TEST_CASE(
    "T6: of a transposed convolution and a global pool, reduce is the GGN, of the last if deep") {
  for (std::uint64_t seed = 0; seed < 16; ++seed) {
    INFO("seed " << seed);
    Rng rng(seed);
    const Mse loss({.reduction = seed % 2 == 0 ? Reduction::Mean : Reduction::Sum});
    const Shape image{2, 3 + rng.below(2), 3};
    const Index examples = 2 + rng.below(3);
    AnyModel one;
    one.push_back(ConvTranspose2d<double>(random_options(2, 4, rng), rng));
    one.push_back(random_pool(rng));
    const Task of_one(one, loss, image, examples, rng);
    CHECK(largest_error(estimated_blocks(one, of_one, kReduce), ggn_blocks(one, of_one)) < kExact);

    AnyModel deep;
    deep.push_back(ConvTranspose2d<double>(
        {.in_channels = 2, .out_channels = 2, .kernel_size = {2, 2}, .stride = {2, 2}}, rng));
    deep.push_back(Tanh<double>{});
    deep.push_back(ConvTranspose2d<double>(random_options(2, 2, rng), rng));
    deep.push_back(random_pool(rng));
    Task of_deep(deep, loss, image, examples, rng);
    of_deep.x *= 2;
    const auto errors =
        relative_errors(estimated_blocks(deep, of_deep, kReduce), ggn_blocks(deep, of_deep));
    CHECK(errors.back() < kExact);
    CHECK(errors.front() > 0.01);
  }
}

TEST_CASE("A transposed convolution that puts out one pixel is exact for one example") {
  for (std::uint64_t seed = 0; seed < 9; ++seed) {
    Rng rng(seed);
    // All pixels but one are left out.
    AnyModel model({ConvTranspose2d<double>({.in_channels = 2,
                                             .out_channels = 4,
                                             .kernel_size = {3, 3},
                                             .stride = {2, 1},
                                             .padding = {2, 1},
                                             .padding_end = {2, 2},
                                             .groups = 1 + rng.below(2)},
                                            rng),
                    Tanh<double>{}, Flatten<double>{}, Linear<double>(4, 3, rng)});
    const AnyLoss loss = all_losses({})[seed % 3];
    const Task task(model, loss, {2, 2, 2}, 1, rng);
    REQUIRE(model.output_shape(task.shape) == Shape{3});
    for (const auto& options : {kExpand, kReduce})
      CHECK(largest_error(estimated_blocks(model, task, options), ggn_blocks(model, task)) <
            kExact);
  }
}

TEST_CASE("The blocks of a transposed convolution of single pixels are those of a linear layer") {
  for (std::uint64_t seed = 0; seed < 6; ++seed) {
    Rng rng(seed);
    AnyModel convolution(
        {ConvTranspose2d<double>({.in_channels = 3, .out_channels = 2, .kernel_size = {1, 1}}, rng),
         ChannelsLast<double>{}, Tanh<double>{}, MeanTokens<double>{}, Linear<double>(2, 2, rng)});
    AnyModel linear({ChannelsLast<double>{}, Linear<double>(3, 2, rng), Tanh<double>{},
                     MeanTokens<double>{}, Linear<double>(2, 2, rng)});
    linear.layers()[1].parameters = convolution.layers()[0].parameters;
    linear.layers()[4].parameters = convolution.layers()[4].parameters;
    const Task task(convolution, all_losses({})[seed % 3], {3, 2, 3}, 4, rng);
    for (const WeightSharing sharing : {WeightSharing::Expand, WeightSharing::Reduce})
      for (const FisherType type :
           {FisherType::Type2, FisherType::MonteCarlo, FisherType::Empirical}) {
        const EstimatorOptions<double> estimate{.fisher = type, .samples = 3, .sharing = sharing};
        CHECK(largest_error(estimated_blocks(convolution, task, estimate),
                            estimated_blocks(linear, task, estimate)) < 1e-13);
      }
  }
}

}  // namespace kfac::test::conv_transpose_theorems_test
