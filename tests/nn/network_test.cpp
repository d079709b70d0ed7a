#include <limits>
#include <thread>
#include <vector>

#include <kfac/nn/activations.hpp>
#include <kfac/nn/conv.hpp>
#include <kfac/nn/flatten.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/pooling.hpp>
#include <kfac/nn/sequential.hpp>

#include "nn/support.hpp"

namespace kfac::test::network_test {

using kfac::test::normal;

namespace {

auto mlp(std::uint64_t seed = 1) {
  Rng rng(seed);
  return Sequential{Linear<double>(3, 8, rng), Tanh<double>{}, Linear<double>(8, 3, rng)};
}

}  // namespace

TEST_CASE("Two threads with workspaces of their own compute what one alone does", "[nn][threads]") {
  Rng rng(1);
  const Sequential model{Conv2d<double>({.in_channels = 1, .out_channels = 4}, rng), ReLU<double>{},
                         MaxPool2d<double>{}, Flatten<double>{}, Linear<double>(36, 5, rng)};
  const Shape shape{1, 8, 8};
  constexpr std::size_t kThreads = 2;
  std::vector<Matrix<double>> xs;
  std::vector<Matrix<double>> grad_outputs;
  std::vector<Matrix<double>> outputs(kThreads);
  std::vector<Vector<double>> gradients(kThreads);
  for (std::size_t i = 0; i < kThreads; ++i) {
    xs.push_back(normal<double>(64, 10, rng));
    grad_outputs.push_back(normal<double>(5, 10, rng));
  }
  const auto evaluate = [&](std::size_t i) {
    auto workspace = model.make_workspace();
    for (int repetition = 0; repetition < 20; ++repetition) {
      outputs[i] = model.forward(xs[i], shape, workspace);
      model.backward(grad_outputs[i], workspace);
      gradients[i] = workspace.gradient;
    }
  };
  {
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < kThreads; ++i) threads.emplace_back(evaluate, i);
  }
  auto alone = model;
  for (std::size_t i = 0; i < kThreads; ++i) {
    REQUIRE(alone.forward(xs[i], shape) == outputs[i]);
    alone.backward(grad_outputs[i]);
    REQUIRE(alone.gradient() == gradients[i]);
  }
}

TEST_CASE("A network takes blocks, row-major matrices and expressions", "[nn][exact]") {
  Rng rng(2);
  auto model = mlp();
  const Matrix<double> x = normal<double>(3, 5, rng);
  const Matrix<double> grad_output = normal<double>(3, 5, rng);
  const Matrix<double> y = model.forward(x);
  const Matrix<double> grad_input = model.input_gradient(grad_output);
  const Vector<double> gradient = model.gradient();

  Matrix<double> larger = normal<double>(7, 9, rng);
  larger.block(2, 3, 3, 5) = x;
  REQUIRE(model.forward(larger.block(2, 3, 3, 5)) == y);
  larger.block(1, 2, 3, 5) = grad_output;
  REQUIRE(model.input_gradient(larger.block(1, 2, 3, 5)) == grad_input);
  REQUIRE(model.gradient() == gradient);
  REQUIRE(model.input_gradient(larger.block(1, 2, 3, 5).eval()) == grad_input);

  const Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> rows = x;
  REQUIRE(model.forward(rows) == y);
  REQUIRE(model.forward(2 * x - x) == y);
}

TEST_CASE("A network may be given its own outputs", "[nn][exact]") {
  Rng rng(3);
  auto model = mlp();
  const Matrix<double> x = normal<double>(3, 5, rng);
  const Matrix<double> once = model.forward(x);
  const Matrix<double> twice = model.forward(once);
  model.forward(x);
  REQUIRE(model.forward(model.forward(x)) == twice);
}

