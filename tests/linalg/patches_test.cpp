#include <set>
#include <tuple>

#include <kfac/core/random.hpp>
#include <kfac/linalg/patches.hpp>

#include "support/catch.hpp"

using kfac::Index;
using kfac::Matrix;
using kfac::MatrixMap;
using kfac::PatchGeometry;
using kfac::Rng;

namespace {

PatchGeometry random_geometry(Rng& rng) {
  for (;;) {
    PatchGeometry geometry;
    geometry.channels = 1 + rng.below(3);
    for (std::size_t axis = 0; axis < 2; ++axis) {
      geometry.image[axis] = 1 + rng.below(8);
      geometry.kernel[axis] = 1 + rng.below(4);
      geometry.stride[axis] = 1 + rng.below(3);
      geometry.padding[axis] = rng.below(4);
      geometry.dilation[axis] = 1 + rng.below(3);
    }
    if (geometry.positions() > 0) return geometry;
  }
}

/// The pixel of an axis under the window's entry, by the definition; outside it is padding.
Index pixel(const PatchGeometry& geometry, std::size_t axis, Index place, Index entry) {
  return place * geometry.stride[axis] - geometry.padding[axis] + entry * geometry.dilation[axis];
}

template <class S>
Matrix<S> random_matrix(Index rows, Index columns, Rng& rng) {
  Matrix<S> values(rows, columns);
  rng.fill_normal(values);
  return values;
}

template <class S>
MatrixMap<S> map(Matrix<S>& matrix) {
  return {matrix.data(), matrix.rows(), matrix.cols()};
}

/// One entry at a time, from the definition.
template <class S>
Matrix<S> naive_patches(const PatchGeometry& geometry, const Matrix<S>& images) {
  const auto [height, width] = geometry.image;
  const Index columns = geometry.places(1);
  Matrix<S> patches = Matrix<S>::Zero(images.cols() * geometry.positions(), geometry.features());
  for (Index example = 0; example < images.cols(); ++example)
    for (Index row = 0; row < geometry.places(0); ++row)
      for (Index column = 0; column < columns; ++column)
        for (Index channel = 0, feature = 0; channel < geometry.channels; ++channel)
          for (Index k1 = 0; k1 < geometry.kernel[0]; ++k1)
            for (Index k2 = 0; k2 < geometry.kernel[1]; ++k2, ++feature) {
              const Index y = pixel(geometry, 0, row, k1);
              const Index x = pixel(geometry, 1, column, k2);
              if (y < 0 || y >= height || x < 0 || x >= width) continue;
              patches(example * geometry.positions() + row * columns + column, feature) =
                  images((channel * height + y) * width + x, example);
            }
  return patches;
}

}  // namespace

TEST_CASE("PatchGeometry counts the places where the window is inside the padded image",
          "[linalg][exact]") {
  Rng rng(1);
  for (int trial = 0; trial < 200; ++trial) {
    const PatchGeometry geometry = random_geometry(rng);
    for (std::size_t axis = 0; axis < 2; ++axis) {
      Index places = 0;
      while (pixel(geometry, axis, places, geometry.kernel[axis] - 1) <
             geometry.image[axis] + geometry.padding[axis])
        ++places;
      REQUIRE(geometry.places(axis) == places);
    }
  }
  REQUIRE(PatchGeometry{.image = {4, 4}, .kernel = {5, 5}}.positions() == 0);
}

TEST_CASE("for_each_window_row visits each entry and place inside the image once",
          "[linalg][exact]") {
  Rng rng(2);
  for (int trial = 0; trial < 200; ++trial) {
    const PatchGeometry geometry = random_geometry(rng);
    using Visit = std::tuple<Index, Index, Index>;  // tap, place, pixel
    std::set<Visit> expected;
    for (Index row = 0; row < geometry.places(0); ++row)
      for (Index column = 0; column < geometry.places(1); ++column)
        for (Index k1 = 0; k1 < geometry.kernel[0]; ++k1)
          for (Index k2 = 0; k2 < geometry.kernel[1]; ++k2) {
            const Index y = pixel(geometry, 0, row, k1);
            const Index x = pixel(geometry, 1, column, k2);
            if (y >= 0 && y < geometry.image[0] && x >= 0 && x < geometry.image[1])
              expected.insert({k1 * geometry.kernel[1] + k2, row * geometry.places(1) + column,
                               y * geometry.image[1] + x});
          }
    std::set<Visit> visited;
    bool twice = false;
    kfac::for_each_window_row(geometry, [&](Index tap, Index place, Index first, Index count) {
      for (Index i = 0; i < count; ++i)
        twice |= !visited.insert({tap, place + i, first + i * geometry.stride[1]}).second;
    });
    REQUIRE_FALSE(twice);
    REQUIRE(visited == expected);
  }
}

TEMPLATE_TEST_CASE("unfold_patches equals a loop over the definition", "[linalg][exact]", float,
                   double) {
  using S = TestType;
  Rng rng(3);
  for (int trial = 0; trial < 200; ++trial) {
    const PatchGeometry geometry = random_geometry(rng);
    const Index examples = 1 + rng.below(4);
    const auto images = random_matrix<S>(geometry.channels * geometry.plane_size(), examples, rng);
    // What was there before must not show through.
    auto patches = random_matrix<S>(examples * geometry.positions(), geometry.features(), rng);
    kfac::unfold_patches(geometry, images, map(patches));
    REQUIRE(patches == naive_patches(geometry, images));
  }
}

TEST_CASE("unfold_patches reads some examples of a larger batch", "[linalg][exact]") {
  Rng rng(4);
  const PatchGeometry geometry{.channels = 2, .image = {5, 4}, .kernel = {3, 2}, .padding = {1, 0}};
  const auto images = random_matrix<double>(40 + 3, 6, rng);  // each column longer than an image
  const Matrix<double> chosen = images.block(0, 2, 40, 3);
  Matrix<double> patches(3 * geometry.positions(), geometry.features());
  kfac::unfold_patches(geometry, images.block(0, 2, 40, 3), map(patches));
  REQUIRE(patches == naive_patches(geometry, chosen));
}

TEST_CASE("fold_patches is the adjoint of unfold_patches", "[linalg][property]") {
  Rng rng(5);
  for (int trial = 0; trial < 200; ++trial) {
    const PatchGeometry geometry = random_geometry(rng);
    const Index examples = 1 + rng.below(4);
    const auto images =
        random_matrix<double>(geometry.channels * geometry.plane_size(), examples, rng);
    const auto covector =
        random_matrix<double>(examples * geometry.positions(), geometry.features(), rng);
    Matrix<double> unfolded(covector.rows(), covector.cols());
    auto folded = random_matrix<double>(images.rows(), images.cols(), rng);
    kfac::unfold_patches(geometry, images, map(unfolded));
    kfac::fold_patches(geometry, covector, map(folded));
    REQUIRE(unfolded.cwiseProduct(covector).sum() ==
            Approx(images.cwiseProduct(folded).sum()).margin(1e-11));
  }
}

TEST_CASE("fold_patches of ones counts how often a pixel is under the window", "[linalg][exact]") {
  const PatchGeometry geometry{.image = {3, 3}, .kernel = {3, 3}, .padding = {1, 1}};
  Matrix<double> counts(9, 1);
  kfac::fold_patches(geometry, Matrix<double>::Ones(9, 9), map(counts));
  const Matrix<double> expected{{4}, {6}, {4}, {6}, {9}, {6}, {4}, {6}, {4}};
  REQUIRE(counts == expected);
}
