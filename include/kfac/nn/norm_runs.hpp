#pragma once

#include <algorithm>
#include <type_traits>

#include <kfac/core/pieces.hpp>

namespace kfac::detail {

/// Consecutive entries of a batch that a normalisation treats alike.
struct NormRun {
  Index first;    ///< where they begin
  Index size;     ///< how many they are
  Index group;    ///< they share mean and variance: of this group, or of one each from this on
  Index channel;  ///< they share scale and shift: of this channel, or of one each from this on
  Index example;
};

// How batches are divided into groups, each normalised by itself, and channels, each with a scale
// and a shift. Each way offers `groups()`, `group_size()` in entries, and `for_groups` and
// `for_channels`, which call body(run) for all runs of some consecutive groups or channels.
// `kGroupEach` and `kChannelEach` say whether the entries of a run belong to one or to one each.
// `groups_at_once` and `channels_at_once` are what a thread takes, whatever the number of threads.

/// `entries` numbers are a group or channel: as many of these as make a piece of work.
inline Index runs_at_once(Index entries, Index least) {
  return std::max(kPieceSize / std::max<Index>(entries, 1), least);
}

/// Each token is a group, each of its features a channel: `features x columns`.
struct TokenRuns {
  static constexpr bool kGroupEach = false;
  static constexpr bool kChannelEach = true;
  Index features, columns;
  Index tokens;  ///< of an example

  Index groups() const { return columns; }
  Index group_size() const { return features; }
  Index channels() const { return features; }
  Index groups_at_once() const { return runs_at_once(features, 1); }
  Index channels_at_once() const { return runs_at_once(columns, 64); }

  template <class Body>
  void for_groups(Index first, Index count, Body&& body) const {
    for (Index column = first; column < first + count; ++column)
      body(NormRun{column * features, features, column, 0, column / tokens});
  }
  template <class Body>
  void for_channels(Index first, Index count, Body&& body) const {
    for (Index column = 0; column < columns; ++column)
      body(NormRun{column * features + first, count, column, first, column / tokens});
  }
};

/// Images `{channels, positions}`: the planes of some consecutive channels of an example are a
/// group (`groups_each` of them in an example), or those of a channel in all examples (0 of them).
struct PlaneRuns {
  static constexpr bool kGroupEach = false;
  static constexpr bool kChannelEach = false;
  Index examples, channel_count, positions;
  Index groups_each;

  Index groups() const { return groups_each > 0 ? groups_each * examples : channel_count; }
  Index group_size() const { return examples * channel_count * positions / groups(); }
  Index channels() const { return channel_count; }
  Index groups_at_once() const { return runs_at_once(group_size(), 1); }
  Index channels_at_once() const { return runs_at_once(examples * positions, 1); }

  template <class Body>
  void for_groups(Index first, Index count, Body&& body) const {
    if (groups_each == 0) return for_channels(first, count, body);
    const Index planes = channel_count / groups_each;
    for (Index group = first; group < first + count; ++group) {
      const Index channel = group % groups_each * planes;
      for (Index c = channel; c < channel + planes; ++c) body(plane(group / groups_each, c));
    }
  }
  template <class Body>
  void for_channels(Index first, Index count, Body&& body) const {
    for (Index c = first; c < first + count; ++c)
      for (Index n = 0; n < examples; ++n) body(plane(n, c));
  }

 private:
  NormRun plane(Index n, Index c) const {
    const Index group = groups_each > 0 ? n * groups_each + c * groups_each / channel_count : c;
    return {(n * channel_count + c) * positions, positions, group, c, n};
  }
};

/// Vectors: a feature in all examples is a group and a channel.
struct FeatureRuns {
  static constexpr bool kGroupEach = true;
  static constexpr bool kChannelEach = true;
  Index examples, features;

  Index groups() const { return features; }
  Index group_size() const { return examples; }
  Index channels() const { return features; }
  Index groups_at_once() const { return runs_at_once(examples, 64); }
  Index channels_at_once() const { return groups_at_once(); }

  template <class Body>
  void for_groups(Index first, Index count, Body&& body) const {
    for (Index n = 0; n < examples; ++n)
      body(NormRun{n * features + first, count, first, first, n});
  }
  template <class Body>
  void for_channels(Index first, Index count, Body&& body) const {
    for_groups(first, count, body);
  }
};

/// Numbers of the groups or channels of a run: one, or one for each of its entries.
template <bool Each, RealScalar S>
decltype(auto) run_values(const S* values, Index first, Index size) {
  if constexpr (Each)
    return Eigen::Map<const Eigen::Array<S, Eigen::Dynamic, 1>>(values + first, size);
  else
    return (values[first]);
}

/// Adds a run's entries to such numbers.
template <bool Each, RealScalar S, class Entries>
void add_run(S* sums, Index first, const Eigen::ArrayBase<Entries>& entries) {
  if constexpr (Each)
    Eigen::Map<Eigen::Array<S, Eigen::Dynamic, 1>>(sums + first, entries.size()) += entries;
  else
    sums[first] += entries.sum();
}

}  // namespace kfac::detail