TEST_CASE("Batch sizes may vary from pass to pass", "[nn][property]") {
  Rng rng(4);
  auto used = mlp();
  for (const Index batch : {5, 1, 9, 3, 9}) {
    const Matrix<double> x = normal<double>(3, batch, rng);
    const Matrix<double> grad_output = normal<double>(3, batch, rng);
    auto fresh = mlp();
    REQUIRE(used.forward(x) == fresh.forward(x));
    used.backward(grad_output);
    fresh.backward(grad_output);
    REQUIRE(used.gradient() == fresh.gradient());
  }
}

TEST_CASE("A backward pass may be repeated, and does not add up", "[nn][property]") {
  Rng rng(5);
  auto model = mlp();
  const Matrix<double> grad_output = normal<double>(3, 4, rng);
  model.forward(normal<double>(3, 4, rng));
  model.backward(grad_output);
  const Vector<double> gradient = model.gradient();
  model.backward(2 * grad_output);
  REQUIRE(model.gradient() == 2 * gradient);
}

TEST_CASE("The tangent of the backward pass is its derivative, and leaves the gradient alone",
          "[nn][gradient]") {
  Rng rng(9);
  auto model = mlp();
  const Matrix<double> x = normal<double>(3, 4, rng);
  Matrix<double> larger = normal<double>(5, 6, rng);
  const Matrix<double> u = larger.block(1, 1, 3, 4);
  const Matrix<double> u_tangent = larger.block(0, 2, 3, 4);
  const Vector<double> direction = normal<double>(model.parameter_count(), 1, rng);
  model.forward(x);
  model.backward(u);
  const Vector<double> gradient = model.gradient();
  const Vector<double> tangent = model.backward_tangent(u, direction, u_tangent, model.workspace());
  REQUIRE(model.gradient() == gradient);
  REQUIRE(model.backward_tangent(larger.block(1, 1, 3, 4), direction, larger.block(0, 2, 3, 4),
                                 model.workspace()) == tangent);
  const auto gradient_at = [&](double distance) -> Vector<double> {
    auto moved = model;
    moved.layer<0>().parameters() += distance * direction.head(32);
    moved.layer<2>().parameters() += distance * direction.tail(27);
    moved.forward(x);
    moved.backward(u + distance * u_tangent);
    return moved.gradient();
  };
  const double step = 1e-5;
  REQUIRE(test::error_of(tangent, (gradient_at(step) - gradient_at(-step)) / (2 * step)) < 1e-8);
}

TEST_CASE("A network needs a forward pass before it goes back or along a tangent", "[nn][error]") {
  auto model = mlp();
  REQUIRE_THROWS_AS(model.backward(Matrix<double>::Zero(3, 1)), StateError);
  REQUIRE_THROWS_WITH(model.backward(Matrix<double>::Zero(3, 1)),
                      "kfac::Network::backward: no forward pass before it");
  REQUIRE_THROWS_WITH(model.tangent(Vector<double>::Zero(model.parameter_count())),
                      "kfac::Network::tangent: no forward pass before it");
  REQUIRE_THROWS_WITH(model.backward_tangent(Matrix<double>::Zero(3, 1), Vector<double>::Zero(59),
                                             Matrix<double>::Zero(3, 1), model.workspace()),
                      "kfac::Network::backward_tangent: no forward pass before it");
}

