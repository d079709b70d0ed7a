#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include <kfac/core/errors.hpp>

namespace kfac {

/// How much to prune: the same threshold for all layers, so that those which matter less lose more.
struct SelectionOptions {
  double ratio = 0.5;  ///< of all that can be pruned, in [0, 1)
  /// The most that one layer may lose, in [ratio, 1]: a threshold alone can empty one.
  double layer_limit = 0.95;

  void validate(const char* where) const {
    detail::check_option(ratio >= 0 && ratio < 1, where, "ratio", ratio, "0 <= ratio < 1");
    detail::check_option(layer_limit >= ratio && layer_limit <= 1, where, "layer_limit",
                         layer_limit, "ratio <= layer_limit <= 1");
  }
};

namespace detail {

/// A product that is a whole number but for round-off, as that number.
inline Index whole_part(double product) {
  return static_cast<Index>(std::floor(product + 1e-9));
}

/// The indices of the smallest scores of several layers, ascending: `ratio` of all that are finite
/// or -infinity, fewer if the layers' limits do not allow it. Each layer keeps `at_least`. Of equal
/// scores those of the first layer and index go first.
template <class Scores>
std::vector<std::vector<Index>> select_smallest(const std::vector<Scores>& scores,
                                                const SelectionOptions& options,
                                                Index at_least = 0) {
  struct Candidate {
    double score;
    std::size_t layer;
    Index index;
  };
  std::vector<Candidate> candidates;
  std::vector<Index> room;
  for (std::size_t layer = 0; layer < scores.size(); ++layer) {
    Index size = 0;
    for (Index i = 0; i < scores[layer].size(); ++i) {
      const auto score = static_cast<double>(scores[layer](i));
      if (!(score < std::numeric_limits<double>::infinity())) continue;
      candidates.push_back({score, layer, i});
      ++size;
    }
    const Index limit = whole_part(options.layer_limit * static_cast<double>(size));
    room.push_back(std::max<Index>(0, std::min(limit, size - at_least)));
  }
  Index wanted = whole_part(options.ratio * static_cast<double>(candidates.size()));
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const Candidate& a, const Candidate& b) { return a.score < b.score; });
  std::vector<std::vector<Index>> chosen(scores.size());
  for (const Candidate& candidate : candidates) {
    if (wanted == 0) break;
    if (room[candidate.layer] == 0) continue;
    --room[candidate.layer];
    --wanted;
    chosen[candidate.layer].push_back(candidate.index);
  }
  for (std::vector<Index>& layer : chosen) std::sort(layer.begin(), layer.end());
  return chosen;
}

/// The indices 0, ..., size - 1 that are not among `others`, which are ascending.
inline std::vector<Index> all_but(const std::vector<Index>& others, Index size) {
  std::vector<Index> result;
  std::size_t next = 0;
  for (Index i = 0; i < size; ++i) {
    if (next < others.size() && others[next] == i)
      ++next;
    else
      result.push_back(i);
  }
  return result;
}

}  // namespace detail
}  // namespace kfac
