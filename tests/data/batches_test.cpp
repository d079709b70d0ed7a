#include <type_traits>
#include <vector>

#include <kfac/data/batches.hpp>

#include "support/catch.hpp"

using kfac::Index;

namespace {

/// Example n is the number n, with label n.
kfac::Dataset<float> numbered(Index examples) {
  kfac::Dataset<float> data{kfac::Matrix<float>(1, examples), kfac::Labels(examples)};
  for (Index n = 0; n < examples; ++n) {
    data.inputs(0, n) = static_cast<float>(n);
    data.targets(n) = static_cast<int>(n);
  }
  return data;
}

std::vector<int> order(const kfac::Dataset<float>& data, Index batch_size, kfac::Rng& rng) {
  std::vector<int> labels;
  for (const auto& [x, y] : kfac::batches(data, batch_size, rng))
    labels.insert(labels.end(), y.begin(), y.end());
  return labels;
}

}  // namespace

TEST_CASE("batches: one pass has every example once, with its target", "[data]") {
  const auto data = numbered(10);
  kfac::Rng rng(3);
  std::vector<Index> sizes;
  std::vector<int> seen(10);
  for (const auto& [x, y] : kfac::batches(data, 4, rng)) {
    REQUIRE(x.cols() == y.size());
    CHECK(x.row(0).transpose() == y.cast<float>());
    sizes.push_back(y.size());
    for (const int label : y) ++seen[static_cast<std::size_t>(label)];
  }
  CHECK(sizes == std::vector<Index>{4, 4, 2});
  CHECK(seen == std::vector<int>(10, 1));
}

TEST_CASE("batches: a batch may hold all of the data, or be asked to hold more", "[data]") {
  const auto data = numbered(5);
  const Index batch_size = GENERATE(5, 8);
  kfac::Rng rng(3);
  auto pass = kfac::batches(data, batch_size, rng);
  CHECK(pass.size() == 1);
  for (const auto& [x, y] : pass) CHECK(x.cols() == 5);
}

TEST_CASE("batches: size counts the batches", "[data]") {
  const auto data = numbered(10);
  kfac::Rng rng(3);
  CHECK(kfac::batches(data, 5, rng).size() == 2);
  CHECK(kfac::batches(data, 4, rng).size() == 3);
}

TEST_CASE("batches: every pass has an order of its own, decided by the seed", "[data]") {
  const auto data = numbered(50);
  kfac::Rng first(3);
  kfac::Rng second(3);
  const auto pass = order(data, 7, first);
  CHECK(pass == order(data, 7, second));
  CHECK(pass != order(data, 7, first));
}

TEST_CASE("batches: all batches share one memory", "[data]") {
  const auto data = numbered(12);
  kfac::Rng rng(3);
  auto pass = kfac::batches(data, 4, rng);
  const float* memory = (*pass.begin()).inputs.data();
  for (const auto& [x, y] : pass) CHECK(x.data() == memory);
}

TEST_CASE("batches: matrix targets stay with their examples", "[data]") {
  const kfac::Matrix<double> values = kfac::Matrix<double>::Random(3, 7);
  const kfac::Dataset<double, kfac::Matrix<double>> data{values, -values};
  kfac::Rng rng(3);
  for (const auto& [x, y] : kfac::batches(data, 3, rng)) CHECK(y == -x);
}

TEST_CASE("batches: misuse is named", "[data][error]") {
  kfac::Rng rng(3);
  const auto data = numbered(4);
  CHECK_THROWS_WITH(kfac::batches(data, 0, rng), "kfac::batches: 'batch_size' is 0, expected >= 1");
  const auto empty = numbered(0);
  CHECK_THROWS_WITH(kfac::batches(empty, 2, rng), "kfac::batches: 'data' has no examples");
}

template <class Data>
concept Batchable = requires(Data&& data, kfac::Rng& rng) {
  kfac::batches(std::forward<Data>(data), 4, rng);
};
static_assert(Batchable<const kfac::Dataset<float>&>);
static_assert(!Batchable<kfac::Dataset<float>>, "a temporary dataset would dangle");
