#include <array>

#include <kfac/nn/conv.hpp>
#include <kfac/nn/global_pooling.hpp>

#include "support/catch.hpp"
#include "support/dense_blocks.hpp"

// Where K-FAC of convolutions equals the exact block, and where it must not.

namespace kfac::test::convolution_theorems_test {

namespace {

constexpr double kExact = 1e-10;

constexpr EstimatorOptions<double> kExpand{.sharing = WeightSharing::Expand};
constexpr EstimatorOptions<double> kReduce{.sharing = WeightSharing::Reduce};

using Mse = MeanSquaredError<double>;

/// What varies from test to test.
struct Setting {
  Rng rng;
  bool bias;
  LossOptions loss;
  bool sums_pixels;
  Index examples;

  AnyLayer<double> pool() const {
    if (sums_pixels) return SpatialSum<double>{};
    return SpatialMean<double>{};
  }
};

/// Calls `body` with settings of all kinds, of at least 2 examples.
template <class Body>
void for_each_setting(std::uint64_t seeds, Body&& body) {
  for (std::uint64_t seed = 0; seed < seeds; ++seed) {
    Rng rng(seed);
    const Index examples = 2 + rng.below(3);
    Setting setting{rng,
                    seed % 2 == 0,
                    {.reduction = seed / 2 % 2 == 0 ? Reduction::Mean : Reduction::Sum},
                    seed / 4 % 2 == 0,
                    examples};
    INFO("seed " << seed);
    body(setting);
  }
}

/// An image with room for every kernel below.
template <std::size_t Axes>
Shape random_image(Index channels, Rng& rng) {
  Shape shape{channels};
  for (std::size_t axis = 0; axis < Axes; ++axis)
    shape.push_back((Axes == 3 ? 3 : 5) + rng.below(2));
  return shape;
}

/// Any strides, paddings, dilations and groups, with patches that are kept or made on demand.
template <std::size_t Axes>
ConvOptions<Axes> random_convolution(Index in_channels, Index out_channels, Setting& s) {
  ConvOptions<Axes> options;
  options.in_channels = in_channels;
  options.out_channels = out_channels;
  for (std::size_t axis = 0; axis < Axes; ++axis) {
    options.kernel_size[axis] = 1 + s.rng.below(Axes == 3 ? 2 : 3);
    options.stride[axis] = 1 + s.rng.below(3);
    options.padding[axis] = s.rng.below(3);
    if (s.rng.below(2) == 0) options.padding_end[axis] = s.rng.below(3);
    options.dilation[axis] = 1 + s.rng.below(2);
  }
  options.groups = in_channels % 2 == 0 && out_channels % 2 == 0 ? 1 + s.rng.below(2) : 1;
  options.bias = s.bias;
  if (s.rng.below(2) == 0) options.workspace = 0;
  return options;
}

template <std::size_t Axes>
void check_t6() {
  for_each_setting(12, [](Setting& s) {
    const Shape image = random_image<Axes>(2, s.rng);
    AnyModel one;
    one.push_back(Conv<double, Axes>(random_convolution<Axes>(2, 4, s), s.rng));
    one.push_back(s.pool());
    const Task of_one(one, Mse(s.loss), image, s.examples, s.rng);
    CHECK(largest_error(estimated_blocks(one, of_one, kReduce), ggn_blocks(one, of_one)) < kExact);

    AnyModel deep;
    ConvOptions<Axes> padded{.in_channels = 2, .out_channels = 3};
    padded.kernel_size.fill(2);
    padded.padding.fill(1);
    deep.push_back(Conv<double, Axes>(padded, s.rng));
    deep.push_back(Tanh<double>{});
    deep.push_back(Conv<double, Axes>(random_convolution<Axes>(3, 2, s), s.rng));
    deep.push_back(s.pool());
    Task of_deep(deep, Mse(s.loss), image, s.examples, s.rng);
    of_deep.x *= 2;
    const auto errors =
        relative_errors(estimated_blocks(deep, of_deep, kReduce), ggn_blocks(deep, of_deep));
    CHECK(errors.back() < kExact);
    CHECK(errors.front() > 0.01);
  });
}

template <std::size_t Axes>
void check_t13() {
  for_each_setting(8, [](Setting& s) {
    const Shape image = random_image<Axes>(2, s.rng);
    ConvOptions<Axes> options{.in_channels = 2, .out_channels = 3, .bias = s.bias};
    for (std::size_t axis = 0; axis < Axes; ++axis)
      options.kernel_size[axis] = image[static_cast<int>(axis) + 1];
    AnyModel convolution({Conv<double, Axes>(options, s.rng), Flatten<double>{}, Tanh<double>{},
                          Linear<double>(3, 2, s.rng)});
    AnyModel linear({Flatten<double>{}, Linear<double>(image.size(), 3, s.rng, {.bias = s.bias}),
                     Tanh<double>{}, Linear<double>(3, 2, s.rng)});
    linear.layers()[1].parameters = convolution.layers()[0].parameters;
    linear.layers()[3].parameters = convolution.layers()[3].parameters;
    const Task task(convolution, Mse(s.loss), image, s.examples, s.rng);
    for (const WeightSharing sharing : {WeightSharing::Expand, WeightSharing::Reduce})
      for (const FisherType type :
           {FisherType::Type2, FisherType::MonteCarlo, FisherType::Empirical}) {
        const EstimatorOptions<double> estimate{.fisher = type, .samples = 3, .sharing = sharing};
        CHECK(largest_error(estimated_blocks(convolution, task, estimate),
                            estimated_blocks(linear, task, estimate)) < 1e-13);
      }
  });
}

}  // namespace

TEST_CASE(
    "T6: of a 1-d convolution and a global pool, reduce is the GGN, of the last one if deep") {
  check_t6<1>();
}
TEST_CASE(
    "T6: of a 2-d convolution and a global pool, reduce is the GGN, of the last one if deep") {
  check_t6<2>();
}
TEST_CASE(
    "T6: of a 3-d convolution and a global pool, reduce is the GGN, of the last one if deep") {
  check_t6<3>();
}

TEST_CASE("T6b: of 1x1 convolutions, a global pool and linear layers, reduce is the GGN") {
  for_each_setting(8, [](Setting& s) {
    AnyModel model;
    for (const Index channels : {2, 3})
      model.push_back(Conv2d<double>({.in_channels = channels,
                                      .out_channels = channels + 1,
                                      .kernel_size = {1, 1},
                                      .bias = s.bias},
                                     s.rng));
    model.push_back(s.pool());
    append_linear(model, {4, 3, 2}, s.rng, s.bias);
    Task task(model, Mse(s.loss), {2, 2 + s.rng.below(3), 2 + s.rng.below(3)}, s.examples, s.rng);
    task.x.array() += 1;  // for independent pixels of mean 0, expand is right on average
    const auto exact = ggn_blocks(model, task);
    CHECK(largest_error(estimated_blocks(model, task, kReduce), exact) < kExact);
    const auto errors = relative_errors(estimated_blocks(model, task, kExpand), exact);
    for (const std::size_t before : {0U, 1U}) CHECK(errors[before] > 0.6);
    for (const std::size_t after : {2U, 3U}) CHECK(errors[after] < kExact);
  });
}

TEST_CASE("T13: a kernel as large as the sequence is a linear layer on the flattened one") {
  check_t13<1>();
}
TEST_CASE("T13: a kernel as large as the image is a linear layer on the flattened one") {
  check_t13<2>();
}
TEST_CASE("T13: a kernel as large as the volume is a linear layer on the flattened one") {
  check_t13<3>();
}

TEST_CASE("Negative control: at its borders a padded network makes its first convolution inexact") {
  for_each_setting(8, [](Setting& s) {
    AnyModel model;
    for (const Index channels : {1, 2})
      model.push_back(Conv2d<double>(
          {.in_channels = channels, .out_channels = 2, .padding = {1, 1}, .bias = s.bias}, s.rng));
    model.push_back(s.pool());
    const Task task(model, Mse(s.loss), {1, 4, 4}, s.examples, s.rng);
    const auto errors =
        relative_errors(estimated_blocks(model, task, kReduce), ggn_blocks(model, task));
    CHECK(errors.front() > 0.1);
    CHECK(errors.back() < kExact);
  });
}

}  // namespace kfac::test::convolution_theorems_test
