#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <numeric>
#include <utility>
#include <vector>

#include <kfac/core/parallel.hpp>

namespace kfac::detail {

/// One kind of work on the layers of a network, by what it costs for each (about a nanosecond's
/// work is 1), and how the threads of the `ParallelScope` share it: layers at the same time,
/// heaviest first, where that occupies the threads evenly; else one layer after another, which
/// leaves the threads to the kernels. What is done in microseconds stays with the thread it is on.
class LayerWork {
 public:
  explicit LayerWork(std::vector<double> costs) : costs_(std::move(costs)), order_(costs_.size()) {
    std::iota(order_.begin(), order_.end(), std::size_t(0));
    std::stable_sort(order_.begin(), order_.end(),
                     [this](std::size_t a, std::size_t b) { return costs_[a] > costs_[b]; });
  }

  std::size_t layers() const { return costs_.size(); }

  /// Calls `body(layer index)` for every layer that is `wanted(layer index)`, which must not depend
  /// on other layers' bodies. What a body throws is thrown here; other layers may be left out then.
  template <class Wanted, class Body>
  void for_each(Wanted&& wanted, Body&& body) const {
    if (at_the_same_time(wanted)) {
      parallel_for(static_cast<Index>(order_.size()), [&](Index part) {
        const std::size_t layer = order_[static_cast<std::size_t>(part)];
        if (wanted(layer)) body(layer);
      });
    } else {
      for (std::size_t layer = 0; layer < costs_.size(); ++layer)
        if (wanted(layer)) body(layer);
    }
  }
  template <class Body>
  void for_each(Body&& body) const {
    for_each([](std::size_t) { return true; }, body);
  }

  /// Whether that is how `for_each` would share the layers that are wanted.
  template <class Wanted>
  bool at_the_same_time(Wanted&& wanted) const {
    // Below it a fork costs more than it gains. And kernels that split themselves occupy some four
    // fifths of the threads, so that layers need not do better.
    static constexpr double kLeastWork = 50e3;
    static constexpr double kLeastOccupied = 0.8;
    const Index threads = parallelism();
    if (threads < 2) return false;
    std::array<double, 64> busy{};
    const auto end = busy.begin() + std::min<Index>(threads, busy.size());
    double total = 0;
    for (const std::size_t layer : order_) {
      if (!wanted(layer)) continue;
      *std::min_element(busy.begin(), end) += costs_[layer];
      total += costs_[layer];
    }
    const double longest = *std::max_element(busy.begin(), end);
    return total >= kLeastWork &&
           total >= kLeastOccupied * longest * static_cast<double>(end - busy.begin());
  }

 private:
  std::vector<double> costs_;
  std::vector<std::size_t> order_;
};

}  // namespace kfac::detail
