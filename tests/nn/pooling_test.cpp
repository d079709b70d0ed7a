#include <array>
#include <cmath>
#include <limits>

#include <kfac/nn/dynamic_sequential.hpp>
#include <kfac/nn/pooling.hpp>

#include "nn/support.hpp"

namespace kfac::test::pooling_test {

using kfac::test::between;
using kfac::test::error_of;
using kfac::test::normal;

namespace {

struct Problem {
  Pool2dOptions options;
  Shape shape;
};

Problem random_problem(Rng& rng) {
  Problem problem;
  problem.shape = {between(1, 3, rng)};
  for (std::size_t axis = 0; axis < 2; ++axis) {
    const Index kernel = between(1, 3, rng);
    problem.options.kernel_size[axis] = kernel;
    problem.options.stride[axis] = between(0, 3, rng);
    problem.options.padding[axis] = between(0, kernel / 2, rng);
    if (rng.below(2) == 0) problem.options.padding_end[axis] = between(0, kernel / 2, rng);
    problem.shape.push_back(between(3, 6, rng));
  }
  return problem;
}

/// Pools by `combine(value so far, pixel)` from `start`, padding left out.
template <class Combine>
Matrix<double> naive_pool(const Problem& problem, const Shape& output, const Matrix<double>& x,
                          double start, Combine&& combine) {
  const Shape& shape = problem.shape;
  const std::array<Index, 2>& kernel = problem.options.kernel_size;
  const std::array<Index, 2>& padding = problem.options.padding;
  const auto stride = [&](std::size_t axis) {
    const Index given = problem.options.stride[axis];
    return given == 0 ? kernel[axis] : given;
  };
  Matrix<double> y = Matrix<double>::Constant(output.size(), x.cols(), start);
  for (Index n = 0; n < x.cols(); ++n)
    for (Index c = 0; c < shape[0]; ++c)
      for (Index row = 0; row < output[1]; ++row)
        for (Index column = 0; column < output[2]; ++column)
          for (Index k1 = 0; k1 < kernel[0]; ++k1)
            for (Index k2 = 0; k2 < kernel[1]; ++k2) {
              const Index h = row * stride(0) - padding[0] + k1;
              const Index w = column * stride(1) - padding[1] + k2;
              if (h < 0 || h >= shape[1] || w < 0 || w >= shape[2]) continue;
              double& value = y((c * output[1] + row) * output[2] + column, n);
              value = combine(value, x((c * shape[1] + h) * shape[2] + w, n));
            }
  return y;
}

}  // namespace

TEST_CASE("MaxPool2d and AvgPool2d equal a nested loop over their definitions", "[nn][exact]") {
  Rng rng(1);
  for (int trial = 0; trial < 40; ++trial) {
    const Problem problem = random_problem(rng);
    const Matrix<double> x = normal<double>(problem.shape.size(), between(1, 4, rng), rng);
    const MaxPool2d<double> maximum(problem.options);
    const AvgPool2d<double> average(problem.options);
    const Shape output = maximum.output_shape(problem.shape);
    REQUIRE(output == average.output_shape(problem.shape));

    DynamicSequential<double> maxima({maximum});
    REQUIRE(maxima.forward(x, problem.shape) ==
            naive_pool(problem, output, x, -std::numeric_limits<double>::infinity(),
                       [](double a, double b) { return std::max(a, b); }));
    DynamicSequential<double> means({average});
    const double window =
        static_cast<double>(problem.options.kernel_size[0] * problem.options.kernel_size[1]);
    REQUIRE(error_of(means.forward(x, problem.shape),
                     naive_pool(problem, output, x, 0,
                                [&](double a, double b) { return a + b / window; })) < 1e-14);
  }
}

TEST_CASE("Poolings pass the layer battery", "[nn][gradient]") {
  Rng rng(2);
  for (int trial = 0; trial < 15; ++trial) {
    const auto [options, shape] = random_problem(rng);
    const Index batch = between(1, 3, rng);
    test::require_twice_differentiable(MaxPool2d<double>(options), shape, batch, rng);
    test::require_twice_differentiable(AvgPool2d<double>(options), shape, batch, rng);
  }
}

TEST_CASE("Poolings of one and three axes pass the layer battery", "[nn][gradient]") {
  Rng rng(5);
  for (int trial = 0; trial < 6; ++trial) {
    const Index kernel = between(1, 3, rng);
    const Pool1dOptions line{
        .kernel_size = {kernel}, .stride = {between(0, 3, rng)}, .padding = {kernel / 2}};
    const Shape sequence{between(1, 3, rng), between(3, 8, rng)};
    test::require_twice_differentiable(MaxPool1d<double>(line), sequence, 2, rng);
    test::require_twice_differentiable(AvgPool1d<double>(line), sequence, 2, rng);
    const Pool3dOptions box{.kernel_size = {kernel, 2, 3},
                            .stride = {1, between(0, 2, rng), 2},
                            .padding = {kernel / 2, 1, 0}};
    const Shape volume{2, 3, between(2, 4, rng), 4};
    test::require_twice_differentiable(MaxPool3d<double>(box), volume, 2, rng);
    test::require_twice_differentiable(AvgPool3d<double>(box), volume, 2, rng);
  }
}

TEST_CASE("Poolings of one and three axes are those of two where an axis has one pixel",
          "[nn][exact]") {
  Rng rng(6);
  for (int trial = 0; trial < 20; ++trial) {
    const auto [options, shape] = random_problem(rng);
    const Matrix<double> x = normal<double>(shape.size(), 3, rng);
    const auto equal = [&](const AnyLayer<double>& a, const Shape& shape_a,
                           const AnyLayer<double>& b, const Shape& shape_b) {
      DynamicSequential<double> model_a({a}), model_b({b});
      const Matrix<double> y = model_a.forward(x, shape_a);
      const Matrix<double> grad_output = normal<double>(y.rows(), y.cols(), rng);
      REQUIRE(model_b.forward(x, shape_b) == y);
      REQUIRE(model_a.input_gradient(grad_output) == model_b.input_gradient(grad_output));
    };
    const auto with = [](Index depth, const std::array<Index, 2>& others) {
      return std::array<Index, 3>{depth, others[0], others[1]};
    };
    const Pool3dOptions box{.kernel_size = with(1, options.kernel_size),
                            .stride = with(0, options.stride),
                            .padding = with(0, options.padding),
                            .padding_end = with(-1, options.padding_end)};
    const Shape slice{shape[0], 1, shape[1], shape[2]};
    equal(MaxPool2d<double>(options), shape, MaxPool3d<double>(box), slice);
    equal(AvgPool2d<double>(options), shape, AvgPool3d<double>(box), slice);

    const Pool1dOptions line{.kernel_size = {options.kernel_size[1]},
                             .stride = {options.stride[1]},
                             .padding = {options.padding[1]},
                             .padding_end = {options.padding_end[1]}};
    const Pool2dOptions row{.kernel_size = {1, options.kernel_size[1]},
                            .stride = {1, options.stride[1]},
                            .padding = {0, options.padding[1]},
                            .padding_end = {-1, options.padding_end[1]}};
    const Shape sequence{shape[0] * shape[1], shape[2]};
    equal(MaxPool1d<double>(line), sequence, MaxPool2d<double>(row), shape);
    equal(AvgPool1d<double>(line), sequence, AvgPool2d<double>(row), shape);
  }
}

TEST_CASE("MaxPool2d gives the gradient of equal pixels to the first", "[nn][exact]") {
  DynamicSequential<double> model({MaxPool2d<double>{}});
  model.forward(Matrix<double>::Constant(4, 1, -3.0), {1, 2, 2});
  REQUIRE(model.input_gradient(Matrix<double>::Ones(1, 1)) == Vector<double>::Unit(4, 0));
}

TEST_CASE("MaxPool2d does not count its padding", "[nn][exact]") {
  DynamicSequential<double> model(
      {MaxPool2d<double>({.kernel_size = {3, 3}, .stride = {1, 1}, .padding = {1, 1}})});
  REQUIRE(model.forward(Matrix<double>::Constant(9, 1, -5.0), {1, 3, 3}) ==
          Vector<double>::Constant(9, -5.0));
}

TEST_CASE("MaxPool2d passes NaN on, and its gradient stays within the image", "[nn][exact]") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const MaxPool2d<double> layer;
  Matrix<double> x(8, 1);
  x << 1, nan, 2, 3, nan, nan, nan, nan;
  Matrix<double> y(2, 1);
  Matrix<double> grad_input(8, 1);
  const Matrix<double> ones = Matrix<double>::Ones(2, 1);
  MaxPool2d<double>::Scratch scratch;
  const ConstBatchView<double> in({x.data(), 8, 1}, {2, 2, 2});
  const ConstBatchView<double> grad_output({ones.data(), 2, 1}, {2, 1, 1});
  const BatchView<double> out{{y.data(), 2, 1}, {2, 1, 1}};
  BatchView<double> result{{grad_input.data(), 8, 1}, {2, 2, 2}};
  layer.forward(in, out, scratch, Mode{});
  layer.backward(in, out, grad_output, &result, nullptr, scratch, Mode{});
  REQUIRE(std::isnan(y(0)));
  REQUIRE(std::isnan(y(1)));
  REQUIRE(grad_input.sum() == 2);
  REQUIRE(grad_input(1) == 1);
}

