#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <vector>

#include <kfac/linalg/window_plan.hpp>

namespace kfac::linalg::detail {

/// The points of a convolution's result (places of the window, or pixels for the adjoint map), by
/// which of the window's entries count there: those that lie inside the image, or that lie on a
/// place. The points of a kind read an image at the same offsets from their own first number, so
/// that the image needs no padding and strides cost nothing.
template <std::size_t Axes>
class WindowPoints {
  using Sizes = std::array<Index, Axes>;

 public:
  struct Tap {
    Index tap;
    Index offset;  ///< in a channel of the image
  };
  struct Point {
    Index from;  ///< its first number in a channel of the image
    Index to;
  };
  struct Kind {
    std::vector<Tap> taps;
    std::vector<Point> points;
  };

  /// From pixels to places.
  void read_pixels(const PatchGeometry<Axes>& geometry) {
    Sizes places{};
    for (std::size_t a = 0; a < Axes; ++a) places[a] = geometry.places(a);
    read(geometry, geometry.image, places, [&](std::size_t a, Index place, Index entry) {
      return place * geometry.stride[a] - geometry.padding[a] + entry * geometry.dilation[a];
    });
  }

  /// From places to pixels.
  void read_places(const PatchGeometry<Axes>& geometry) {
    Sizes places{};
    for (std::size_t a = 0; a < Axes; ++a) places[a] = geometry.places(a);
    read(geometry, places, geometry.image, [&](std::size_t a, Index pixel, Index entry) {
      const Index first = pixel + geometry.padding[a] - entry * geometry.dilation[a];
      return first % geometry.stride[a] == 0 ? first / geometry.stride[a] : Index{-1};
    });
  }

  const std::vector<Kind>& kinds() const { return kinds_; }
  /// How many products of a number and a weight are summed, over all points.
  Index terms() const {
    Index terms = 0;
    for (const Kind& kind : kinds_)
      terms += static_cast<Index>(kind.taps.size() * kind.points.size());
    return terms;
  }

 private:
  /// The same along an axis.
  struct AxisKind {
    std::vector<Index> entries, numbers;  // the numbers read at the first of the points
    std::vector<Index> points, first;
  };

  /// `number(axis, point, entry)` is read for an entry at a point, if there is such a number.
  template <class Number>
  void read(const PatchGeometry<Axes>& geometry, const Sizes& from, const Sizes& to,
            Number&& number) {
    std::array<std::vector<AxisKind>, Axes> kinds;
    Sizes counts{};
    for (std::size_t a = 0; a < Axes; ++a) {
      for (Index point = 0; point < to[a]; ++point) {
        AxisKind own;
        for (Index entry = 0; entry < geometry.kernel[a]; ++entry) {
          const Index at = number(a, point, entry);
          if (at < 0 || at >= from[a]) continue;
          own.entries.push_back(entry);
          own.numbers.push_back(at);
        }
        const Index first =
            own.numbers.empty() ? 0 : *std::min_element(own.numbers.begin(), own.numbers.end());
        auto kind = std::find_if(kinds[a].begin(), kinds[a].end(),
                                 [&](const AxisKind& k) { return k.entries == own.entries; });
        if (kind == kinds[a].end()) kind = kinds[a].insert(kind, std::move(own));
        kind->points.push_back(point);
        kind->first.push_back(first);
      }
      counts[a] = static_cast<Index>(kinds[a].size());
    }
    kinds_.clear();
    for_each_index(counts, [&](const Sizes& which) {
      std::array<const AxisKind*, Axes> axes;
      for (std::size_t a = 0; a < Axes; ++a)
        axes[a] = &kinds[a][static_cast<std::size_t>(which[a])];
      kinds_.push_back(join(axes, geometry.kernel, from, to));
    });
  }

  static Kind join(const std::array<const AxisKind*, Axes>& axes, const Sizes& kernel,
                   const Sizes& from, const Sizes& to) {
    const Sizes kernel_steps = row_major_steps(kernel);
    const Sizes from_steps = row_major_steps(from);
    const Sizes to_steps = row_major_steps(to);
    Sizes entries{}, points{};
    for (std::size_t a = 0; a < Axes; ++a) {
      entries[a] = static_cast<Index>(axes[a]->entries.size());
      points[a] = static_cast<Index>(axes[a]->points.size());
    }
    Kind kind;
    for_each_index(entries, [&](const Sizes& at) {
      Tap tap{0, 0};
      for (std::size_t a = 0; a < Axes; ++a) {
        const auto i = static_cast<std::size_t>(at[a]);
        tap.tap += axes[a]->entries[i] * kernel_steps[a];
        tap.offset += (axes[a]->numbers[i] - axes[a]->first.front()) * from_steps[a];
      }
      kind.taps.push_back(tap);
    });
    for_each_index(points, [&](const Sizes& at) {
      Point point{0, 0};
      for (std::size_t a = 0; a < Axes; ++a) {
        const auto i = static_cast<std::size_t>(at[a]);
        point.from += axes[a]->first[i] * from_steps[a];
        point.to += axes[a]->points[i] * to_steps[a];
      }
      kind.points.push_back(point);
    });
    return kind;
  }

  std::vector<Kind> kinds_;
};

}  // namespace kfac::linalg::detail
