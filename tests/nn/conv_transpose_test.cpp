#include <limits>
#include <string>

#include <kfac/nn/channels_last.hpp>
#include <kfac/nn/conv.hpp>
#include <kfac/nn/conv_transpose.hpp>
#include <kfac/nn/dynamic_sequential.hpp>
#include <kfac/nn/linear.hpp>

#include "nn/support.hpp"

namespace kfac::test::conv_transpose_test {

using kfac::test::between;
using kfac::test::error_of;
using kfac::test::normal;

namespace {

using Model = DynamicSequential<double>;

template <std::size_t Axes>
struct Problem {
  ConvTransposeOptions<Axes> options;
  Shape shape;
};

/// Of groups of up to so many channels, out of which the kernels make packets or not.
template <std::size_t Axes>
Problem<Axes> random_problem(Index channels, Rng& rng) {
  for (;;) {
    Problem<Axes> problem;
    ConvTransposeOptions<Axes>& options = problem.options;
    options.groups = between(1, 2, rng);
    options.in_channels = options.groups * between(1, channels, rng);
    options.out_channels = options.groups * between(1, channels, rng);
    options.bias = rng.below(2) == 0;
    problem.shape = {options.in_channels};
    bool fits = true;
    for (std::size_t axis = 0; axis < Axes; ++axis) {
      options.kernel_size[axis] = between(1, 3, rng);
      options.stride[axis] = between(1, 3, rng);
      options.padding[axis] = between(0, 2, rng);
      if (rng.below(2) == 0) options.padding_end[axis] = between(0, 2, rng);
      options.dilation[axis] = between(1, 2, rng);
      options.output_padding[axis] =
          rng.below(std::max(options.stride[axis], options.dilation[axis]));
      problem.shape.push_back(between(1, Axes == 3 ? 3 : 5, rng));
      const Index end =
          options.padding_end[axis] < 0 ? options.padding[axis] : options.padding_end[axis];
      fits = fits && (problem.shape.back() - 1) * options.stride[axis] - options.padding[axis] -
                             end + options.dilation[axis] * (options.kernel_size[axis] - 1) +
                             options.output_padding[axis] >=
                         0;
    }
    if (fits) return problem;
  }
}

/// Every pixel puts its multiple of the kernel on the output, straight from the definition.
template <class S>
Matrix<double> naive(ConvTranspose2d<S>& layer, const Shape& shape, const Matrix<S>& x) {
  const ConvTranspose2dOptions& options = layer.options();
  const Shape output = layer.output_shape(shape);
  const Index group_inputs = options.in_channels / options.groups;
  const Index group_outputs = options.out_channels / options.groups;
  const auto [k1_count, k2_count] = options.kernel_size;
  const Index pixels = output[1] * output[2];
  Matrix<double> y = Matrix<double>::Zero(output.size(), x.cols());
  for (Index n = 0; n < x.cols(); ++n)
    for (Index group = 0; group < options.groups; ++group) {
      const Matrix<double> weight = layer.augmented_weight(group).template cast<double>();
      for (Index o = 0; o < group_outputs; ++o) {
        const Index to = group * group_outputs + o;
        if (options.bias)
          y.col(n).segment(to * pixels, pixels).setConstant(weight(o, weight.cols() - 1));
        for (Index c = 0; c < group_inputs; ++c)
          for (Index row = 0; row < shape[1]; ++row)
            for (Index column = 0; column < shape[2]; ++column)
              for (Index k1 = 0; k1 < k1_count; ++k1)
                for (Index k2 = 0; k2 < k2_count; ++k2) {
                  const Index h =
                      row * options.stride[0] - options.padding[0] + k1 * options.dilation[0];
                  const Index w =
                      column * options.stride[1] - options.padding[1] + k2 * options.dilation[1];
                  if (h < 0 || h >= output[1] || w < 0 || w >= output[2]) continue;
                  const Index from = group * group_inputs + c;
                  y((to * output[1] + h) * output[2] + w, n) +=
                      weight(o, (c * k1_count + k1) * k2_count + k2) *
                      static_cast<double>(x((from * shape[1] + row) * shape[2] + column, n));
                }
      }
    }
  return y;
}

}  // namespace

TEMPLATE_TEST_CASE("ConvTranspose2d equals a nested loop over the definition", "[nn][exact]", float,
                   double) {
  using S = TestType;
  Rng rng(1);
  for (int trial = 0; trial < 60; ++trial) {
    const auto [options, shape] = random_problem<2>(trial % 3 == 0 ? 18 : 3, rng);
    ConvTranspose2d<S> layer(options, rng);
    const Matrix<S> x = normal<S>(shape.size(), between(1, 4, rng), rng);
    const Matrix<double> expected = naive(layer, shape, x);
    DynamicSequential<S> model({layer});
    const Matrix<double> y = model.forward(x, shape).template cast<double>();
    REQUIRE(y.rows() == expected.rows());
    REQUIRE(error_of(y, expected) < 30 * static_cast<double>(std::numeric_limits<S>::epsilon()));
  }
}

TEST_CASE("An output of ConvTranspose2d has the size that PyTorch's formula gives", "[nn][exact]") {
  Rng rng(2);
  const ConvTranspose2d<double> up({.in_channels = 2,
                                    .out_channels = 3,
                                    .kernel_size = {4, 3},
                                    .stride = {2, 3},
                                    .padding = {1, 0},
                                    .output_padding = {0, 2},
                                    .dilation = {1, 2}},
                                   rng);
  REQUIRE(up.output_shape({2, 7, 4}) == Shape{3, 14, 3 * 3 + 2 * 2 + 2 + 1});
  const ConvTranspose1d<double> cut(
      {.kernel_size = {5}, .stride = {2}, .padding = {1}, .padding_end = {3}}, rng);
  REQUIRE(cut.output_shape({1, 6}) == Shape{1, 5 * 2 - 1 - 3 + 4 + 1});
}

TEST_CASE("Transposed convolutions pass the layer battery", "[nn][gradient]") {
  Rng rng(3);
  for (int trial = 0; trial < 20; ++trial) {
    const auto [options, shape] = random_problem<2>(3, rng);
    const auto check = test::require_twice_differentiable(ConvTranspose2d<double>(options, rng),
                                                          shape, between(1, 3, rng), rng);
    REQUIRE(check.kronecker.has_value());
  }
  for (int trial = 0; trial < 6; ++trial) {
    const auto [options, shape] = random_problem<1>(3, rng);
    const auto check = test::require_twice_differentiable(ConvTranspose1d<double>(options, rng),
                                                          shape, between(1, 3, rng), rng);
    REQUIRE(check.kronecker.has_value());
  }
  const auto [options, shape] = random_problem<3>(2, rng);
  REQUIRE(test::require_twice_differentiable(ConvTranspose3d<double>(options, rng), shape, 2, rng)
              .kronecker.has_value());
}

TEST_CASE("ConvTranspose2d passes the layer battery in float", "[nn][gradient]") {
  Rng rng(4);
  const auto [options, shape] = random_problem<2>(2, rng);
  const auto check =
      testing::check_layer(ConvTranspose2d<float>(options, rng), shape, between(1, 3, rng), rng);
  REQUIRE(check.passes(1e-3));
}

TEST_CASE("A transposed convolution is the adjoint of the convolution with its weights",
          "[nn][property]") {
  Rng rng(5);
  for (int trial = 0; trial < 40; ++trial) {
    const auto [options, shape] = random_problem<2>(4, rng);
    ConvTranspose2d<double> up(options, rng);
    const Shape image = up.output_shape(shape);
    // As many zeros at the end as give it as many places as there are pixels here.
    Conv2dOptions of_conv{.in_channels = options.out_channels,
                          .out_channels = options.in_channels,
                          .kernel_size = options.kernel_size,
                          .stride = options.stride,
                          .padding = options.padding,
                          .dilation = options.dilation,
                          .groups = options.groups,
                          .bias = false};
    for (std::size_t axis = 0; axis < 2; ++axis)
      of_conv.padding_end[axis] = std::max<Index>(
          (options.padding_end[axis] < 0 ? options.padding[axis] : options.padding_end[axis]) -
              options.output_padding[axis],
          0);
    Conv2d<double> down(of_conv, rng);
    if (!(down.output_shape(image) == shape)) continue;
    const Index taps = options.taps();
    for (Index group = 0; group < options.groups; ++group) {
      MatrixMap<double> own = up.augmented_weight(group);
      if (options.bias) own.rightCols(1).setZero();
      MatrixMap<double> other = down.augmented_weight(group);
      for (Index o = 0; o < own.rows(); ++o)
        for (Index c = 0; c < other.rows(); ++c)
          for (Index tap = 0; tap < taps; ++tap) other(c, o * taps + tap) = own(o, c * taps + tap);
    }
    Model ups({up}), downs({down});
    const Matrix<double> x = normal<double>(shape.size(), 3, rng);
    const Matrix<double> z = normal<double>(image.size(), 3, rng);
    downs.forward(z, image);
    REQUIRE(error_of(ups.forward(x, shape), downs.input_gradient(x)) < 1e-14);
    REQUIRE(error_of(ups.input_gradient(z), downs.forward(z, image)) < 1e-14);
  }
}

TEST_CASE("A transposed convolution with a kernel of one pixel is a Linear layer over tokens",
          "[nn][exact]") {
  Rng rng(6);
  const Shape shape{3, 4, 5};
  ConvTranspose2d<double> conv({.in_channels = 3, .out_channels = 6, .kernel_size = {1, 1}}, rng);
  Linear<double> linear(3, 6, rng);
  linear.parameters() = conv.parameters();
  Model a({conv, ChannelsLast<double>{}}), b({ChannelsLast<double>{}, linear});
  const Matrix<double> x = normal<double>(shape.size(), 7, rng);
  const Matrix<double> y = a.forward(x, shape);
  REQUIRE(error_of(b.forward(x, shape), y) < 1e-14);
  const Matrix<double> gradient = normal<double>(y.rows(), 7, rng);
  REQUIRE(error_of(a.input_gradient(gradient), b.input_gradient(gradient)) < 1e-14);
  REQUIRE(error_of(a.gradient(), b.gradient()) < 1e-14);
}

TEST_CASE("ConvTranspose announces the patches of so many examples that its workspace holds",
          "[nn][exact]") {
  Rng rng(7);
  const Shape shape{2, 5, 4};
  ConvTranspose2dOptions options{.in_channels = 2, .out_channels = 3, .stride = {2, 2}};
  struct Keeper : Observer<double> {
    Matrix<double> patches;
    Index blocks = 0;
    void on_input(const std::string&, const SharedBatch<double>& input) override {
      patches = input.matrix();
      blocks = 0;
      input.for_each_block([&](const SharedBatch<double>&, Index) { ++blocks; });
    }
  };
  const Matrix<double> x = normal<double>(shape.size(), 6, rng);
  std::array<Keeper, 2> keepers;
  for (std::size_t i = 0; i < 2; ++i) {
    options.workspace = i == 0 ? Index{1} << 20 : 0;
    Model model({ConvTranspose2d<double>(options, rng)});
    model.layers()[0].hooks->attach(keepers[i]);
    model.forward(x, shape);
  }
  REQUIRE(keepers[0].blocks == 1);
  REQUIRE(keepers[1].blocks == 6);
  REQUIRE(keepers[0].patches == keepers[1].patches);
  REQUIRE(keepers[0].patches.rows() == 18);
  REQUIRE(keepers[0].patches.cols() == Index{6} * 11 * 9);
}

TEST_CASE("Transposed convolutions say what is wrong with their input and options", "[nn][error]") {
  Rng rng(8);
  const ConvTranspose1d<double> line({.in_channels = 3, .padding = {2}}, rng);
  REQUIRE_THROWS_WITH(
      line.output_shape({3, 6, 6}),
      "kfac::ConvTranspose1d: 'input' has shape 3x6x6, expected 3 channels x length");
  REQUIRE_THROWS_WITH(line.output_shape({3, 2}),
                      "kfac::ConvTranspose1d: 'input' has shape 3x2, expected more pixels than the "
                      "padding leaves out");
  REQUIRE_THROWS_WITH(ConvTranspose2d<double>({.in_channels = 3, .groups = 2}, rng),
                      "kfac::ConvTranspose2dOptions: 'groups' is 2, expected a divisor of both "
                      "numbers of channels");
  REQUIRE_THROWS_WITH(ConvTranspose2d<double>({.stride = {2, 2}, .output_padding = {0, 2}}, rng),
                      "kfac::ConvTranspose2dOptions: 'output_padding' is 2, expected 0 <= "
                      "output_padding < stride or dilation");
  REQUIRE_THROWS_WITH(ConvTranspose3d<double>({.dilation = {1, 0, 1}}, rng),
                      "kfac::ConvTranspose3dOptions: 'dilation' is 0, expected >= 1");
  REQUIRE_THROWS_WITH(ConvTranspose1d<double>({.padding_end = {-2}}, rng),
                      "kfac::ConvTranspose1dOptions: 'padding_end' is -2, expected >= 0, or -1");
}

}  // namespace kfac::test::conv_transpose_test
