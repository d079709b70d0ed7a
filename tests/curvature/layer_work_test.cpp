#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

#include <kfac/curvature/layer_work.hpp>

#include "support/catch.hpp"

namespace kfac::test::layer_work_test {

namespace {

using detail::LayerWork;

bool at_the_same_time(const std::vector<double>& costs) {
  return LayerWork(costs).at_the_same_time([](std::size_t) { return true; });
}

}  // namespace

TEST_CASE("LayerWork: layers are worked on at the same time where that occupies the threads") {
  ThreadPool pool(1);
  CHECK_FALSE(at_the_same_time({1e6, 1e6}));  // there are no threads
  const ParallelScope parallel(&pool);
  CHECK(at_the_same_time({1e6, 1e6}));
  CHECK(at_the_same_time({1e6, 1e6, 1e6, 1e6, 1e6}));  // 5 in the time of 3, by two
  CHECK_FALSE(at_the_same_time({1e6, 1e6, 1e6}));      // 3 in the time of 2
  CHECK(at_the_same_time({1e6, 1e6, 2e6}));            // the heaviest goes first
  CHECK_FALSE(at_the_same_time({1e6, 1e5, 1e5}));
  CHECK_FALSE(at_the_same_time({1e6}));
  CHECK_FALSE(at_the_same_time({}));
  CHECK_FALSE(at_the_same_time({1e4, 1e4}));  // in microseconds
  CHECK(at_the_same_time(std::vector<double>(100, 1e4)));

  ThreadPool three(2);
  const ParallelScope inner(&three);
  CHECK(at_the_same_time({1e6, 1e6, 1e6}));
  CHECK_FALSE(at_the_same_time({1e6, 1e6}));
}

TEST_CASE("LayerWork: only the layers that are wanted count, and only these are worked on") {
  ThreadPool pool(1);
  const ParallelScope parallel(&pool);
  const LayerWork work({1e6, 9e6, 1e6, 1.0, 1e6, 1e6});
  std::vector<int> calls(6);
  const auto wanted = [](std::size_t layer) { return layer % 2 == 0 || layer == 5; };
  CHECK(work.at_the_same_time(wanted));
  work.for_each(wanted, [&](std::size_t layer) { ++calls[layer]; });
  CHECK(calls == std::vector<int>{1, 0, 1, 0, 1, 1});
  CHECK_FALSE(work.at_the_same_time([](std::size_t) { return true; }));
  work.for_each([&](std::size_t layer) { ++calls[layer]; });
  CHECK(calls == std::vector<int>{2, 1, 2, 1, 2, 2});
}

TEST_CASE("LayerWork: at the same time, kernels of one layer keep to one thread, else they do not",
          "[threads]") {
  ThreadPool pool(1);
  const ParallelScope parallel(&pool);
  std::atomic<int> begun = 0;
  std::atomic<Index> most = 0;
  LayerWork({1e6, 1e6}).for_each([&](std::size_t) {
    ++begun;
    while (begun < 2) std::this_thread::yield();  // for the other
    if (detail::parallelism() > most) most = detail::parallelism();
  });
  CHECK(most == 1);
  std::vector<std::size_t> order;
  LayerWork({1e5, 9e6}).for_each([&](std::size_t layer) {
    order.push_back(layer);
    CHECK(detail::parallelism() == 2);
  });
  CHECK(order == std::vector<std::size_t>{0, 1});
}

TEST_CASE("LayerWork: what is thrown arrives, with and without threads") {
  ThreadPool pool(1);
  const LayerWork work({1e6, 1e6});
  const auto fails = [](std::size_t layer) {
    if (layer == 1) throw std::runtime_error("layer 1");
  };
  CHECK_THROWS_AS(work.for_each(fails), std::runtime_error);
  const ParallelScope parallel(&pool);
  CHECK_THROWS_AS(work.for_each(fails), std::runtime_error);
}

}  // namespace kfac::test::layer_work_test
