#include <algorithm>
#include <string>
#include <vector>

#include <kfac/nn/activations.hpp>
#include <kfac/nn/batch_norm.hpp>
#include <kfac/nn/conv.hpp>
#include <kfac/nn/dropout.hpp>
#include <kfac/nn/dynamic_sequential.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/parallel.hpp>
#include <kfac/nn/pooling.hpp>
#include <kfac/nn/residual.hpp>

#include "nn/support.hpp"

namespace kfac::test::parallel_test {

using kfac::test::between;
using kfac::test::error_of;
using kfac::test::normal;

namespace {

Conv2d<double> conv(Index in, Index out, Index kernel, Rng& rng, Index stride = 1) {
  return Conv2d<double>({.in_channels = in,
                         .out_channels = out,
                         .kernel_size = {kernel, kernel},
                         .stride = {stride, stride},
                         .padding = {kernel / 2, kernel / 2}},
                        rng);
}

/// As the module of Szegedy et al., of 2 + 3 + 1 + 2 channels.
auto inception(Index in, Rng& rng) {
  return Concatenate(
      conv(in, 2, 1, rng), Sequential{conv(in, 2, 1, rng), Tanh<double>{}, conv(2, 3, 3, rng)},
      Sequential{MaxPool2d<double>({.kernel_size = {3, 3}, .stride = {1, 1}, .padding = {1, 1}}),
                 conv(in, 1, 1, rng)},
      Sequential{conv(in, 2, 5, rng), Tanh<double>{}});
}

/// As the block of He et al. that halves images.
auto downsampling(Index in, Index out, Rng& rng) {
  return Add(Sequential{conv(in, out, 3, rng, 2), Tanh<double>{}, conv(out, out, 3, rng)},
             conv(in, out, 1, rng, 2));
}

/// Any layers from `shape` to `{size}` features on the last axis.
AnyLayer<double> random_branch(const Shape& shape, Index size, Rng& rng, int depth = 2) {
  const Index in = shape.back();
  switch (depth > 0 ? rng.below(5) : 0) {
    default:
      return Linear<double>(in, size, rng, {.bias = rng.below(2) == 0});
    case 1:
      return Sequential(Linear<double>(in, size, rng), Sigmoid<double>{});
    case 2:
      return Sequential(Tanh<double>{}, random_branch(shape, size, rng, depth - 1));
    case 3:
      return Add(random_branch(shape, size, rng, depth - 1),
                 random_branch(shape, size, rng, depth - 1));
    case 4:
      return DynamicSequential<double>(
          {random_branch(shape, size, rng, depth - 1), Identity<double>{}});
  }
}

std::vector<AnyLayer<double>> random_branches(const Shape& shape, Index size, Rng& rng) {
  std::vector<AnyLayer<double>> branches;
  for (Index count = between(1, 4, rng); count > 0; --count)
    branches.push_back(random_branch(shape, size, rng));
  return branches;
}

/// The names of all parts of a state.
struct Names : StateVisitor {
  std::vector<std::string> all;
  bool overwrites() const override { return false; }
  bool present(const std::string&, bool there) override { return there; }
  void integers(const std::string& name, std::int64_t*, std::initializer_list<Index>) override {
    all.push_back(name);
  }
  void reals(const std::string& name, float*, std::initializer_list<Index>) override {
    all.push_back(name);
  }
  void reals(const std::string& name, double*, std::initializer_list<Index>) override {
    all.push_back(name);
  }
};

}  // namespace

TEST_CASE("Concatenate and Add pass the layer battery with random branches", "[nn][gradient]") {
  Rng rng(1);
  for (int trial = 0; trial < 25; ++trial) {
    const Shape shape = rng.below(2) == 0 ? Shape{between(1, 3, rng)}
                                          : Shape{between(1, 3, rng), between(1, 3, rng)};
    const Index size = between(1, 3, rng), batch = between(1, 3, rng);
    test::require_twice_differentiable(
        DynamicConcatenate<double>(random_branches(shape, size, rng)), shape, batch, rng);
    test::require_twice_differentiable(DynamicAdd<double>(random_branches(shape, size, rng)), shape,
                                       batch, rng);
  }
}

TEST_CASE("Blocks of Inception and of a residual network pass the layer battery",
          "[nn][gradient]") {
  Rng rng(2);
  REQUIRE(inception(2, rng).output_shape({2, 4, 5}) == Shape{8, 4, 5});
  REQUIRE(test::require_twice_differentiable(inception(2, rng), {2, 3, 4}, 2, rng)
              .kronecker.has_value());
  REQUIRE(downsampling(2, 3, rng).output_shape({2, 5, 4}) == Shape{3, 3, 2});
  test::require_twice_differentiable(downsampling(2, 3, rng), {2, 5, 4}, 2, rng);
}

TEST_CASE("Add passes the layer battery in float", "[nn][gradient]") {
  Rng rng(3);
  const Concatenate layer(Add(Linear<float>(3, 2, rng), Linear<float>(3, 2, rng), Tanh<float>{}),
                          Linear<float>(3, 4, rng));
  REQUIRE_THROWS_AS(layer.output_shape({3}), ShapeError);  // Tanh keeps 3
  const Concatenate fitting(Add(Linear<float>(3, 3, rng), Tanh<float>{}), Linear<float>(3, 4, rng));
  REQUIRE(testing::check_layer(fitting, {3}, 4, rng).passes(1e-3));
}

TEST_CASE("Concatenate stacks the outputs of its branches, Add sums them", "[nn][exact]") {
  Rng rng(4);
  const Conv2d<double> a = conv(2, 3, 3, rng), b = conv(2, 3, 1, rng), c = conv(2, 3, 5, rng);
  const Matrix<double> x = normal<double>(40, 6, rng);
  const Shape shape{2, 4, 5};
  const auto output = [&](auto layer) {
    Sequential model{layer};
    return Matrix<double>(model.forward(x, shape));
  };
  Matrix<double> stacked(3 * 60, 6);
  stacked << output(a), output(b), output(c);
  REQUIRE(output(Concatenate(a, b, c)) == stacked);
  REQUIRE(output(Add(a, b, c)) == output(a) + output(b) + output(c));
}

TEST_CASE("Branches that are given at run time do what those of known types do", "[nn][exact]") {
  Rng rng(5);
  const Linear<double> a(3, 2, rng), b(3, 4, rng), c(3, 2, rng);
  const Matrix<double> x = normal<double>(6, 5, rng);
  const auto equal = [&](auto first, auto second, const Shape& shape) {
    Sequential one{first};
    Sequential other{second};
    const Matrix<double> y = one.forward(x, shape);
    REQUIRE(other.forward(x, shape) == y);
    const Matrix<double> gradient = normal<double>(y.rows(), y.cols(), rng);
    REQUIRE(other.input_gradient(gradient) == one.input_gradient(gradient));
    REQUIRE(other.gradient() == one.gradient());
  };
  equal(Concatenate(a, c), DynamicConcatenate<double>({a, c}), {2, 3});
  equal(Add(a, c), DynamicAdd<double>({a, c}), {2, 3});
}

TEST_CASE("A residual block is an Add with the identity", "[nn][exact]") {
  Rng rng(6);
  const Linear<double> linear(3, 3, rng);
  Sequential residual{Residual(linear, Tanh<double>{})};
  Sequential add{Add(Sequential(linear, Tanh<double>{}), Identity<double>{})};
  const Matrix<double> x = normal<double>(3, 5, rng), gradient = normal<double>(3, 5, rng);
  REQUIRE(error_of(add.forward(x), residual.forward(x)) < 1e-15);
  REQUIRE(error_of(add.input_gradient(gradient), residual.input_gradient(gradient)) < 1e-15);
  REQUIRE(error_of(add.gradient(), residual.gradient()) < 1e-15);
}

TEST_CASE("Branches follow the batch size up and down, and use up memory if told to",
          "[nn][property]") {
  Rng rng(7);
  Sequential model{inception(2, rng), Tanh<double>{}, downsampling(8, 2, rng)};
  const Shape shape{2, 4, 4};
  const Matrix<double> x = normal<double>(32, 6, rng), gradient = normal<double>(8, 6, rng);
  const Matrix<double> y = model.forward(x, shape);
  for (const Index batch : {2, 5, 1, 6}) {
    REQUIRE(error_of(model.forward(x.leftCols(batch), shape), y.leftCols(batch)) < 1e-14);
    model.backward(gradient.leftCols(batch));
    const Vector<double> expected = model.gradient();
    const OneBackwardPass once(model, true);
    model.forward(x.leftCols(batch), shape);
    model.backward(gradient.leftCols(batch));
    REQUIRE(model.gradient() == expected);
  }
}

TEST_CASE("Branches say how much memory they take", "[nn][exact]") {
  Rng rng(8);
  // The first is written to the output itself; the second, that Tanh reads, has its own memory.
  const Add add(Linear<double>(3, 8, rng), Sequential(Linear<double>(3, 8, rng), Tanh<double>{}));
  const WorkspaceSize of_add = add.scratch_size({3}, 10, {});
  REQUIRE(of_add.activations == 80);
  REQUIRE(of_add.gradients >= 30);
  const Concatenate both(Linear<double>(3, 8, rng), Linear<double>(3, 16, rng));
  const WorkspaceSize of_both = both.scratch_size({3}, 10, {});
  REQUIRE(of_both.activations == 160);
  REQUIRE(of_both.gradients == 160 + 30);
}

TEST_CASE("Branches name their leaves in order", "[nn][exact]") {
  Rng rng(9);
  DynamicSequential<double> model(
      {Linear<double>(2, 3, rng), ReLU<double>{},
       Concatenate(Sequential(Linear<double>(3, 3, rng), ReLU<double>{}), Linear<double>(3, 2, rng),
                   DynamicAdd<double>({Linear<double>(3, 1, rng), Linear<double>(3, 1, rng)}))});
  std::vector<std::string> names;
  for (const auto& layer : model.layers()) names.push_back(layer.name);
  REQUIRE(names == std::vector<std::string>{"0", "1", "2.0.0", "2.0.1", "2.1", "2.2.0", "2.2.1"});
  REQUIRE(model.layer_sizes() == std::vector<Index>{9, 0, 12, 0, 8, 4, 4});
  REQUIRE(model.layers()[5].parameters.size() == 4);
}

TEST_CASE("The leaves of branches are observed, and copies are independent", "[nn][property]") {
  Rng rng(10);
  DynamicSequential<double> model({Add(Linear<double>(2, 3, rng), Linear<double>(2, 3, rng))});
  struct Counter : Observer<double> {
    int inputs = 0, gradients = 0;
    void on_input(const std::string& layer, const SharedBatch<double>&) override {
      inputs += layer == "0.1" ? 1 : 100;
    }
    void on_output_gradient(const std::string&, const SharedBatch<double>&) override {
      ++gradients;
    }
  } counter;
  DynamicSequential<double> copy = model;
  model.layers()[1].hooks->attach(counter);
  const Matrix<double> x = normal<double>(2, 4, rng);
  const Matrix<double> y = model.forward(x);
  model.backward(normal<double>(3, 4, rng));
  copy.layers()[0].parameters.setZero();
  copy.forward(x);
  REQUIRE(counter.inputs == 1);
  REQUIRE(counter.gradients == 1);
  REQUIRE(model.forward(x) == y);
}

TEST_CASE("What the scratch of a branch carries on is part of the state", "[nn][property]") {
  Rng rng(11);
  DynamicSequential<double> model(
      {Concatenate(Linear<double>(2, 3, rng), Dropout<double>(0.5, rng))});
  Names names;
  const Matrix<double> x = normal<double>(2, 40, rng);
  model.forward(x);
  model.visit_state(names);
  REQUIRE(names.all == std::vector<std::string>{"0.0.weight", "0.0.bias", "0.1.rng"});
}

TEST_CASE("Running statistics in branches are updated once a step, and part of the state",
          "[nn][property]") {
  Rng rng(13);
  DynamicSequential<double> model({Add(
      Linear<double>(2, 3, rng), Sequential(Linear<double>(2, 3, rng), BatchNorm1d<double>(3)))});
  const Matrix<double> x = normal<double>(2, 8, rng);
  const auto statistics = [&] {
    const auto& add =
        *model.layer(0)
             .target<Add<Linear<double>, Sequential<Linear<double>, BatchNorm1d<double>>>>();
    return add.branch<1>().layer<1>().num_batches_tracked();
  };
  model.forward(x);
  model.forward(x);
  REQUIRE(statistics() == 0);
  model.backward(Matrix<double>::Ones(3, 8));
  REQUIRE(statistics() == 1);
  Names names;
  model.visit_state(names);
  REQUIRE(std::count(names.all.begin(), names.all.end(), "0.1.1.running_var") == 1);
}

TEST_CASE("Branches whose outputs do not fit are refused by name", "[nn][error]") {
  Rng rng(12);
  Sequential sums{ReLU<double>{}, Add(Linear<double>(3, 2, rng), Linear<double>(3, 4, rng))};
  REQUIRE_THROWS_WITH(sums.forward(Matrix<double>::Zero(3, 1)),
                      "kfac::Add: the output of branch 1 has shape 4, expected that of branch 0, 2 "
                      "(layer '1')");
  Sequential stack{ReLU<double>{}, Concatenate(conv(2, 3, 1, rng), conv(2, 4, 1, rng, 2))};
  REQUIRE_THROWS_WITH(stack.output_shape({2, 4, 4}),
                      "kfac::Concatenate: the output of branch 1 has shape 4x2x2, expected that of "
                      "branch 0, 3x4x4, but for the first axis (layer '1')");
  REQUIRE_THROWS_WITH(sums.forward(Matrix<double>::Zero(4, 1)),
                      "kfac::Linear: 'input' has shape 4, expected 3 features on the last axis "
                      "(layer '1.0')");
  REQUIRE_THROWS_WITH(DynamicAdd<double>(std::vector<AnyLayer<double>>{}),
                      "kfac::DynamicAdd: 'branches' has 0 layers, expected at least 1");
  REQUIRE_THROWS_WITH(DynamicConcatenate<double>(std::vector<AnyLayer<double>>{}),
                      "kfac::DynamicConcatenate: 'branches' has 0 layers, expected at least 1");
}

}  // namespace kfac::test::parallel_test
