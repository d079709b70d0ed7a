#pragma once

#include <cmath>
#include <numbers>

#include <kfac/data/dataset.hpp>

namespace kfac {

template <RealScalar S>
struct TwoMoonsOptions {
  Index examples = 400;  ///< of both moons together, at least 2
  S noise =
      S(0.12);  ///< standard deviation added to each coordinate, >= 0; the moons have radius 1
};

namespace datasets {

/// Two interleaving half circles in the plane, as scikit-learn's make_moons places them: class 0 is
/// the upper half of the unit circle, class 1 the lower half of the unit circle around (1, 0.5).
/// Each has half of the examples (class 1 the odd one), evenly spaced from end to end before the
/// noise, first all of class 0, then all of class 1.
/// \throws OptionError if an option is out of range
template <RealScalar S>
Dataset<S> two_moons(const TwoMoonsOptions<S>& options, Rng& rng) {
  static constexpr const char* kWhere = "kfac::datasets::two_moons";
  detail::check_option(options.examples >= 2, kWhere, "examples", options.examples, ">= 2");
  detail::check_option(options.noise >= 0 && std::isfinite(options.noise), kWhere, "noise",
                       options.noise, "a finite number >= 0");

  Dataset<S> moons{Matrix<S>(2, options.examples), Labels(options.examples)};
  const Index outer = options.examples / 2;
  const auto angle = [](Index i, Index count) {
    return count == 1 ? 0.0
                      : std::numbers::pi * static_cast<double>(i) / static_cast<double>(count - 1);
  };
  for (Index i = 0; i < options.examples; ++i) {
    const bool is_outer = i < outer;
    const double at = is_outer ? angle(i, outer) : angle(i - outer, options.examples - outer);
    const double x = is_outer ? std::cos(at) : 1.0 - std::cos(at);
    const double y = is_outer ? std::sin(at) : 0.5 - std::sin(at);
    const auto noise = static_cast<double>(options.noise);
    moons.inputs(0, i) = static_cast<S>(x + noise * rng.normal());
    moons.inputs(1, i) = static_cast<S>(y + noise * rng.normal());
    moons.targets(i) = is_outer ? 0 : 1;
  }
  return moons;
}

}  // namespace datasets
}  // namespace kfac
