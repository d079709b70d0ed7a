#include <functional>
#include <utility>

#include <kfac/nn/activations.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/static_sequential.hpp>

#include "nn/support.hpp"
#include "support/message_of.hpp"

namespace kfac::test::static_sequential_test {

using kfac::test::normal;

namespace {

using S = double;
using First = Linear<S, 3, 5>;
using Second = Linear<S, 5, 2>;

auto fixed(std::uint64_t seed = 1) {
  Rng rng(seed);
  const First first(rng);
  const Second second(rng);
  return static_sequential<8>(first, Tanh<S>{}, second);
}
auto growing(std::uint64_t seed = 1) {
  Rng rng(seed);
  return Sequential{First(rng), Tanh<S>{}, Second(rng)};
}

bool is_within(const void* data, const void* begin, const void* end) {
  return std::greater_equal<>{}(data, begin) && std::less<>{}(data, end);
}

}  // namespace

TEST_CASE("A network of compile-time sizes computes what a Sequential does", "[nn][exact]") {
  Rng rng(2);
  auto model = fixed();
  auto same = growing();
  for (const Index batch : {8, 1, 5}) {
    const Matrix<S> x = normal<S>(3, batch, rng);
    const Matrix<S> gradient = normal<S>(2, batch, rng);
    const Vector<S> direction = normal<S>(model.parameter_count(), 1, rng);
    REQUIRE(model.forward(x) == same.forward(x));
    REQUIRE(model.tangent(direction) == same.tangent(direction));
    REQUIRE(model.input_gradient(gradient) == same.input_gradient(gradient));
    REQUIRE(model.gradient() == same.gradient());
    REQUIRE(model.backward_tangent(gradient, direction, 2 * gradient, model.workspace()) ==
            same.backward_tangent(gradient, direction, 2 * gradient, same.workspace()));
    // What is not contiguous goes through a copy.
    const Matrix<S> taller = normal<S>(4, batch, rng);
    model.backward(taller.topRows(2));
    same.backward(taller.topRows(2));
    REQUIRE(model.gradient() == same.gradient());
  }
}

TEST_CASE("A network of compile-time sizes has all its memory in the object", "[nn][exact]") {
  auto model = fixed();
  const Matrix<S> y = model.forward(Matrix<S>::Ones(3, 8));
  model.backward(y);
  const auto* begin = &model;
  const auto* end = begin + 1;
  REQUIRE(is_within(model.workspace().output.data(), begin, end));
  REQUIRE(is_within(model.workspace().scratch.activations.data(), begin, end));
  REQUIRE(is_within(model.workspace().scratch.flow[0].data(), begin, end));
  REQUIRE(is_within(model.gradient().data(), begin, end));
  REQUIRE(is_within(model.layer<0>().parameters().data(), begin, end));
}

TEST_CASE("A network of compile-time sizes copies and moves with what it holds", "[nn][exact]") {
  Rng rng(3);
  const Matrix<S> x = normal<S>(3, 6, rng);
  const Matrix<S> gradient = normal<S>(2, 6, rng);
  auto model = fixed();
  const Matrix<S> y = model.forward(x);
  model.backward(gradient);
  const Vector<S> expected = model.gradient();

  auto moved = std::move(model);
  moved.backward(gradient);  // of the forward pass before it was moved
  REQUIRE(moved.gradient() == expected);

  auto copy = moved;
  copy.layer<0>().parameters().setZero();
  REQUIRE(moved.forward(x) == y);
  REQUIRE(copy.forward(x) != y);
}

TEST_CASE("A network of compile-time sizes refuses a batch for which it has no room",
          "[nn][error]") {
  auto model = fixed();
  const Matrix<S> x = Matrix<S>::Ones(3, 8);
  const Matrix<S> y = model.forward(x);
  REQUIRE(message_of<ShapeError>([&] { model.forward(Matrix<S>::Ones(3, 9)); }) ==
          "kfac::Network::forward: 'x' has 27 entries, expected at most 24, for which there is "
          "room");
  model.backward(Matrix<S>::Ones(2, 8));  // of the pass before
  REQUIRE(model.gradient().allFinite());
  REQUIRE(model.forward(x) == y);
}

TEST_CASE("A network of compile-time sizes takes tokens, as many as examples", "[nn][exact]") {
  Rng rng(4);
  auto model = fixed();
  auto same = growing();
  const Matrix<S> x = normal<S>(4 * 3, 2, rng);
  REQUIRE(model.forward(x, {4, 3}) == same.forward(x, {4, 3}));
  REQUIRE_THROWS_AS(model.forward(normal<S>(4 * 3, 3, rng), {4, 3}), ShapeError);
}

TEST_CASE("A network of compile-time sizes passes the battery of layers", "[nn][gradient]") {
  Rng rng(5);
  test::require_twice_differentiable(fixed(), {3}, 4, rng);
}

TEST_CASE("Small products of all compile-time sizes are those of run-time sizes", "[nn][exact]") {
  Rng rng(6);
  const auto check = [&](auto layer) {
    const Index inputs = layer.inputs();
    const Index outputs = layer.outputs();
    Rng unused(1);
    Linear<S> same(inputs, outputs, unused, {.bias = layer.has_bias()});
    same.parameters() = layer.parameters();
    Sequential actual{layer};
    Sequential expected{same};
    for (const Index batch : {1, 7}) {
      const Matrix<S> x = normal<S>(inputs, batch, rng);
      const Matrix<S> gradient = normal<S>(outputs, batch, rng);
      REQUIRE(error_of(actual.forward(x), expected.forward(x)) < 1e-14);
      REQUIRE(error_of(actual.input_gradient(gradient), expected.input_gradient(gradient)) < 1e-14);
      REQUIRE(error_of(actual.gradient(), expected.gradient()) < 1e-14);
    }
    test::require_twice_differentiable(layer, {inputs}, 3, rng);
  };
  check(Linear<S, 1, 1>(rng));
  check(Linear<S, 1, 4>(rng));
  check(Linear<S, 4, 1>(rng));
  check(Linear<S, 4, 1>(rng, {.bias = false}));
  check(Linear<S, 2, 7>(rng));
  check(Linear<S, 7, 2>(rng, {.bias = false}));
  check(Linear<S, 5, 5>(rng));
  check(Linear<S, 12, 13>(rng));  // no longer small
}

}  // namespace kfac::test::static_sequential_test
