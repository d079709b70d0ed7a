#include <array>
#include <string>
#include <utility>
#include <vector>

#include <kfac/nn/activations.hpp>
#include <kfac/nn/conv.hpp>
#include <kfac/nn/dropout.hpp>
#include <kfac/nn/dynamic_sequential.hpp>
#include <kfac/nn/flatten.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/residual.hpp>
#include <kfac/nn/sequential.hpp>

#include "nn/support.hpp"

// Layers that work in place compute what they compute otherwise, to the last bit.

namespace kfac::test::in_place_test {

using kfac::test::between;
using kfac::test::normal;

namespace {

using S = double;

/// The same layer where nothing is known of how it uses memory: it never works in place.
template <class L>
struct Careful : L {
  explicit Careful(L layer) : L(std::move(layer)) {}
  static constexpr MemoryUse memory_use() { return {}; }
};

/// y = x^3 / 3 + s x with one parameter s: its passes read all of x and y.
class UserLayer {
 public:
  using Scalar = S;
  struct Scratch {};
  Index parameter_count() const { return 1; }
  VectorMap<S> parameters() { return {&slope_, 1}; }
  Shape output_shape(const Shape& shape) const { return shape; }
  void forward(const ConstBatchView<S>& x, BatchView<S> y, Scratch&, const Mode&) const {
    y.values = x.values.array().cube() / 3 + slope_ * x.values.array();
  }
  void backward(const ConstBatchView<S>& x, const ConstBatchView<S>& y,
                const ConstBatchView<S>& grad_output, BatchView<S>* grad_input,
                VectorMap<S>* grad_parameters, Scratch&, const Mode&) const {
    if (grad_input) grad_input->values = derivative(x) * grad_output.values.array();
    if (grad_parameters)
      (*grad_parameters)(0) = slope(x, y).matrix().cwiseProduct(grad_output.values).sum();
  }
  void tangent(const ConstBatchView<S>& x, const ConstBatchView<S>& y,
               const ConstBatchView<S>* x_tangent, const ConstVectorMap<S>* parameter_tangent,
               BatchView<S> y_tangent, Scratch&) const {
    y_tangent.values.setZero();
    if (x_tangent) y_tangent.values.array() += derivative(x) * x_tangent->values.array();
    if (parameter_tangent) y_tangent.values.array() += slope(x, y) * (*parameter_tangent)(0);
  }

