#include <cmath>
#include <limits>

#include <kfac/scientific/metropolis.hpp>

#include "support/catch.hpp"
#include "support/message_of.hpp"
#include "support/saved_state.hpp"

namespace kfac::test::metropolis_test {

namespace {

using Sampler = MetropolisSampler<double>;

/// log |psi| of a normal density |psi|^2 around `mean` with variance `variance`.
auto gaussian(double mean, double variance) {
  return [=](const Matrix<double>& x) {
    return Vector<double>(
        (-(x.array() - mean).square().colwise().sum() / (4 * variance)).transpose());
  };
}

}  // namespace

TEST_CASE("MetropolisSampler: walkers have the moments of the density") {
  Sampler sampler({.walkers = 4000, .coordinates = 2, .moves = 5, .burn_in = 200, .spread = 3});
  double mean = 0, square = 0;
  constexpr int kSamples = 10;
  for (int i = 0; i < kSamples; ++i) {
    const Matrix<double>& x = sampler.sample(gaussian(1.5, 0.7));
    mean += x.mean() / kSamples;
    square += (x.array() - 1.5).square().mean() / kSamples;
  }
  CHECK(mean == Approx(1.5).margin(0.02));
  CHECK(square == Approx(0.7).margin(0.03));
}

TEST_CASE("MetropolisSampler: the width of moves is adapted to the acceptance") {
  const auto after = [](double width, double acceptance, double adaptation) {
    Sampler sampler({.walkers = 1000,
                     .coordinates = 3,
                     .width = width,
                     .acceptance = acceptance,
                     .adaptation = adaptation});
    for (int i = 0; i < 10; ++i) sampler.sample(gaussian(0, 1));
    return std::pair{sampler.acceptance(), sampler.width()};
  };
  for (const double width : {0.02, 20.0}) {
    CHECK(after(width, 0.5, 0.5).first == Approx(0.5).margin(0.03));
    CHECK(after(width, 0.7, 0.5).first == Approx(0.7).margin(0.03));
  }
  CHECK(after(0.02, 0.5, 0).second == 0.02);
}

TEST_CASE("MetropolisSampler: the same seed gives the same walkers, and a restored one goes on") {
  const MetropolisOptions<double> options{.walkers = 20, .coordinates = 2, .seed = 5};
  Sampler one(options), two(options);
  CHECK(one.sample(gaussian(0, 1)) == two.sample(gaussian(0, 1)));
  MetropolisOptions<double> other = options;
  other.seed = 6;
  Sampler three(other);
  CHECK(three.sample(gaussian(0, 1)) != one.walkers());
  const SavedState state(one);
  one.sample(gaussian(0, 1));
  state.restore(three);
  CHECK(three.sample(gaussian(0, 1)) == one.walkers());
  CHECK(three.width() == one.width());

  other = options;
  other.burn_in = 0;
  Sampler unburnt(other);
  CHECK(unburnt.sample(gaussian(0, 1)) != two.walkers());
  other.spread = 0;
  CHECK(Sampler(other).walkers().isZero());
  other.moves = 1;
  CHECK(Sampler(other).sample(gaussian(0, 1)).rows() == 2);
}

TEST_CASE("MetropolisSampler: no walker goes where log psi is not finite, and those there leave") {
  const auto half = [](const Matrix<double>& x) {
    return Vector<double>(x.row(0)
                              .unaryExpr([](double z) {
                                return z > 0 ? -z : std::numeric_limits<double>::quiet_NaN();
                              })
                              .transpose());
  };
  Sampler sampler({.walkers = 100, .coordinates = 1, .spread = 0.3});
  REQUIRE(sampler.walkers().minCoeff() < 0);
  CHECK(sampler.sample(half).minCoeff() > 0);
}

TEST_CASE("MetropolisSampler: what it refuses, by name") {
  const auto refused = [](const MetropolisOptions<double>& options) {
    return message_of<OptionError>([&] { Sampler wrong(options); });
  };
  CHECK(refused({.walkers = 0}) == "kfac::MetropolisSampler: 'walkers' is 0, expected >= 1");
  CHECK(refused({.coordinates = 0}) ==
        "kfac::MetropolisSampler: 'coordinates' is 0, expected >= 1");
  CHECK(refused({.moves = 0}) == "kfac::MetropolisSampler: 'moves' is 0, expected >= 1");
  CHECK(refused({.burn_in = -1}) == "kfac::MetropolisSampler: 'burn_in' is -1, expected >= 0");
  CHECK(refused({.spread = -1}) ==
        "kfac::MetropolisSampler: 'spread' is -1, expected >= 0 and finite");
  CHECK(refused({.width = 0}) == "kfac::MetropolisSampler: 'width' is 0, expected > 0 and finite");
  CHECK(refused({.acceptance = 1}) ==
        "kfac::MetropolisSampler: 'acceptance' is 1, expected in (0, 1)");
  CHECK(refused({.adaptation = -1}) ==
        "kfac::MetropolisSampler: 'adaptation' is -1, expected >= 0 and finite");
  Sampler sampler({.walkers = 3, .coordinates = 1});
  CHECK(message_of<ShapeError>([&] {
          sampler.sample(
              [](const Matrix<double>&) { return Vector<double>(Vector<double>::Zero(2)); });
        }) == "kfac::MetropolisSampler::sample: 'log_abs' has 2 values, expected 3");
}

}  // namespace kfac::test::metropolis_test
