#include <kfac/nn/activations.hpp>
#include <kfac/nn/conv.hpp>
#include <kfac/nn/flatten.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/siamese.hpp>
#include <kfac/testing/layer_battery.hpp>

#include "support/catch.hpp"
#include "support/message_of.hpp"
#include "support/random.hpp"

namespace kfac::test::siamese_test {

using testing::check_layer;
using testing::relative_error;

TEMPLATE_TEST_CASE("Siamese: passes the battery", "[nn][property]", float, double) {
  using S = TestType;
  const double tolerance = std::same_as<S, float> ? 2e-2 : 1e-7;
  for (std::uint64_t seed = 0; seed < 6; ++seed) {
    Rng rng(seed);
    const Index branches = 1 + rng.below(3);
    const Index width = 1 + rng.below(3);
    const Index batch = 1 + rng.below(3);
    const testing::LayerCheck vectors =
        check_layer(Siamese{branches, Linear<S>(width, 2, rng), Tanh<S>{}, Linear<S>(2, 3, rng)},
                    {branches, width}, batch, rng);
    INFO(vectors.report());
    CHECK(vectors.passes(tolerance));
    const testing::LayerCheck images = check_layer(
        Siamese{branches, Conv2d<S>({.out_channels = 2, .kernel_size = {2, 2}}, rng), Tanh<S>{}},
        {branches, 1, 3, 2 + rng.below(2)}, batch, rng);
    INFO(images.report());
    CHECK(images.passes(tolerance));
  }
}

TEST_CASE("Siamese: applies its layers to each part", "[nn][exact]") {
  Rng rng(1);
  const Linear<double> linear(3, 2, rng);
  Sequential both{Siamese{2, linear, Tanh<double>{}}};
  Sequential one{linear, Tanh<double>{}};
  const Matrix<double> x = normal<double>(6, 4, rng);
  const Matrix<double> y = both.forward(x, {2, 3});
  CHECK(both.output_shape({2, 3}) == Shape{2, 2});
  CHECK(relative_error(y.topRows(2), one.forward(x.topRows(3))) < 1e-15);
  CHECK(relative_error(y.bottomRows(2), one.forward(x.bottomRows(3))) < 1e-15);
}

TEST_CASE("Siamese: says what is wrong", "[nn][errors]") {
  Rng rng(2);
  CHECK(message_of<OptionError>([&] { Siamese(0, Tanh<double>{}); }) ==
        "kfac::Siamese: 'branches' is 0, expected >= 1");
  Sequential model{Siamese{2, Linear<double>(3, 2, rng)}};
  CHECK(message_of<ShapeError>([&] {
          model.forward(Matrix<double>::Ones(9, 1), {3, 3});
        }) ==
        "kfac::Siamese: 'input' has shape 3x3, expected 2 branches on the first of several axes "
        "(layer '0')");
  const PositionMask mask = PositionMask::Constant(2, 1, true);
  model.set_mask(&mask);
  CHECK(message_of<StateError>([&] {
          model.forward(Matrix<double>::Ones(6, 1), {2, 3});
        }) == "kfac::Siamese: a mask is set, expected none: give parts of equal lengths");
}

}  // namespace kfac::test::siamese_test