TEST_CASE("Poolings follow the batch size up and down", "[nn][property]") {
  Rng rng(4);
  DynamicSequential<float> model({MaxPool2d<float>({.kernel_size = {3, 3}, .padding = {1, 1}}),
                                  AvgPool2d<float>({.stride = {1, 1}})});
  const Matrix<float> x = normal<float>(2 * 49, 6, rng);
  const Matrix<float> grad_output = normal<float>(2 * 4, 6, rng);
  const Matrix<float> y = model.forward(x, {2, 7, 7});
  const Matrix<float> gradient = model.input_gradient(grad_output);
  for (const Index batch : {2, 5, 1, 6}) {
    REQUIRE(model.forward(x.leftCols(batch), {2, 7, 7}) == y.leftCols(batch));
    REQUIRE(model.input_gradient(grad_output.leftCols(batch)) == gradient.leftCols(batch));
  }
}

TEST_CASE("Poolings say what is wrong with their options and input", "[nn][error]") {
  REQUIRE_THROWS_WITH(MaxPool2d<double>({.kernel_size = {0, 2}}),
                      "kfac::MaxPool2d: 'kernel_size' is 0, expected >= 1");
  REQUIRE_THROWS_WITH(AvgPool2d<double>({.stride = {1, -1}}),
                      "kfac::AvgPool2d: 'stride' is -1, expected >= 0");
  REQUIRE_THROWS_WITH(MaxPool2d<double>({.kernel_size = {3, 3}, .padding = {2, 0}}),
                      "kfac::MaxPool2d: 'padding' is 2, expected 0 to half of kernel_size");
  REQUIRE_THROWS_WITH(
      AvgPool2d<double>({.padding_end = {0, 2}}),
      "kfac::AvgPool2d: 'padding_end' is 2, expected 0 to half of kernel_size, or -1");
  REQUIRE_THROWS_WITH(MaxPool2d<double>{}.output_shape({4, 4}),
                      "kfac::MaxPool2d: 'input' has shape 4x4, expected channels x height x width");
  REQUIRE_THROWS_WITH(
      AvgPool2d<double>{}.output_shape({3, 1, 4}),
      "kfac::AvgPool2d: 'input' has shape 3x1x4, expected room for the kernel, 2x2, "
      "in the padded image");
  REQUIRE_THROWS_WITH(MaxPool1d<double>({.kernel_size = {0}}),
                      "kfac::MaxPool1d: 'kernel_size' is 0, expected >= 1");
  REQUIRE_THROWS_WITH(AvgPool1d<double>{}.output_shape({2, 4, 4}),
                      "kfac::AvgPool1d: 'input' has shape 2x4x4, expected channels x length");
  REQUIRE_THROWS_WITH(
      MaxPool3d<double>{}.output_shape({2, 4, 1, 4}),
      "kfac::MaxPool3d: 'input' has shape 2x4x1x4, expected room for the kernel, 2x2x2, "
      "in the padded image");
}

}  // namespace kfac::test::pooling_test
