#include <limits>
#include <string>

#include <kfac/data/two_moons.hpp>

#include "support/catch.hpp"

using kfac::Index;

TEMPLATE_TEST_CASE("two_moons: without noise every example lies on its half circle", "[data]",
                   float, double) {
  using S = TestType;
  kfac::Rng rng(1);
  const auto moons = kfac::datasets::two_moons<S>({.examples = 101, .noise = S(0)}, rng);
  REQUIRE(moons.examples() == 101);
  REQUIRE(moons.inputs.rows() == 2);

  const Eigen::Matrix<S, 2, 1> centers[] = {{S(0), S(0)}, {S(1), S(0.5)}};
  for (Index n = 0; n < moons.examples(); ++n) {
    const int label = moons.targets(n);
    REQUIRE(label == (n < 50 ? 0 : 1));
    const Eigen::Matrix<S, 2, 1> from_center = moons.inputs.col(n) - centers[label];
    CHECK(from_center.norm() == Approx(1).epsilon(1e-6));
    if (label == 0)
      CHECK(from_center(1) >= S(-1e-6));
    else
      CHECK(from_center(1) <= S(1e-6));
  }
}

TEST_CASE("two_moons: the ends of the moons are those of make_moons", "[data][exact]") {
  kfac::Rng rng(1);
  const auto moons = kfac::datasets::two_moons<double>({.examples = 6, .noise = 0}, rng);
  kfac::Matrix<double> expected(2, 6);
  expected << 1, 0, -1, 0, 1, 2,  //
      0, 1, 0, 0.5, -0.5, 0.5;
  CHECK(moons.inputs.isApprox(expected, 1e-12));
}

TEST_CASE("two_moons: the noise has the standard deviation asked for", "[data]") {
  const Index examples = 20000;
  kfac::Rng quiet(3);
  kfac::Rng noisy(3);
  const auto clean = kfac::datasets::two_moons<double>({.examples = examples, .noise = 0}, quiet);
  const auto moons = kfac::datasets::two_moons<double>({.examples = examples, .noise = 0.2}, noisy);
  const kfac::Matrix<double> noise = moons.inputs - clean.inputs;
  CHECK(noise.mean() == Approx(0).margin(0.005));
  CHECK(std::sqrt(noise.array().square().mean()) == Approx(0.2).epsilon(0.02));
}

TEST_CASE("two_moons: the same seed gives the same bits, another seed others", "[data]") {
  const auto draw = [](std::uint64_t seed) {
    kfac::Rng rng(seed);
    return kfac::datasets::two_moons<float>({}, rng).inputs;
  };
  CHECK(draw(7) == draw(7));
  CHECK(draw(7) != draw(8));
}

TEST_CASE("two_moons: options out of range are named", "[data][error]") {
  kfac::Rng rng(1);
  CHECK_THROWS_WITH(kfac::datasets::two_moons<float>({.examples = 1}, rng),
                    "kfac::datasets::two_moons: 'examples' is 1, expected >= 2");
  CHECK_THROWS_WITH(kfac::datasets::two_moons<double>({.noise = -0.5}, rng),
                    "kfac::datasets::two_moons: 'noise' is -0.5, expected a finite number >= 0");
  CHECK_THROWS_AS(
      kfac::datasets::two_moons<double>({.noise = std::numeric_limits<double>::infinity()}, rng),
      kfac::OptionError);
}
