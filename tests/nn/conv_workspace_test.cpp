#include <algorithm>

#include <kfac/curvature/running_covariance.hpp>
#include <kfac/nn/conv.hpp>

#include "nn/support.hpp"

namespace kfac::test::conv_workspace_test {

using kfac::test::between;
using kfac::test::error_of;
using kfac::test::normal;

namespace {

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
  options.in_channels = options.groups * between(1, 3, rng);
  options.out_channels = options.groups * between(1, 3, rng);
  options.bias = rng.below(2) == 0;
  problem.shape = {options.in_channels};
  for (std::size_t axis = 0; axis < Axes; ++axis) {
    options.kernel_size[axis] = between(1, 3, rng);
    options.padding[axis] = between(0, 1, rng);
    problem.shape.push_back(between(4, 6, rng));
  }
  return problem;
}

Index bytes_of_example(const Shape& output, const KroneckerStructure& sizes) {
  return output.size() / output[0] * sizes.groups * sizes.inputs *
         static_cast<Index>(sizeof(double));
}

/// What a layer does with a batch, all of it, in the order a training step with curvature has.
struct Results {
  Matrix<double> y, grad_input, tangent, grad_input_tangent, announced, factor;
  Vector<double> gradient, gradient_tangent;
};

template <std::size_t Axes>
class Passes {
 public:
  Passes(const Conv<double, Axes>& layer, const Shape& shape, Index examples, Rng& rng)
      : shape_(shape),
        output_(layer.output_shape(shape)),
        x_(normal<double>(shape.size(), examples, rng)),
        x_tangent_(normal<double>(shape.size(), examples, rng)),
        grad_output_(normal<double>(output_.size(), examples, rng)),
        grad_output_tangent_(normal<double>(output_.size(), examples, rng)),
        direction_(normal<double>(layer.parameter_count(), 1, rng)) {}

  Results run(const Conv<double, Axes>& layer,
              typename Conv<double, Axes>::Scratch& scratch) const {
    Results r;
    r.y = r.tangent = grad_output_;
    r.grad_input = r.grad_input_tangent = x_;
    r.gradient = r.gradient_tangent = direction_;
    const ConstBatchView<double> x = view(x_, shape_), x_tangent = view(x_tangent_, shape_);
    const ConstBatchView<double> grad_output = view(grad_output_, output_);
    const ConstVectorMap<double> direction(direction_.data(), direction_.size());
    BatchView<double> grad_input = view(r.grad_input, shape_);
    BatchView<double> grad_input_tangent = view(r.grad_input_tangent, shape_);
    VectorMap<double> gradient(r.gradient.data(), r.gradient.size());
    VectorMap<double> gradient_tangent(r.gradient_tangent.data(), r.gradient_tangent.size());

    layer.forward(x, view(r.y, output_), scratch, Mode{});
    const ConstBatchView<double> y = view(r.y, output_);
    const SharedBatch<double> announced = layer.kronecker_input(x, scratch);
    layer.tangent(x, y, &x_tangent, &direction, view(r.tangent, output_), scratch);
    layer.backward_tangent(x, y, grad_output, &x_tangent, &direction,
                           view(grad_output_tangent_, output_), &grad_input_tangent,
                           &gradient_tangent, scratch);
    layer.backward(x, y, grad_output, &grad_input, &gradient, scratch, Mode{});
    // As an observer does: kept since the forward pass, and read after the backward pass.
    r.announced = announced.matrix();
    RunningCovariance<double> factor(announced.features(), true);
    factor.add(announced, 1.0);
    factor.commit(announced.columns(), 0.95);
    r.factor = factor.value();
    return r;
  }

 private:
  static ConstBatchView<double> view(const Matrix<double>& values, const Shape& shape) {
    return {{values.data(), values.rows(), values.cols()}, shape};
  }
  static BatchView<double> view(Matrix<double>& values, const Shape& shape) {
    return {{values.data(), values.rows(), values.cols()}, shape};
  }

  Shape shape_, output_;
  Matrix<double> x_, x_tangent_, grad_output_, grad_output_tangent_;
  Vector<double> direction_;
};

void require_equal(const Results& actual, const Results& expected) {
  const double tolerance = 1e-12;
  REQUIRE(error_of(actual.y, expected.y) < tolerance);
  REQUIRE(error_of(actual.grad_input, expected.grad_input) < tolerance);
  REQUIRE(error_of(actual.gradient, expected.gradient) < tolerance);
  REQUIRE(error_of(actual.tangent, expected.tangent) < tolerance);
  REQUIRE(error_of(actual.grad_input_tangent, expected.grad_input_tangent) < tolerance);
  REQUIRE(error_of(actual.gradient_tangent, expected.gradient_tangent) < tolerance);
  REQUIRE(actual.announced == expected.announced);
  REQUIRE(error_of(actual.factor, expected.factor) < tolerance);
}

template <std::size_t Axes>
void check_within_workspaces(Rng& rng) {
  auto [options, shape] = random_problem<Axes>(rng);
  const Conv<double, Axes> unbounded(options, rng);
  const Index examples = between(1, 9, rng);
  const Index bytes =
      bytes_of_example(unbounded.output_shape(shape), unbounded.kronecker_structure());
  const Passes<Axes> passes(unbounded, shape, examples, rng);
  typename Conv<double, Axes>::Scratch scratch;
  const Results expected = passes.run(unbounded, scratch);

  for (const Index workspace : {Index{0}, bytes, 2 * bytes, 3 * bytes + 1, examples * bytes}) {
    options.workspace = workspace;
    Conv<double, Axes> bounded(options, rng);
    bounded.parameters() = Conv<double, Axes>(unbounded).parameters();
    typename Conv<double, Axes>::Scratch own;
    INFO("workspace " << workspace << " of " << bytes << " an example, batch " << examples);
    require_equal(passes.run(bounded, own), expected);
    REQUIRE(own.patches.bytes() <= std::max(workspace, bytes));
  }
}

}  // namespace

TEST_CASE("Convolutions do the same in any workspace, and stay within it", "[nn][property]") {
  Rng rng(1);
  for (int trial = 0; trial < 25; ++trial) {
    check_within_workspaces<1>(rng);
    check_within_workspaces<2>(rng);
  }
  for (int trial = 0; trial < 8; ++trial) check_within_workspaces<3>(rng);
}

TEST_CASE("A convolution's memory of patches does not grow with the batch", "[nn][property]") {
  Rng rng(2);
  const Shape shape{3, 6, 6};
  const Conv2d<double> bounded(
      {.in_channels = 3, .out_channels = 2, .padding = {1, 1}, .workspace = 50000}, rng);
  const Conv2d<double> layer({.in_channels = 3, .out_channels = 2, .padding = {1, 1}}, rng);
  Conv2d<double>::Scratch bounded_scratch, scratch;
  for (const Index examples : {1, 3, 200, 5, 1000, 3}) {
    Passes<2>(bounded, shape, examples, rng).run(bounded, bounded_scratch);
    REQUIRE(bounded_scratch.patches.bytes() <= 50000);
    // Of 36 places with patches of 27 numbers: 640 of them are enough by default.
    Passes<2>(layer, shape, examples, rng).run(layer, scratch);
    REQUIRE(scratch.patches.bytes() <= 640 * 27 * static_cast<Index>(sizeof(double)));
  }
}

}  // namespace kfac::test::conv_workspace_test
