#include <kfac/nn/activations.hpp>
#include <kfac/nn/dropout.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/repeat.hpp>
#include <kfac/nn/residual.hpp>
#include <kfac/testing/layer_battery.hpp>

#include "support/catch.hpp"
#include "support/message_of.hpp"
#include "support/random.hpp"

namespace kfac::test::repeat_test {

using testing::check_layer;
using testing::relative_error;

TEMPLATE_TEST_CASE("Repeat: passes the battery", "[nn][property]", float, double) {
  using S = TestType;
  const double tolerance = std::same_as<S, float> ? 2e-2 : 1e-7;
  for (std::uint64_t seed = 0; seed < 6; ++seed) {
    Rng rng(seed);
    const Index width = 1 + rng.below(4);
    const Index times = 1 + rng.below(3);
    const testing::LayerCheck check =
        check_layer(Repeat{times, Linear<S>(width, width, rng), Tanh<S>{},
                           Residual(Linear<S>(width, width, rng, {.bias = false}), Tanh<S>{})},
                    {1 + rng.below(3), width}, 1 + rng.below(3), rng);
    INFO(check.report());
    CHECK(check.passes(tolerance));
  }
}

TEST_CASE("Repeat: is the layers one after another with the same parameters", "[nn][exact]") {
  Rng rng(1);
  const Linear<double> linear(3, 3, rng);
  const Matrix<double> x = normal<double>(3, 5, rng), g = normal<double>(3, 5, rng);
  Sequential tied{Repeat{3, linear, Tanh<double>{}}};
  Sequential untied{linear, Tanh<double>{}, linear, Tanh<double>{}, linear, Tanh<double>{}};
  CHECK(relative_error(tied.forward(x), untied.forward(x)) < 1e-15);
  CHECK(relative_error(tied.input_gradient(g), untied.input_gradient(g)) < 1e-14);
  Vector<double> sum = Vector<double>::Zero(tied.parameter_count());
  for (const auto& layer : untied.layers())
    if (layer.gradient.size() > 0) sum += layer.gradient;
  CHECK(relative_error(tied.gradient(), sum) < 1e-14);
}

TEST_CASE("Repeat: each use has its own random numbers", "[nn]") {
  Rng rng(2);
  Sequential model{Repeat{2, Dropout<double>(0.5, rng)}};
  const Matrix<double> y = model.forward(Matrix<double>::Ones(200, 1));
  // Kept by one use and dropped by the other, or twice the same: 0 or 4, never only 0 and 2.
  CHECK((y.array() == 4.0).count() > 20);
  CHECK((y.array() == 0.0).count() > 100);
}

TEST_CASE("Repeat: says what is wrong", "[nn][errors]") {
  Rng rng(3);
  CHECK(message_of<OptionError>([&] { Repeat(0, Linear<double>(2, 2, rng)); }) ==
        "kfac::Repeat: 'times' is 0, expected >= 1");
  Sequential model{Tanh<double>{}, Repeat{2, Linear<double>(2, 3, rng)}};
  CHECK(message_of<ShapeError>([&] { model.forward(Matrix<double>::Ones(2, 1)); }) ==
        "kfac::Repeat: the layers' output has shape 3, expected that of their input, 2 (layer "
        "'1')");
}

}  // namespace kfac::test::repeat_test
