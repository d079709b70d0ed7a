#include <array>
#include <set>
#include <tuple>

#include <kfac/core/random.hpp>
#include <kfac/linalg/patches.hpp>
#include <kfac/linalg/window_points.hpp>

#include "support/catch.hpp"

namespace kfac::test::window_points_test {

using linalg::detail::WindowPoints;

namespace {

template <std::size_t Axes>
PatchGeometry<Axes> random_geometry(Rng& rng) {
  for (;;) {
    PatchGeometry<Axes> geometry;
    for (std::size_t axis = 0; axis < Axes; ++axis) {
      geometry.image[axis] = 1 + rng.below(Axes == 3 ? 5 : 9);
      geometry.kernel[axis] = 1 + rng.below(Axes == 3 ? 3 : 4);
      geometry.stride[axis] = 1 + rng.below(3);
      geometry.padding[axis] = rng.below(4);
      if (rng.below(2) == 0) geometry.extra_padding[axis] = rng.below(7) - 3;
      geometry.dilation[axis] = 1 + rng.below(3);
    }
    if (geometry.positions() > 0) return geometry;
  }
}

/// What is read: (from, tap, to).
using Terms = std::set<std::tuple<Index, Index, Index>>;

template <std::size_t Axes>
Terms terms_of(const WindowPoints<Axes>& points, Index results) {
  Terms terms;
  std::set<Index> written;
  for (const auto& kind : points.kinds())
    for (const auto& point : kind.points) {
      REQUIRE(written.insert(point.to).second);
      for (const auto& tap : kind.taps) {
        REQUIRE(tap.offset >= 0);
        REQUIRE(terms.insert({point.from + tap.offset, tap.tap, point.to}).second);
      }
    }
  REQUIRE(static_cast<Index>(written.size()) == results);
  REQUIRE(points.terms() == static_cast<Index>(terms.size()));
  return terms;
}

template <std::size_t Axes>
void check(Rng& rng) {
  const PatchGeometry<Axes> geometry = random_geometry<Axes>(rng);
  Terms to_places, to_pixels;
  for_each_window_row(geometry, [&](Index tap, Index place, Index pixel, Index count) {
    for (Index i = 0; i < count; ++i, ++place, pixel += geometry.stride.back()) {
      to_places.insert({pixel, tap, place});
      to_pixels.insert({place, tap, pixel});
    }
  });
  WindowPoints<Axes> points;
  points.read_pixels(geometry);
  REQUIRE(terms_of(points, geometry.positions()) == to_places);
  points.read_places(geometry);
  REQUIRE(terms_of(points, geometry.plane_size()) == to_pixels);
}

}  // namespace

TEST_CASE("WindowPoints reads each number under the window once, and no padding",
          "[linalg][exact]") {
  Rng rng(1);
  for (int trial = 0; trial < 100; ++trial) {
    check<1>(rng);
    check<2>(rng);
    check<3>(rng);
  }
}

TEST_CASE("WindowPoints has one kind of points where no padding is read", "[linalg][exact]") {
  WindowPoints<2> points;
  points.read_pixels({1, {9, 8}, {3, 2}, {2, 3}});
  REQUIRE(points.kinds().size() == 1);
  REQUIRE(points.terms() == 4 * 3 * 6);
}

}  // namespace kfac::test::window_points_test