TEST_CASE("Errors name what is wrong and leave outputs and gradient as they were", "[nn][error]") {
  Rng rng(6);
  Sequential model{Linear<double>(3, 8, rng), Tanh<double>{}, Linear<double>(7, 3, rng)};
  auto good = mlp();
  const Matrix<double> x = normal<double>(3, 4, rng);
  const Matrix<double> grad_output = normal<double>(3, 4, rng);
  REQUIRE_THROWS_AS(model.forward(x), ShapeError);
  REQUIRE_THROWS_WITH(model.forward(x),
                      "kfac::Linear: 'input' has shape 8, expected 7 features on the last axis "
                      "(layer '2')");

  const ConstMatrixMap<double> outputs = good.forward(x);
  good.backward(grad_output);
  const Matrix<double> y = outputs;
  const Vector<double> gradient = good.gradient();
  const Vector<double> parameters = good.layer<0>().parameters();
  Matrix<double> broken = x;
  broken(1, 2) = std::numeric_limits<double>::infinity();

  REQUIRE_THROWS_WITH(good.forward(Matrix<double>(3, 0)),
                      "kfac::Network::forward: 'x' has 0 examples, expected at least 1");
  REQUIRE_THROWS_WITH(good.forward(Matrix<double>(0, 3)),
                      "kfac::Network::forward: 'x' has no rows");
  REQUIRE_THROWS_WITH(good.forward(x, {2, 3}),
                      "kfac::Network::forward: 'x' has 3 rows, expected 6");
  REQUIRE_THROWS_WITH(good.forward(x.topRows(2)),
                      "kfac::Linear: 'input' has shape 2, expected 3 features on the last axis "
                      "(layer '0')");
  REQUIRE_THROWS_WITH(good.forward(broken),
                      "kfac::Network::forward: 'x' is inf at (1, 2), expected finite numbers");
  REQUIRE_THROWS_AS(good.forward(broken), ValueError);
  REQUIRE_THROWS_WITH(good.backward(grad_output.leftCols(3)),
                      "kfac::Network::backward: 'grad_output' is 3x3, expected 3x4");
  REQUIRE_THROWS_WITH(good.tangent(Vector<double>::Zero(2)),
                      "kfac::Network::tangent: 'parameter_tangent' has 2 entries, expected 59");
  const Vector<double> direction = Vector<double>::Zero(59);
  REQUIRE_THROWS_WITH(good.backward_tangent(y.leftCols(3), direction, y, good.workspace()),
                      "kfac::Network::backward_tangent: 'grad_output' is 3x3, expected 3x4");
  REQUIRE_THROWS_WITH(
      good.backward_tangent(y, direction, y.leftCols(3), good.workspace()),
      "kfac::Network::backward_tangent: 'grad_output_tangent' is 3x3, expected 3x4");
  REQUIRE_THROWS_WITH(
      good.backward_tangent(y, direction.head(2), y, good.workspace()),
      "kfac::Network::backward_tangent: 'parameter_tangent' has 2 entries, expected 59");

  REQUIRE(outputs == y);
  REQUIRE(good.gradient() == gradient);
  REQUIRE(good.layer<0>().parameters() == parameters);
  good.backward(grad_output);  // of the forward pass that succeeded
  REQUIRE(good.gradient() == gradient);
}

TEST_CASE("A copied network has the same parameters and a workspace of its own", "[nn][exact]") {
  Rng rng(7);
  auto model = mlp();
  const Matrix<double> x = normal<double>(3, 4, rng);
  const Matrix<double> y = model.forward(x);
  auto copy = model;
  REQUIRE_THROWS_AS(copy.backward(y), StateError);
  REQUIRE(copy.forward(x) == y);
  copy.layer<0>().parameters().setZero();
  REQUIRE(model.forward(x) == y);
}

TEST_CASE("A copied network keeps its mode, and so does a workspace made for another thread") {
  auto model = mlp();
  REQUIRE(model.make_workspace().mode.training);
  model.eval();
  REQUIRE_FALSE(model.make_workspace().mode.training);
  auto copy = model;
  REQUIRE_FALSE(copy.workspace().mode.training);
  copy.train();
  copy = model;
  REQUIRE_FALSE(copy.workspace().mode.training);
}

TEST_CASE("Passes in a workspace made for another thread are not announced") {
  Rng rng(8);
  auto model = mlp();
  struct Counter : Observer<double> {
    int heard = 0;
    void on_input(const std::string&, const SharedBatch<double>&) override { ++heard; }
  } counter;
  model.layers()[0].hooks->attach(counter);
  auto workspace = model.make_workspace();
  const Matrix<double> x = normal<double>(3, 4, rng);
  model.forward(x, workspace);
  REQUIRE(counter.heard == 0);
  workspace.mode.tracking = true;
  model.forward(x, workspace);
  REQUIRE(counter.heard == 1);
}

}  // namespace kfac::test::network_test
