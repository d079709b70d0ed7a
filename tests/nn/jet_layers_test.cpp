#include <kfac/nn/jet_layers.hpp>
#include <kfac/testing/layer_battery.hpp>

#include "support/catch.hpp"

namespace kfac::test::jet_layers_test {

using kfac::testing::check_layer;
using kfac::testing::LayerCheck;

namespace {

template <class L>
void check(L layer, Index features, const JetSlots<double>& slots, Rng& rng) {
  const LayerCheck result = check_layer(layer, Shape{slots.count(), features}, 3, rng);
  CAPTURE(result.report());
  CHECK(result.passes(1e-7));
}

}  // namespace

TEST_CASE("Jet layers: pass the battery that every layer passes") {
  Rng rng(1);
  const JetSlots<double> slots{Matrix<double>{{1, 0, 2}, {0.5, 1, 0}},
                               Matrix<double>{{1, 0, -1}, {0.3, 2, 0}}};
  Linear<double> linear(4, 3, rng);
  Linear<double> unbiased(4, 3, rng, {.bias = false});
  check(jet_layer(linear, slots), 4, slots, rng);
  check(jet_layer(unbiased, slots), 4, slots, rng);
  Tanh<double> tanh;
  check(jet_layer(tanh, slots), 4, slots, rng);
}

TEST_CASE("JetActivation: many features and examples, as few at once") {
  Rng rng(2);
  const JetSlots<double> slots = JetSlots<double>::laplacian(2);
  Tanh<double> tanh;
  const auto layer = jet_layer(tanh, slots);
  typename JetActivation<double, detail::TanhFunction>::Scratch scratch;
  const auto pass = [&](const Matrix<double>& x, Index features) {
    Matrix<double> y(x.rows(), x.cols());
    const Shape shape{slots.count(), features};
    layer.forward({{x.data(), x.rows(), x.cols()}, shape}, {{y.data(), y.rows(), y.cols()}, shape},
                  scratch, {});
    return y;
  };
  Matrix<double> x(4 * 300, 40);
  rng.fill_normal(x);
  const Matrix<double> all = pass(x, 300);
  for (const Index n : {0, 39}) {
    const Matrix<double> table = x.col(n).reshaped(300, 4);
    for (const Index k : {0, 255, 256, 299}) {
      const Matrix<double> one = pass(table.row(k).transpose(), 1);
      CHECK((one - Matrix<double>(all.col(n).reshaped(300, 4)).row(k).transpose()).norm() < 1e-14);
    }
  }
}

}  // namespace kfac::test::jet_layers_test
