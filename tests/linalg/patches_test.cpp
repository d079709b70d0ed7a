#include <array>
#include <set>
#include <tuple>

#include <kfac/core/random.hpp>
#include <kfac/linalg/patches.hpp>

#include "support/catch.hpp"
#include "support/random.hpp"

namespace kfac::test::patches_test {

using kfac::Index;
using kfac::Matrix;
using kfac::PatchGeometry;
using kfac::Rng;
using kfac::test::normal;

namespace {

template <std::size_t Axes>
PatchGeometry<Axes> random_geometry(Rng& rng) {
  for (;;) {
    PatchGeometry<Axes> geometry;
    geometry.channels = 1 + rng.below(3);
    for (std::size_t axis = 0; axis < Axes; ++axis) {
      geometry.image[axis] = 1 + rng.below(Axes == 3 ? 5 : 8);
      geometry.kernel[axis] = 1 + rng.below(Axes == 3 ? 3 : 4);
      geometry.stride[axis] = 1 + rng.below(3);
      geometry.padding[axis] = rng.below(4);
      if (rng.below(2) == 0) geometry.extra_padding[axis] = rng.below(7) - 3;
      geometry.dilation[axis] = 1 + rng.below(3);
    }
    if (geometry.positions() > 0) return geometry;
  }
}

/// The pixel of an axis under the window's entry, by the definition; outside it is padding.
template <std::size_t Axes>
Index pixel(const PatchGeometry<Axes>& geometry, std::size_t axis, Index place, Index entry) {
  return place * geometry.stride[axis] - geometry.padding[axis] + entry * geometry.dilation[axis];
}

/// The index along each axis of the `flat`-th entry, row-major.
template <std::size_t Axes>
std::array<Index, Axes> unflatten(Index flat, const std::array<Index, Axes>& sizes) {
  std::array<Index, Axes> index{};
  for (std::size_t axis = Axes; axis-- > 0; flat /= sizes[axis]) index[axis] = flat % sizes[axis];
  return index;
}

/// Calls `body(tap, place, pixel)` for all that are inside the image, from the definition.
template <std::size_t Axes, class Body>
void for_each_entry(const PatchGeometry<Axes>& geometry, Body&& body) {
  std::array<Index, Axes> places{};
  for (std::size_t axis = 0; axis < Axes; ++axis) places[axis] = geometry.places(axis);
  for (Index place = 0; place < geometry.positions(); ++place)
    for (Index tap = 0; tap < geometry.taps(); ++tap) {
      const std::array<Index, Axes> at = unflatten(place, places);
      const std::array<Index, Axes> entry = unflatten(tap, geometry.kernel);
      Index flat = 0;
      bool inside = true;
      for (std::size_t axis = 0; axis < Axes; ++axis) {
        const Index i = pixel(geometry, axis, at[axis], entry[axis]);
        inside = inside && i >= 0 && i < geometry.image[axis];
        flat = flat * geometry.image[axis] + i;
      }
      if (inside) body(tap, place, flat);
    }
}

template <std::size_t Axes, class S>
Matrix<S> naive_patches(const PatchGeometry<Axes>& geometry, const Matrix<S>& images) {
  Matrix<S> patches = Matrix<S>::Zero(images.cols() * geometry.positions(), geometry.features());
  for (Index example = 0; example < images.cols(); ++example)
    for (Index channel = 0; channel < geometry.channels; ++channel)
      for_each_entry(geometry, [&](Index tap, Index place, Index flat) {
        patches(example * geometry.positions() + place, channel * geometry.taps() + tap) =
            images(channel * geometry.plane_size() + flat, example);
      });
  return patches;
}

template <std::size_t Axes>
void check_places(Rng& rng) {
  const auto geometry = random_geometry<Axes>(rng);
  Index positions = 1;
  for (std::size_t axis = 0; axis < Axes; ++axis) {
    Index places = 0;
    while (pixel(geometry, axis, places, geometry.kernel[axis] - 1) <
           geometry.image[axis] + geometry.padding[axis] + geometry.extra_padding[axis])
      ++places;
    REQUIRE(geometry.places(axis) == places);
    positions *= places;
  }
  REQUIRE(geometry.positions() == positions);
}

template <std::size_t Axes>
void check_visits(Rng& rng) {
  const auto geometry = random_geometry<Axes>(rng);
  using Visit = std::tuple<Index, Index, Index>;  // tap, place, pixel
  std::set<Visit> expected;
  for_each_entry(geometry, [&](Index tap, Index place, Index flat) {
    expected.insert({tap, place, flat});
  });
  std::set<Visit> visited;
  bool twice = false;
  kfac::for_each_window_row(geometry, [&](Index tap, Index place, Index first, Index count) {
    for (Index i = 0; i < count; ++i)
      twice |= !visited.insert({tap, place + i, first + i * geometry.stride.back()}).second;
  });
  REQUIRE_FALSE(twice);
  REQUIRE(visited == expected);
}

template <std::size_t Axes, class S>
void check_unfold(Rng& rng) {
  const auto geometry = random_geometry<Axes>(rng);
  const Index examples = 1 + rng.below(4);
  const auto images = normal<S>(geometry.channels * geometry.plane_size(), examples, rng);
  // What was there before must not show through.
  auto patches = normal<S>(examples * geometry.positions(), geometry.features(), rng);
  kfac::unfold_patches<S>(geometry, images, patches);
  REQUIRE(patches == naive_patches(geometry, images));
}

template <std::size_t Axes, class S>
void check_spread(Rng& rng) {
  const auto geometry = random_geometry<Axes>(rng);
  const Index examples = 1 + rng.below(3), pixels = geometry.plane_size();
  const auto places = normal<S>(geometry.channels * geometry.positions(), examples, rng);
  Matrix<S> expected = Matrix<S>::Zero(examples * pixels, geometry.features());
  for (Index example = 0; example < examples; ++example)
    for (Index channel = 0; channel < geometry.channels; ++channel)
      for_each_entry(geometry, [&](Index tap, Index place, Index pixel) {
        expected(example * pixels + pixel, channel * geometry.taps() + tap) =
            places(channel * geometry.positions() + place, example);
      });
  // What was there before must not show through.
  auto patches = normal<S>(expected.rows(), expected.cols(), rng);
  kfac::spread_places<S>(geometry, places, patches);
  REQUIRE(patches == expected);
}

template <std::size_t Axes>
void check_adjoint(Rng& rng) {
  const auto geometry = random_geometry<Axes>(rng);
  const Index examples = 1 + rng.below(4);
  const auto images = normal<double>(geometry.channels * geometry.plane_size(), examples, rng);
  const auto covector = normal<double>(examples * geometry.positions(), geometry.features(), rng);
  Matrix<double> unfolded(covector.rows(), covector.cols());
  auto folded = normal<double>(images.rows(), images.cols(), rng);
  kfac::unfold_patches<double>(geometry, images, unfolded);
  kfac::fold_patches<double>(geometry, covector, folded);
  REQUIRE(unfolded.cwiseProduct(covector).sum() ==
          Approx(images.cwiseProduct(folded).sum()).margin(1e-11));
}

}  // namespace

TEST_CASE("PatchGeometry counts the places where the window is inside the padded image",
          "[linalg][exact]") {
  Rng rng(1);
  for (int trial = 0; trial < 200; ++trial) {
    check_places<1>(rng);
    check_places<2>(rng);
    check_places<3>(rng);
  }
  REQUIRE(PatchGeometry<1>{.image = {4}, .kernel = {5}}.positions() == 0);
  REQUIRE(PatchGeometry<2>{.image = {4, 4}, .kernel = {5, 5}}.positions() == 0);
  REQUIRE(PatchGeometry<3>{.image = {4, 4, 4}, .kernel = {1, 5, 1}}.positions() == 0);
}

TEST_CASE("for_each_window_row visits each entry and place inside the image once",
          "[linalg][exact]") {
  Rng rng(2);
  for (int trial = 0; trial < 200; ++trial) {
    check_visits<1>(rng);
    check_visits<2>(rng);
    check_visits<3>(rng);
  }
}

TEMPLATE_TEST_CASE("unfold_patches equals a loop over the definition", "[linalg][exact]", float,
                   double) {
  using S = TestType;
  Rng rng(3);
  for (int trial = 0; trial < 200; ++trial) {
    check_unfold<1, S>(rng);
    check_unfold<2, S>(rng);
    check_unfold<3, S>(rng);
  }
}

TEMPLATE_TEST_CASE("spread_places equals a loop over the definition", "[linalg][exact]", float,
                   double) {
  using S = TestType;
  Rng rng(7);
  for (int trial = 0; trial < 100; ++trial) {
    check_spread<1, S>(rng);
    check_spread<2, S>(rng);
    check_spread<3, S>(rng);
  }
}

TEST_CASE("unfold_patches reads some examples of a larger batch", "[linalg][exact]") {
  Rng rng(4);
  const PatchGeometry<2> geometry{
      .channels = 2, .image = {5, 4}, .kernel = {3, 2}, .padding = {1, 0}};
  const auto images = normal<double>(40 + 3, 6, rng);  // each column longer than an image
  const Matrix<double> chosen = images.block(0, 2, 40, 3);
  Matrix<double> patches(3 * geometry.positions(), geometry.features());
  kfac::unfold_patches<double>(geometry, images.block(0, 2, 40, 3), patches);
  REQUIRE(patches == naive_patches(geometry, chosen));
}

TEST_CASE("unfold_patches writes some rows of a larger matrix", "[linalg][exact]") {
  Rng rng(6);
  const PatchGeometry<2> geometry{
      .channels = 2, .image = {5, 4}, .kernel = {3, 2}, .padding = {1, 0}};
  const auto images = normal<double>(40, 3, rng);
  const Index rows = geometry.positions();
  Matrix<double> patches = Matrix<double>::Constant(5 * rows, geometry.features(), 7);
  kfac::unfold_patches<double>(geometry, images, patches.middleRows(rows, 3 * rows));
  REQUIRE(patches.middleRows(rows, 3 * rows) == naive_patches(geometry, images));
  REQUIRE((patches.topRows(rows).array() == 7).all());
  REQUIRE((patches.bottomRows(rows).array() == 7).all());
}

TEST_CASE("fold_patches is the adjoint of unfold_patches", "[linalg][property]") {
  Rng rng(5);
  for (int trial = 0; trial < 200; ++trial) {
    check_adjoint<1>(rng);
    check_adjoint<2>(rng);
    check_adjoint<3>(rng);
  }
}

TEST_CASE("fold_patches of ones counts how often a pixel is under the window", "[linalg][exact]") {
  const PatchGeometry<2> geometry{.image = {3, 3}, .kernel = {3, 3}, .padding = {1, 1}};
  Matrix<double> counts(9, 1);
  kfac::fold_patches<double>(geometry, Matrix<double>::Ones(9, 9), counts);
  const Matrix<double> expected{{4}, {6}, {4}, {6}, {9}, {6}, {4}, {6}, {4}};
  REQUIRE(counts == expected);
}

}  // namespace kfac::test::patches_test
