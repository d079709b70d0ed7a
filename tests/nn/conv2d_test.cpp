#include <cmath>
#include <limits>
#include <string>

#include <kfac/nn/conv.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/sequential.hpp>

#include "nn/support.hpp"

namespace kfac::test::conv2d_test {

using kfac::test::between;
using kfac::test::error_of;
using kfac::test::normal;

namespace {

struct Problem {
  Conv2dOptions options;
  Shape shape;
};

Problem random_problem(Rng& rng) {
  Problem problem;
  Conv2dOptions& options = problem.options;
  options.groups = between(1, 3, rng);
  options.in_channels = options.groups * between(1, 2, rng);
  options.out_channels = options.groups * between(1, 3, rng);
  options.bias = rng.below(2) == 0;
  problem.shape = {options.in_channels};
  for (std::size_t axis = 0; axis < 2; ++axis) {
    options.kernel_size[axis] = between(1, 3, rng);
    options.stride[axis] = between(1, 3, rng);
    options.padding[axis] = between(0, 2, rng);
    if (rng.below(2) == 0) options.padding_end[axis] = between(0, 2, rng);
    options.dilation[axis] = between(1, 2, rng);
    problem.shape.push_back(between(5, 7, rng));
  }
  return problem;
}

/// y[n, o, row, column] = b[o] + the sum over the kernel, straight from the definition.
template <class S>
Matrix<double> naive_convolution(Conv2d<S>& layer, const Shape& shape, const Matrix<S>& x) {
  const Conv2dOptions& options = layer.options();
  const Shape output = layer.output_shape(shape);
  const Index group_inputs = options.in_channels / options.groups;
  const Index group_outputs = options.out_channels / options.groups;
  const auto [k1_count, k2_count] = options.kernel_size;
  Matrix<double> y(output.size(), x.cols());
  for (Index n = 0; n < x.cols(); ++n)
    for (Index o = 0; o < output[0]; ++o)
      for (Index row = 0; row < output[1]; ++row)
        for (Index column = 0; column < output[2]; ++column) {
          const MatrixMap<S> weight = layer.augmented_weight(o / group_outputs);
          double sum = options.bias
                           ? static_cast<double>(weight(o % group_outputs, weight.cols() - 1))
                           : 0.0;
          for (Index c = 0; c < group_inputs; ++c)
            for (Index k1 = 0; k1 < k1_count; ++k1)
              for (Index k2 = 0; k2 < k2_count; ++k2) {
                const Index h =
                    row * options.stride[0] - options.padding[0] + k1 * options.dilation[0];
                const Index w =
                    column * options.stride[1] - options.padding[1] + k2 * options.dilation[1];
                if (h < 0 || h >= shape[1] || w < 0 || w >= shape[2]) continue;
                const Index channel = o / group_outputs * group_inputs + c;
                const S factor = weight(o % group_outputs, (c * k1_count + k1) * k2_count + k2);
                sum += static_cast<double>(factor) *
                       static_cast<double>(x((channel * shape[1] + h) * shape[2] + w, n));
              }
          y((o * output[1] + row) * output[2] + column, n) = sum;
        }
  return y;
}

}  // namespace

TEMPLATE_TEST_CASE("Conv2d equals a nested loop over the definition", "[nn][exact]", float,
                   double) {
  using S = TestType;
  Rng rng(1);
  for (int trial = 0; trial < 60; ++trial) {
    const Problem problem = random_problem(rng);
    Conv2d<S> layer(problem.options, rng);
    const Matrix<S> x = normal<S>(problem.shape.size(), between(1, 4, rng), rng);
    const Matrix<double> expected = naive_convolution(layer, problem.shape, x);
    Sequential model(layer);
    const Matrix<double> y = model.forward(x, problem.shape).template cast<double>();
    REQUIRE(error_of(y, expected) < 20 * static_cast<double>(std::numeric_limits<S>::epsilon()));
  }
}

TEST_CASE("Conv2d passes the layer battery for random strides, paddings, dilations and groups",
          "[nn][gradient]") {
  Rng rng(2);
  for (int trial = 0; trial < 25; ++trial) {
    const Problem problem = random_problem(rng);
    const Conv2d<double> layer(problem.options, rng);
    const auto check =
        test::require_twice_differentiable(layer, problem.shape, between(1, 3, rng), rng);
    REQUIRE(check.kronecker.has_value());
  }
}

TEST_CASE("Conv2d does the same for many examples as for each alone", "[nn][property]") {
  Rng rng(3);
  const Shape shape{2, 5, 5};
  const Index examples = 150;  // several of the blocks that it computes at a time
  Sequential model(Conv2d<double>({.in_channels = 2, .out_channels = 3, .padding = {1, 1}}, rng));
  const Matrix<double> x = normal<double>(shape.size(), examples, rng);
  const Matrix<double> grad_output = normal<double>(75, examples, rng);
  const Vector<double> direction = normal<double>(model.parameter_count(), 1, rng);

  const Matrix<double> y = model.forward(x, shape);
  const Matrix<double> tangent = model.tangent(direction);
  const Matrix<double> grad_input = model.input_gradient(grad_output);
  const Vector<double> gradient = model.gradient();

  Vector<double> sum = Vector<double>::Zero(gradient.size());
  for (Index i = 0; i < examples; ++i) {
    REQUIRE(error_of(model.forward(x.col(i), shape), y.col(i)) < 1e-14);
    REQUIRE(error_of(model.tangent(direction), tangent.col(i)) < 1e-14);
    REQUIRE(error_of(model.input_gradient(grad_output.col(i)), grad_input.col(i)) < 1e-13);
    sum += model.gradient();
  }
  REQUIRE(error_of(sum, gradient) < 1e-13);
}

TEST_CASE("Conv2d whose kernel covers the image is a Linear layer", "[nn][exact]") {
  Rng rng(4);
  const Shape shape{2, 3, 4};
  Conv2d<double> conv({.in_channels = 2, .out_channels = 5, .kernel_size = {3, 4}}, rng);
  Linear<double> linear(24, 5, rng);
  linear.parameters() = conv.parameters();
  const Matrix<double> x = normal<double>(24, 7, rng);
  Sequential convolution(conv);
  Sequential product(linear);
  REQUIRE(error_of(convolution.forward(x, shape), product.forward(x)) < 1e-14);
  const Matrix<double> grad_output = normal<double>(5, 7, rng);
  REQUIRE(error_of(convolution.input_gradient(grad_output), product.input_gradient(grad_output)) <
          1e-14);
  REQUIRE(error_of(convolution.gradient(), product.gradient()) < 1e-14);
}

TEST_CASE("Conv2d announces patches and output gradients position by position", "[nn][exact]") {
  Rng rng(5);
  const Shape shape{2, 3, 3};
  Sequential model(
      Conv2d<double>({.in_channels = 2, .out_channels = 2, .kernel_size = {2, 2}}, rng));
  testing::detail::AnnouncementKeeper<double> keeper;
  model.layers()[0].hooks->attach(keeper);
  const Matrix<double> x = normal<double>(18, 2, rng);
  model.forward(x, shape);
  const Matrix<double> grad_output = normal<double>(8, 2, rng);
  model.backward(grad_output);

  const Matrix<double>& patches = keeper.inputs.at(0);
  const Matrix<double>& gradients = keeper.gradients.at(0);
  REQUIRE(patches.rows() == 8);
  REQUIRE(patches.cols() == 8);
  // The patch of example 1 at output pixel (1, 0): rows 1-2, columns 0-1 of each channel.
  const Vector<double> expected{
      {x(3, 1), x(4, 1), x(6, 1), x(7, 1), x(12, 1), x(13, 1), x(15, 1), x(16, 1)}};
  REQUIRE(patches.col(4 + 2) == expected);
  REQUIRE(gradients.col(4 + 2) == Vector<double>{{grad_output(2, 1), grad_output(6, 1)}});
}

TEST_CASE("Conv2d is initialised as in PyTorch and by its seed alone", "[nn][property]") {
  const Conv2dOptions options{
      .in_channels = 8, .out_channels = 20, .kernel_size = {3, 5}, .groups = 2};
  const double bound = 1 / std::sqrt(4.0 * 15);
  Rng rng(6);
  Conv2d<double> layer(options, rng);
  const Vector<double> parameters = layer.parameters();
  REQUIRE(parameters.size() == 2 * 10 * (60 + 1));
  REQUIRE(parameters.maxCoeff() <= bound);
  REQUIRE(parameters.minCoeff() >= -bound);
  // Uniform numbers in +-bound have the mean 0 and the variance bound^2 / 3.
  REQUIRE(std::abs(parameters.mean()) < 0.1 * bound);
  REQUIRE(parameters.squaredNorm() / 1220 == Approx(bound * bound / 3).epsilon(0.1));

  Rng same(6);
  REQUIRE(Conv2d<double>(options, same).parameters() == parameters);
  REQUIRE(Conv2d<double>(options, same).parameters() != parameters);
}

TEST_CASE("Conv2d's parameter names, sizes and structure cover its parameters", "[nn][exact]") {
  Rng rng(7);
  const Conv2d<float> plain({.in_channels = 2, .out_channels = 3, .kernel_size = {2, 2}}, rng);
  const auto info = plain.parameter_info();
  REQUIRE(info.size() == 2);
  REQUIRE(info[0].name == "weight");
  REQUIRE(info[0].rows == 3);
  REQUIRE(info[0].columns == 8);
  REQUIRE(info[1].name == "bias");
  REQUIRE(info[1].offset == 24);

  const Conv2d<float> grouped(
      {.in_channels = 2, .out_channels = 4, .kernel_size = {1, 1}, .groups = 2, .bias = false},
      rng);
  REQUIRE(grouped.parameter_info().size() == 2);
  REQUIRE(grouped.parameter_info()[1].name == "weight.1");
  REQUIRE(grouped.parameter_info()[1].offset == 2);
  REQUIRE(grouped.kronecker_structure().inputs == 1);
  REQUIRE(grouped.kronecker_structure().outputs == 2);
  REQUIRE(grouped.kronecker_structure().groups == 2);
  REQUIRE_FALSE(grouped.kronecker_structure().bias);
}

TEST_CASE("Conv2d says what is wrong with its input", "[nn][error]") {
  Rng rng(8);
  Sequential model(
      Conv2d<double>({.in_channels = 3, .out_channels = 4, .kernel_size = {5, 5}}, rng));
  REQUIRE_THROWS_WITH(model.forward(Matrix<double>::Zero(84, 2), {3, 28}),
                      "kfac::Conv2d: 'input' has shape 3x28, expected 3 channels x height x width "
                      "(layer '0')");
  REQUIRE_THROWS_WITH(model.forward(Matrix<double>::Zero(72, 2), {2, 6, 6}),
                      "kfac::Conv2d: 'input' has shape 2x6x6, expected 3 channels x height x width "
                      "(layer '0')");
  REQUIRE_THROWS_WITH(
      model.forward(Matrix<double>::Zero(72, 2), {3, 4, 6}),
      "kfac::Conv2d: 'input' has shape 3x4x6, expected room for the kernel, 5x5, in "
      "the padded image (layer '0')");
  REQUIRE_THROWS_AS(model.forward(Matrix<double>::Zero(72, 2), {3, 4, 6}), ShapeError);
}

TEST_CASE("Conv2d refuses options outside their ranges", "[nn][error]") {
  Rng rng(9);
  const auto message = [&](const Conv2dOptions& options) {
    try {
      Conv2d<float>(options, rng);
    } catch (const OptionError& error) {
      return std::string(error.what());
    }
    return std::string("nothing was thrown");
  };
  REQUIRE(message({.in_channels = 0}) == "kfac::Conv2dOptions: 'in_channels' is 0, expected >= 1");
  REQUIRE(message({.out_channels = -1}) ==
          "kfac::Conv2dOptions: 'out_channels' is -1, expected >= 1");
  REQUIRE(message({.kernel_size = {3, 0}}) ==
          "kfac::Conv2dOptions: 'kernel_size' is 0, expected >= 1");
  REQUIRE(message({.stride = {0, 1}}) == "kfac::Conv2dOptions: 'stride' is 0, expected >= 1");
  REQUIRE(message({.padding = {0, -1}}) == "kfac::Conv2dOptions: 'padding' is -1, expected >= 0");
  REQUIRE(message({.dilation = {1, 0}}) == "kfac::Conv2dOptions: 'dilation' is 0, expected >= 1");
  REQUIRE(message({.in_channels = 4, .out_channels = 6, .groups = 4}) ==
          "kfac::Conv2dOptions: 'groups' is 4, expected a divisor of both numbers of channels");
}

}  // namespace kfac::test::conv2d_test
