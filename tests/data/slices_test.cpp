#include <kfac/data/slices.hpp>

#include "support/catch.hpp"
#include "support/random.hpp"

using namespace kfac;
using kfac::test::normal;

TEST_CASE("slices covers the data in order, without a copy", "[data][exact]") {
  Rng rng(1);
  const Dataset<double> data{normal<double>(3, 7, rng), Labels::LinSpaced(7, 0, 6)};
  const auto parts = slices(data, 3);
  REQUIRE(parts.size() == 3);
  const Index counts[] = {3, 3, 1};
  Index first = 0;
  for (std::size_t i = 0; i < 3; ++i) {
    REQUIRE(parts[i].inputs.data() == data.inputs.col(first).data());
    REQUIRE(parts[i].inputs == data.inputs.middleCols(first, counts[i]));
    REQUIRE(parts[i].targets == data.targets.segment(first, counts[i]));
    REQUIRE(parts[i].shape == Shape{3});
    first += counts[i];
  }
}

TEST_CASE("slices takes matrix targets and a shape", "[data][exact]") {
  Rng rng(2);
  const Dataset<float, Matrix<float>> data{normal<float>(6, 4, rng), normal<float>(2, 4, rng)};
  const auto parts = slices(data, 3, {2, 3});
  REQUIRE(parts.size() == 2);
  REQUIRE(parts[1].targets == data.targets.rightCols(1));
  REQUIRE(parts[1].shape == Shape{2, 3});
}

TEST_CASE("A Slice refers to matrices of one's own", "[data][exact]") {
  Rng rng(3);
  const Matrix<double> x = normal<double>(6, 4, rng);
  const Labels y = Labels::Ones(4);
  const Slice plain(x, y);
  REQUIRE(plain.inputs.data() == x.data());
  REQUIRE(plain.targets.data() == y.data());
  REQUIRE(plain.shape == Shape{6});
  REQUIRE(Slice(x, y, {2, 3}).shape == Shape{2, 3});
}

TEST_CASE("slices names what does not fit", "[data][error]") {
  Rng rng(4);
  const Dataset<double> data{normal<double>(3, 7, rng), Labels::Zero(7)};
  REQUIRE_THROWS_WITH(slices(data, 0), "kfac::slices: 'size' is 0, expected >= 1");
  REQUIRE_THROWS_AS(slices(data, 0), OptionError);
  REQUIRE_THROWS_WITH(slices(data, 2, {2, 2}), "kfac::slices: 'data' has 3 features, expected 4");
  const Dataset<double> empty{Matrix<double>(3, 0), Labels(0)};
  REQUIRE_THROWS_WITH(slices(empty, 2), "kfac::slices: 'data' has no examples");
  const Dataset<double> uneven{data.inputs, Labels::Zero(6)};
  REQUIRE_THROWS_WITH(slices(uneven, 2), "kfac::slices: 'data' has 6 targets, expected 7");
}
