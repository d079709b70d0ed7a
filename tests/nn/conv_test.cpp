#include <string>

#include <kfac/nn/channels_last.hpp>
#include <kfac/nn/conv.hpp>
#include <kfac/nn/dynamic_sequential.hpp>
#include <kfac/nn/linear.hpp>

#include "nn/support.hpp"

namespace kfac::test::conv_test {

using kfac::test::between;
using kfac::test::error_of;
using kfac::test::normal;

namespace {

using Model = DynamicSequential<double>;

template <std::size_t Axes>
struct Problem {
  ConvOptions<Axes> options;
  Shape shape;
};

template <std::size_t Axes>
Problem<Axes> random_problem(Rng& rng) {
  Problem<Axes> problem;
  ConvOptions<Axes>& options = problem.options;
  options.groups = between(1, 2, rng);
  options.in_channels = options.groups * between(1, 2, rng);
  options.out_channels = options.groups * between(1, 2, rng);
  options.bias = rng.below(2) == 0;
  problem.shape = {options.in_channels};
  for (std::size_t axis = 0; axis < Axes; ++axis) {
    options.kernel_size[axis] = between(1, 3, rng);
    options.stride[axis] = between(1, 2, rng);
    options.padding[axis] = between(0, 1, rng);
    if (rng.below(2) == 0) options.padding_end[axis] = between(0, 2, rng);
    options.dilation[axis] = between(1, 2, rng);
    problem.shape.push_back(between(5, Axes == 3 ? 5 : 7, rng));
  }
  return problem;
}

/// Requires that two models with equal parameters do the same, but for the shapes of their inputs.
void require_equal(Model& a, const Shape& shape_a, Model& b, const Shape& shape_b,
                   const Matrix<double>& x, Rng& rng) {
  const Matrix<double> y = a.forward(x, shape_a);
  REQUIRE(error_of(b.forward(x, shape_b), y) < 1e-14);
  const Matrix<double> grad_output = normal<double>(y.rows(), y.cols(), rng);
  REQUIRE(error_of(b.input_gradient(grad_output), a.input_gradient(grad_output)) < 1e-14);
  REQUIRE(error_of(b.gradient(), a.gradient()) < 1e-14);
  const Vector<double> direction = normal<double>(a.parameter_count(), 1, rng);
  REQUIRE(error_of(b.tangent(direction), a.tangent(direction)) < 1e-14);
}

/// y[n, o, d, r, c] = b[o] + the sum over the kernel, straight from the definition.
Matrix<double> naive_convolution(Conv3d<double>& layer, const Shape& shape,
                                 const Matrix<double>& x) {
  const Conv3dOptions& options = layer.options();
  const Shape output = layer.output_shape(shape);
  const Index group_inputs = options.in_channels / options.groups;
  const Index group_outputs = options.out_channels / options.groups;
  const auto [k1_count, k2_count, k3_count] = options.kernel_size;
  const auto on = [&](std::size_t axis, Index place, Index entry) {
    return place * options.stride[axis] - options.padding[axis] + entry * options.dilation[axis];
  };
  Matrix<double> y(output.size(), x.cols());
  for (Index n = 0; n < x.cols(); ++n)
    for (Index o = 0, i = 0; o < output[0]; ++o)
      for (Index depth = 0; depth < output[1]; ++depth)
        for (Index row = 0; row < output[2]; ++row)
          for (Index column = 0; column < output[3]; ++column, ++i) {
            const MatrixMap<double> weight = layer.augmented_weight(o / group_outputs);
            y(i, n) = options.bias ? weight(o % group_outputs, weight.cols() - 1) : 0;
            for (Index c = 0, k = 0; c < group_inputs; ++c)
              for (Index k1 = 0; k1 < k1_count; ++k1)
                for (Index k2 = 0; k2 < k2_count; ++k2)
                  for (Index k3 = 0; k3 < k3_count; ++k3, ++k) {
                    const Index d = on(0, depth, k1), h = on(1, row, k2), w = on(2, column, k3);
                    if (d < 0 || d >= shape[1] || h < 0 || h >= shape[2] || w < 0 || w >= shape[3])
                      continue;
                    const Index channel = o / group_outputs * group_inputs + c;
                    y(i, n) += weight(o % group_outputs, k) *
                               x(((channel * shape[1] + d) * shape[2] + h) * shape[3] + w, n);
                  }
          }
  return y;
}

}  // namespace

TEST_CASE("Conv1d is Conv2d on images of one row", "[nn][exact]") {
  Rng rng(1);
  for (int trial = 0; trial < 30; ++trial) {
    const auto [options, shape] = random_problem<1>(rng);
    Conv1d<double> line(options, rng);
    Conv2d<double> image({.in_channels = options.in_channels,
                          .out_channels = options.out_channels,
                          .kernel_size = {1, options.kernel_size[0]},
                          .stride = {1, options.stride[0]},
                          .padding = {0, options.padding[0]},
                          .padding_end = {-1, options.padding_end[0]},
                          .dilation = {1, options.dilation[0]},
                          .groups = options.groups,
                          .bias = options.bias},
                         rng);
    image.parameters() = line.parameters();
    REQUIRE(line.output_shape(shape) ==
            Shape{options.out_channels, image.output_shape({shape[0], 1, shape[1]})[2]});
    Model a({line}), b({image});
    require_equal(a, shape, b, {shape[0], 1, shape[1]},
                  normal<double>(shape.size(), between(1, 4, rng), rng), rng);
  }
}

TEST_CASE("Conv3d is Conv2d on volumes of one slice", "[nn][exact]") {
  Rng rng(2);
  for (int trial = 0; trial < 20; ++trial) {
    const auto [options, shape] = random_problem<2>(rng);
    const auto with = [](Index depth, const std::array<Index, 2>& others) {
      return std::array<Index, 3>{depth, others[0], others[1]};
    };
    Conv2d<double> image(options, rng);
    Conv3d<double> volume({.in_channels = options.in_channels,
                           .out_channels = options.out_channels,
                           .kernel_size = with(1, options.kernel_size),
                           .stride = with(1, options.stride),
                           .padding = with(0, options.padding),
                           .padding_end = with(-1, options.padding_end),
                           .dilation = with(1, options.dilation),
                           .groups = options.groups,
                           .bias = options.bias},
                          rng);
    volume.parameters() = image.parameters();
    Model a({image}), b({volume});
    require_equal(a, shape, b, {shape[0], 1, shape[1], shape[2]},
                  normal<double>(shape.size(), between(1, 4, rng), rng), rng);
  }
}

TEST_CASE("Conv3d equals a nested loop over the definition", "[nn][exact]") {
  Rng rng(3);
  for (int trial = 0; trial < 30; ++trial) {
    const auto [options, shape] = random_problem<3>(rng);
    Conv3d<double> layer(options, rng);
    const Matrix<double> x = normal<double>(shape.size(), between(1, 3, rng), rng);
    Model model({layer});
    REQUIRE(error_of(model.forward(x, shape), naive_convolution(layer, shape, x)) < 1e-14);
  }
}

TEST_CASE("Convolutions of one and three axes pass the layer battery", "[nn][gradient]") {
  Rng rng(4);
  for (int trial = 0; trial < 12; ++trial) {
    const auto [options, shape] = random_problem<1>(rng);
    const auto check = test::require_twice_differentiable(Conv1d<double>(options, rng), shape,
                                                          between(1, 3, rng), rng);
    REQUIRE(check.kronecker.has_value());
  }
  for (int trial = 0; trial < 4; ++trial) {
    const auto [options, shape] = random_problem<3>(rng);
    const auto check =
        test::require_twice_differentiable(Conv3d<double>(options, rng), shape, 2, rng);
    REQUIRE(check.kronecker.has_value());
  }
}

TEST_CASE("A convolution with a kernel of one pixel is a Linear layer over tokens", "[nn][exact]") {
  Rng rng(5);
  const Shape shape{3, 4, 5};
  const Conv2d<double> conv({.in_channels = 3, .out_channels = 6, .kernel_size = {1, 1}}, rng);
  Linear<double> linear(3, 6, rng);
  linear.parameters() = Conv2d<double>(conv).parameters();
  Model a({conv, ChannelsLast<double>{}}), b({ChannelsLast<double>{}, linear});
  REQUIRE(a.output_shape(shape) == b.output_shape(shape));
  require_equal(a, shape, b, shape, normal<double>(shape.size(), 7, rng), rng);
}

TEST_CASE("A convolution whose kernel covers the image is a Linear layer", "[nn][exact]") {
  Rng rng(6);
  const Conv1d<double> line({.in_channels = 3, .out_channels = 5, .kernel_size = {8}}, rng);
  const Conv3d<double> volume({.in_channels = 3, .out_channels = 5, .kernel_size = {2, 2, 2}}, rng);
  Linear<double> linear(24, 5, rng);
  const Matrix<double> x = normal<double>(24, 7, rng);
  linear.parameters() = Conv1d<double>(line).parameters();
  Model a({line}), b({linear});
  require_equal(a, {3, 8}, b, {24}, x, rng);
  linear.parameters() = Conv3d<double>(volume).parameters();
  Model c({volume}), d({linear});
  require_equal(c, {3, 2, 2, 2}, d, {24}, x, rng);
}

TEST_CASE("Convolutions go by the number of their axes", "[nn][exact]") {
  Rng rng(7);
  Model model({Conv1d<double>({.in_channels = 2}, rng)});
  REQUIRE(model.layers()[0].kind == "Conv1d");
  REQUIRE(model.layers()[0].parameter_info[0].columns == 6);
  REQUIRE(Conv2d<double>::kind() == std::string("Conv2d"));
  REQUIRE(Conv3d<double>::kind() == std::string("Conv3d"));
  REQUIRE(Conv3d<double>({.in_channels = 2}, rng).kronecker_structure().inputs == 54);
}

TEST_CASE("Convolutions say what is wrong with their input and options", "[nn][error]") {
  Rng rng(8);
  const Conv1d<double> line({.in_channels = 3, .kernel_size = {5}}, rng);
  REQUIRE_THROWS_WITH(line.output_shape({3, 6, 6}),
                      "kfac::Conv1d: 'input' has shape 3x6x6, expected 3 channels x length");
  REQUIRE_THROWS_WITH(line.output_shape({3, 4}),
                      "kfac::Conv1d: 'input' has shape 3x4, expected room for the kernel, 5, in "
                      "the padded image");
  const Conv3d<double> volume({.in_channels = 2}, rng);
  REQUIRE_THROWS_WITH(volume.output_shape({2, 6, 6}),
                      "kfac::Conv3d: 'input' has shape 2x6x6, expected 2 channels x depth x height "
                      "x width");
  REQUIRE_THROWS_WITH(volume.output_shape({2, 6, 2, 6}),
                      "kfac::Conv3d: 'input' has shape 2x6x2x6, expected room for the kernel, "
                      "3x3x3, in the padded image");
  REQUIRE_THROWS_WITH(Conv1d<double>({.stride = {0}}, rng),
                      "kfac::Conv1dOptions: 'stride' is 0, expected >= 1");
  REQUIRE_THROWS_WITH(Conv3d<double>({.padding = {0, 0, -1}}, rng),
                      "kfac::Conv3dOptions: 'padding' is -1, expected >= 0");
  REQUIRE_THROWS_WITH(Conv3d<double>({.padding_end = {0, -2, 0}}, rng),
                      "kfac::Conv3dOptions: 'padding_end' is -2, expected >= 0, or -1");
  REQUIRE_THROWS_WITH(Conv2d<double>({.workspace = -1}, rng),
                      "kfac::Conv2dOptions: 'workspace' is -1, expected >= 0");
}

}  // namespace kfac::test::conv_test