 private:
  Eigen::ArrayXX<S> derivative(const ConstBatchView<S>& x) const {
    return x.values.array().square() + slope_;
  }
  /// x, by way of y.
  Eigen::ArrayXX<S> slope(const ConstBatchView<S>& x, const ConstBatchView<S>& y) const {
    return (y.values.array() - x.values.array().cube() / 3) / slope_;
  }
  S slope_ = 0.7;
};

/// All that a network computes of a batch.
template <class Model>
std::vector<Matrix<S>> results(Model& model, const Matrix<S>& x, const Shape& shape, Rng rng) {
  std::vector<Matrix<S>> all;
  all.emplace_back(model.forward(x, shape));
  const Matrix<S> grad_output = normal<S>(all[0].rows(), all[0].cols(), rng);
  const Vector<S> direction = normal<S>(model.parameter_count(), 1, rng);
  model.backward(grad_output);
  all.emplace_back(model.gradient());
  all.emplace_back(model.tangent(direction));
  all.emplace_back(model.input_gradient(grad_output));
  model.backward(grad_output);  // again, from what the first left
  all.emplace_back(model.gradient());
  all.emplace_back(model.tangent(direction));
  all.emplace_back(ConstMatrixMap<S>(model.workspace().output.data(), all[0].rows(), x.cols()));
  return all;
}

/// Requires that both compute the same of batches of several sizes, and leave x as it is.
template <class A, class B>
void require_same(A& model, B& careful, const Shape& shape, Rng& rng) {
  for (const Index batch : {3, 1, 7}) {
    const Matrix<S> x = normal<S>(shape.size(), batch, rng);
    const Matrix<S> before = x;
    const std::vector<Matrix<S>> actual = results(model, x, shape, rng);
    REQUIRE(x == before);
    const std::vector<Matrix<S>> expected = results(careful, x, shape, rng);
    for (std::size_t i = 0; i < actual.size(); ++i) {
      INFO("result " << i);
      REQUIRE(actual[i] == expected[i]);
    }
  }
}

template <class Model>
Vector<S> second_derivative(Model& model, const Matrix<S>& x, Rng rng) {
  auto workspace = model.make_workspace();
  const Matrix<S> y = model.forward(x, workspace);
  const Matrix<S> gradient = normal<S>(y.rows(), y.cols(), rng);
  const Matrix<S> gradient_tangent = normal<S>(y.rows(), y.cols(), rng);
  const Vector<S> direction = normal<S>(model.parameter_count(), 1, rng);
  return model.backward_tangent(gradient, direction, gradient_tangent, workspace);
}

/// Numbers that the activations of a workspace take.
template <class Model>
Index activation_memory(const Model& model) {
  return model.workspace().scratch.activations.capacity();
}

}  // namespace

TEMPLATE_TEST_CASE("An activation in place gives the same gradients and tangents", "[nn][exact]",
                   ReLU<S>, Tanh<S>, Sigmoid<S>, Softplus<S>, Identity<S>, GELU<S>) {
  using A = TestType;
  Rng rng(1);
  const Linear<S> first(4, 6, rng);
  const Linear<S> second(6, 6, rng);
  Sequential model{first, A{}, second, A{}};
  Sequential careful{first, Careful(A{}), second, Careful(A{})};
  require_same(model, careful, {4}, rng);
  const Matrix<S> x = normal<S>(4, 5, rng);
  REQUIRE(second_derivative(model, x, rng) == second_derivative(careful, x, rng));
  // In place it has no memory of its own: what is left is the output of each Linear.
  if (!std::same_as<A, GELU<S>>) REQUIRE(activation_memory(model) < activation_memory(careful));
}

TEST_CASE("Layers of all kinds in any order compute in place what they do otherwise",
          "[nn][property]") {
  Rng rng(2);
  for (int trial = 0; trial < 60; ++trial) {
    DynamicSequential<S> model;
    DynamicSequential<S> careful;
    const auto add = [&](const auto& layer) {
      model.push_back(layer);
      careful.push_back(Careful(layer));
    };
    for (Index count = between(1, 8, rng); count > 0; --count) switch (rng.below(9)) {
        case 0:
        case 1:
          add(Linear<S>(6, 6, rng));
          break;
        case 2:
          add(ReLU<S>{});
          break;
        case 3:
          add(Tanh<S>{});
          break;
        case 4:
          add(GELU<S>{});
          break;
        case 5:
          add(Flatten<S>{});
          break;
        case 6:
          add(Dropout<S>(0.4, rng));
          break;
        case 7:
          add(UserLayer{});
          break;
        default:
          add(Unflatten<S>({6}));
      }
    INFO("trial " << trial);
    require_same(model, careful, {6}, rng);
  }
}

TEST_CASE("Networks within networks compute in place what they do otherwise", "[nn][property]") {
  Rng rng(3);
  const Linear<S> a(5, 5, rng);
  const Linear<S> b(5, 5, rng);
  const Linear<S> c(5, 5, rng);
  Sequential model{Flatten<S>{},
                   ReLU<S>{},
                   Residual(Tanh<S>{}, a, ReLU<S>{}, Flatten<S>{}),
                   Sigmoid<S>{},
                   Sequential{b, Tanh<S>{}, Flatten<S>{}},
                   ReLU<S>{},
                   Residual(ReLU<S>{}, c),
                   Tanh<S>{}};
  Sequential careful{Careful(Flatten<S>{}),
                     Careful(ReLU<S>{}),
                     Residual(Careful(Tanh<S>{}), a, Careful(ReLU<S>{}), Careful(Flatten<S>{})),
                     Careful(Sigmoid<S>{}),
                     Sequential{b, Careful(Tanh<S>{}), Careful(Flatten<S>{})},
                     Careful(ReLU<S>{}),
                     Residual(Careful(ReLU<S>{}), c),
                     Careful(Tanh<S>{})};
  require_same(model, careful, {5}, rng);
  const Matrix<S> x = normal<S>(5, 4, rng);
  REQUIRE(second_derivative(model, x, rng) == second_derivative(careful, x, rng));

  DynamicSequential<S> dynamic;
  dynamic.push_back(Residual(Tanh<S>{}, a, ReLU<S>{}));
  dynamic.push_back(ReLU<S>{});
  dynamic.push_back(Sequential{b, Tanh<S>{}});
  dynamic.push_back(Sigmoid<S>{});
  Sequential same{Residual(Careful(Tanh<S>{}), a, Careful(ReLU<S>{})), Careful(ReLU<S>{}), b,
                  Careful(Tanh<S>{}), Careful(Sigmoid<S>{})};
  require_same(dynamic, same, {5}, rng);
  REQUIRE(second_derivative(dynamic, x, rng) == second_derivative(same, x, rng));
}

TEST_CASE("A layer of a user's own has its x and y among layers in place", "[nn][gradient]") {
  Rng rng(4);
  const auto network = [](Rng& from) {
    return Sequential{Linear<S>(3, 4, from), UserLayer{},           Tanh<S>{},
                      UserLayer{},           Linear<S>(4, 4, from), ReLU<S>{},
                      UserLayer{},           Flatten<S>{},          Sigmoid<S>{},
                      Linear<S>(4, 2, from)};
  };
  test::require_battery(network(rng), {3}, 3, rng);
}

TEST_CASE("Containers of layers in place pass the battery", "[nn][gradient]") {
  Rng rng(5);
  test::require_twice_differentiable(
      Sequential{Linear<S>(3, 4, rng), Tanh<S>{}, Flatten<S>{}, Linear<S>(4, 4, rng), Sigmoid<S>{},
                 Residual(Linear<S>(4, 4, rng), Softplus<S>{}), Identity<S>{}},
      {3}, 3, rng);
  test::require_twice_differentiable(Residual(Linear<S>(4, 4, rng), Tanh<S>{}), {4}, 3, rng);
  test::require_twice_differentiable(Residual(Tanh<S>{}, Linear<S>(4, 4, rng)), {4}, 3, rng);
}

TEST_CASE("A chain leaves the input alone that a layer has for its own", "[nn][exact]") {
  Rng rng(9);
  const Sequential block{ReLU<S>{}, Flatten<S>{}, Tanh<S>{}};
  const Matrix<S> values = normal<S>(5, 4, rng);
  Matrix<S> x = values;
  Matrix<S> y(5, 4);
  decltype(block)::Scratch scratch;
  block.forward(ConstBatchView<S>({x.data(), 5, 4}, {5}), {{y.data(), 5, 4}, {5}}, scratch, {});
  REQUIRE(x == values);
  REQUIRE(y == values.cwiseMax(0).array().tanh().matrix());
}

TEST_CASE("A convolutional network keeps one activation of each convolution and no more",
          "[nn][exact]") {
  Rng rng(6);
  Sequential model{Conv2d<S>({.in_channels = 1, .out_channels = 4}, rng),
                   ReLU<S>{},
                   Conv2d<S>({.in_channels = 4, .out_channels = 8}, rng),
                   ReLU<S>{},
                   Flatten<S>{},
                   Linear<S>(8 * 16, 3, rng),
                   Tanh<S>{}};
  const Index batch = 16;  // no rounding up
  const Matrix<S> x = normal<S>(64, batch, rng);
  model.forward(x, {1, 8, 8});
  REQUIRE(activation_memory(model) == (4 * 36 + 8 * 16) * batch);
  model.backward(normal<S>(3, batch, rng));
  // Gradients at the inputs of the Linear and of the second convolution.
  const auto& flow = model.workspace().scratch.flow;
  REQUIRE(flow[0].capacity() + flow[1].capacity() == (8 * 16 + 4 * 36) * batch);
}

TEST_CASE("What a layer announced is still there after layers in place", "[nn][exact]") {
  struct Keeper : Observer<S> {
    SharedBatch<S> input;
    Matrix<S> then;
    void on_input(const std::string&, const SharedBatch<S>& announced) override {
      input = announced;
      then = announced.matrix();
    }
  };
  Rng rng(7);
  Sequential model{Linear<S>(3, 4, rng), ReLU<S>{},   Linear<S>(4, 5, rng), Tanh<S>{},
                   Linear<S>(5, 2, rng), Sigmoid<S>{}};
  std::array<Keeper, 3> keepers;
  std::size_t next = 0;
  for (auto& layer : model.layers())
    if (layer.hooks) layer.hooks->attach(keepers[next++]);
  model.forward(normal<S>(3, 4, rng));
  model.backward(normal<S>(2, 4, rng));
  for (const Keeper& keeper : keepers) REQUIRE(keeper.input.matrix() == keeper.then);
}

TEST_CASE("Activations of large batches are the same with any number of threads", "[nn][threads]") {
  Rng rng(8);
  Sequential model{Linear<S>(4, 300, rng), Tanh<S>{}, Linear<S>(300, 300, rng), GELU<S>{},
                   Linear<S>(300, 2, rng)};
  const Matrix<S> x = normal<S>(4, 100, rng);
  const std::vector<Matrix<S>> alone = results(model, x, {4}, rng);
  ThreadPool pool(2);
  const ParallelScope scope(&pool);
  REQUIRE(results(model, x, {4}, rng) == alone);
}

}  // namespace kfac::test::in_place_test
