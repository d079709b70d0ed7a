#include <vector>

#include <kfac/data/dataset.hpp>

#include "support/catch.hpp"

using kfac::Index;

namespace {

/// Example n is the vector (n, -n) with label n.
kfac::Dataset<double> numbered(Index examples) {
  kfac::Dataset<double> data{kfac::Matrix<double>(2, examples), kfac::Labels(examples)};
  for (Index n = 0; n < examples; ++n) {
    data.inputs.col(n) << static_cast<double>(n), -static_cast<double>(n);
    data.targets(n) = static_cast<int>(n);
  }
  return data;
}

}  // namespace

TEST_CASE("split: the parts hold every example once, with its target", "[data]") {
  kfac::Rng rng(5);
  const auto [first, second] = kfac::split(numbered(10), 0.7, rng);
  REQUIRE(first.examples() == 7);
  REQUIRE(second.examples() == 3);

  std::vector<int> seen(10);
  for (const auto* part : {&first, &second})
    for (Index n = 0; n < part->examples(); ++n) {
      CHECK(part->inputs(0, n) == part->targets(n));
      CHECK(part->inputs(1, n) == -part->targets(n));
      ++seen[static_cast<std::size_t>(part->targets(n))];
    }
  CHECK(seen == std::vector<int>(10, 1));
}

TEST_CASE("split: matrix targets stay with their examples", "[data]") {
  const kfac::Matrix<float> values = kfac::Matrix<float>::Random(3, 9);
  kfac::Rng rng(5);
  const auto [first, second] =
      kfac::split(kfac::Dataset<float, kfac::Matrix<float>>{values, 2 * values}, 0.5, rng);
  CHECK(first.targets == 2 * first.inputs);
  CHECK(second.targets == 2 * second.inputs);
  CHECK(first.examples() + second.examples() == 9);
}

TEST_CASE("split: the seed decides", "[data]") {
  const auto labels = [](std::uint64_t seed) {
    kfac::Rng rng(seed);
    return kfac::split(numbered(20), 0.5, rng).first.targets;
  };
  CHECK(labels(1) == labels(1));
  CHECK(labels(1) != labels(2));
}

TEST_CASE("split: misuse is named", "[data][error]") {
  kfac::Rng rng(1);
  CHECK_THROWS_WITH(kfac::split(numbered(10), 1.0, rng),
                    "kfac::split: 'fraction' is 1, expected 0 < fraction < 1");
  CHECK_THROWS_WITH(kfac::split(numbered(2), 0.1, rng),
                    "kfac::split: 'data' has 2 examples, too few for two parts");
  CHECK_THROWS_WITH(kfac::split(numbered(0), 0.5, rng), "kfac::split: 'data' has no examples");

  auto short_of_labels = numbered(4);
  short_of_labels.targets.conservativeResize(3);
  CHECK_THROWS_WITH(kfac::split(short_of_labels, 0.5, rng),
                    "kfac::split: 'data' has 3 targets, expected 4");
}
