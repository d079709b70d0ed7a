#pragma once

#include <kfac/core/random.hpp>
#include <kfac/nn/layer.hpp>
#include <kfac/testing/layer_battery.hpp>
#include <kfac/testing/relative_error.hpp>

#include "support/catch.hpp"
#include "support/random.hpp"

namespace kfac::test {

/// A random number from low to high, both included.
inline Index between(Index low, Index high, Rng& rng) {
  return low + rng.below(high - low + 1);
}

template <class A, class B>
double error_of(const Eigen::MatrixBase<A>& actual, const Eigen::MatrixBase<B>& expected) {
  return testing::relative_error(actual, expected);
}

/// Runs the battery in double and requires it to pass.
template <Layer L>
testing::LayerCheck require_battery(const L& layer, const Shape& shape, Index batch, Rng& rng) {
  const testing::LayerCheck check = testing::check_layer(layer, shape, batch, rng);
  INFO("input " << shape.to_string() << ", batch " << batch << '\n' << check.report());
  REQUIRE(check.passes(1e-7));
  return check;
}

/// The same for a layer that has second derivatives too.
template <Layer L>
testing::LayerCheck require_twice_differentiable(const L& layer, const Shape& shape, Index batch,
                                                 Rng& rng) {
  const testing::LayerCheck check = require_battery(layer, shape, batch, rng);
  REQUIRE(check.backward_tangent.has_value());
  return check;
}

}  // namespace kfac::test
