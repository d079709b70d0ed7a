#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <numeric>
#include <vector>

#include <kfac/linalg/patches.hpp>
#include <kfac/linalg/row_copies.hpp>

namespace kfac::linalg::detail {

/// Calls `body(index)` for all of a box of these sizes, row-major.
template <std::size_t Axes, class Body>
void for_each_index(const std::array<Index, Axes>& sizes, Body&& body) {
  for (const Index size : sizes)
    if (size <= 0) return;
  std::array<Index, Axes> index{};
  for (;;) {
    body(index);
    std::size_t axis = Axes;
    while (axis > 0 && ++index[axis - 1] == sizes[axis - 1]) index[--axis] = 0;
    if (axis == 0) return;
  }
}

/// From an entry to the next along each axis of a box, row-major.
template <std::size_t Axes>
std::array<Index, Axes> row_major_steps(const std::array<Index, Axes>& sizes) {
  std::array<Index, Axes> steps{};
  Index step = 1;
  for (std::size_t axis = Axes; axis-- > 0; step *= sizes[axis]) steps[axis] = step;
  return steps;
}

template <std::size_t Axes>
Index flat_index(const std::array<Index, Axes>& index, const std::array<Index, Axes>& steps) {
  Index flat = 0;
  for (std::size_t axis = 0; axis < Axes; ++axis) flat += index[axis] * steps[axis];
  return flat;
}

template <std::size_t Axes>
Index size_of_box(const std::array<Index, Axes>& sizes) {
  return std::accumulate(sizes.begin(), sizes.end(), Index{1}, std::multiplies<>());
}

/// How sums over the entries of a window are read off an image without unfolding it. With a stride
/// of 1 the pixels under an entry of the window, at one place after another, lie one after another
/// in the image (as do some at the ends of rows that belong to no place, which do no harm). With
/// larger strides they do so in a plane of every stride-th pixel: a channel is copied to a plane
/// for each remainder, with the zeros of the padding around.
///
/// The adjoint map has, for each remainder of pixels, its own subset of the window's entries and
/// its own grid of sums, which are read off the one plane of places.
template <std::size_t Axes>
class WindowPlan {
  using Sizes = std::array<Index, Axes>;

 public:
  /// A grid's sums are over its taps.
  struct Grid {
    std::vector<Index> taps;
    std::vector<int> offsets;  ///< of a channel's planes, from where the grid's sums begin, by tap
  };
  /// Consecutive sums.
  struct Piece {
    std::size_t grid;
    Index first;  ///< where they begin in the planes
    Index count;
    Index lane;  ///< and where they go
  };

  /// From pixels to places. `width`: lanes of pieces begin at multiples of it.
  void read_pixels(const PatchGeometry<Axes>& geometry, Index width) {
    begin(geometry, width);
    Sizes cells{}, places{};
    for (std::size_t a = 0; a < Axes; ++a) {
      places[a] = geometry.places(a);
      cells[a] = places[a] + ahead(a, geometry.kernel[a] - 1);
    }
    const Sizes steps = row_major_steps(cells);
    const Sizes pixel_steps = row_major_steps(geometry.image);
    const Index plane = size_of_box(cells);
    planes_.begin(plane * size_of_box(phases_), geometry.stride.back(), 1);
    Index into = 0;
    for_each_index(phases_, [&](const Sizes& phase) {
      for_each_index(cells, [&](const Sizes& cell) {
        Sizes pixel{};
        for (std::size_t a = 0; a < Axes; ++a)
          pixel[a] = cell[a] * geometry.stride[a] + remainder(a, phase[a]) - geometry.padding[a];
        if (inside(pixel, geometry.image)) planes_.add(into, flat_index(pixel, pixel_steps));
        ++into;
      });
    });
    planes_.end();
    const Sizes phase_steps = row_major_steps(phases_);
    Grid grid;
    Index tap = 0;
    for_each_index(geometry.kernel, [&](const Sizes& entry) {
      Index offset = 0;
      for (std::size_t a = 0; a < Axes; ++a)
        offset += entry[a] % phases_[a] * phase_steps[a] * plane + ahead(a, entry[a]) * steps[a];
      grid.taps.push_back(tap++);
      grid.offsets.push_back(static_cast<int>(offset));
    });
    grids_.push_back(std::move(grid));
    const Index first_lane = lanes_;
    const Index slice = add_pieces(places, steps);
    result_.begin(size_of_box(places), 1, 1);
    Index place = 0;
    for_each_index(
        places, [&](const Sizes& at) { result_.add(place++, lane(at, first_lane, slice, steps)); });
  }

  /// From places to pixels. The zeros before a row of places serve as those behind the row before.
  void read_places(const PatchGeometry<Axes>& geometry, Index width) {
    begin(geometry, width);
    Sizes cells{}, places{}, lead{};
    for (std::size_t a = 0; a < Axes; ++a) {
      places[a] = geometry.places(a);
      lead[a] = ahead(a, geometry.kernel[a] - 1);
      cells[a] = lead[a] + places[a];
    }
    const Sizes steps = row_major_steps(cells);
    overlap_ = flat_index(lead, steps);
    const Sizes place_steps = row_major_steps(places);
    planes_.begin(size_of_box(cells), 1, 1);
    Index into = 0;
    for_each_index(cells, [&](const Sizes& cell) {
      Sizes place{};
      for (std::size_t a = 0; a < Axes; ++a) place[a] = cell[a] - lead[a];
      if (inside(place, places)) planes_.add(into, flat_index(place, place_steps));
      ++into;
    });
    result_.begin(geometry.plane_size(), 1, geometry.stride.back());
    for_each_index(phases_, [&](const Sizes& phase) { add_grid(phase, lead, steps); });
    result_.end();
  }

  const std::vector<Grid>& grids() const { return grids_; }
  const std::vector<Piece>& pieces() const { return pieces_; }
  const RowCopies& planes() const { return planes_; }  ///< from a channel
  const RowCopies& result() const { return result_; }  ///< from the lanes of a column
  Index lanes() const { return lanes_; }
  /// So many zeros behind the planes are read like those before the next.
  Index overlap() const { return overlap_; }

 private:
  void begin(const PatchGeometry<Axes>& geometry, Index width) {
    geometry_ = geometry;
    width_ = width;
    lanes_ = 0;
    overlap_ = 0;
    grids_.clear();
    pieces_.clear();
    for (std::size_t a = 0; a < Axes; ++a)
      phases_[a] =
          std::min(geometry.kernel[a],
                   geometry.stride[a] / std::gcd(geometry.stride[a], geometry.dilation[a]));
  }

  // The window's entry k is in the phase k % phases: it lies a remainder of the stride, and as many
  // strides as it is ahead, after its place.
  Index remainder(std::size_t axis, Index phase) const {
    return phase * geometry_.dilation[axis] % geometry_.stride[axis];
  }
  Index ahead(std::size_t axis, Index entry) const {
    return entry * geometry_.dilation[axis] / geometry_.stride[axis];
  }
  static bool inside(const Sizes& index, const Sizes& sizes) {
    for (std::size_t a = 0; a < Axes; ++a)
      if (index[a] < 0 || index[a] >= sizes[a]) return false;
    return true;
  }

  /// The pixels of a phase.
  void add_grid(const Sizes& phase, const Sizes& lead, const Sizes& steps) {
    Sizes first{}, counts{};
    for (std::size_t a = 0; a < Axes; ++a) {
      // Pixel (first + i) stride + remainder - padding, of the image and under the window
      // somewhere; along rows for all phases alike, whose pixels are then written in turn.
      const Index stride = geometry_.stride[a];
      const Index begin = geometry_.padding[a] - remainder(a, phase[a]);
      const Index end = begin + geometry_.image[a];
      const Index last_entry =
          phase[a] + (geometry_.kernel[a] - 1 - phase[a]) / phases_[a] * phases_[a];
      const bool row = a + 1 == Axes;
      first[a] =
          std::max(std::max<Index>(begin + stride - 1, 0) / stride, row ? 0 : ahead(a, phase[a]));
      counts[a] = std::min(std::max<Index>(end + stride - 1, 0) / stride,
                           geometry_.places(a) + (row ? lead[a] : ahead(a, last_entry))) -
                  first[a];
      if (counts[a] <= 0) return;
    }
    Grid grid;
    Index tap = 0;
    for_each_index(geometry_.kernel, [&](const Sizes& entry) {
      Index offset = 0;
      bool mine = true;
      for (std::size_t a = 0; a < Axes; ++a) {
        mine = mine && entry[a] % phases_[a] == phase[a];
        offset += (lead[a] - ahead(a, entry[a]) + first[a]) * steps[a];
      }
      if (mine) {
        grid.taps.push_back(tap);
        grid.offsets.push_back(static_cast<int>(offset));
      }
      ++tap;
    });
    grids_.push_back(std::move(grid));
    const Index first_lane = lanes_;
    const Index slice = add_pieces(counts, steps);
    const Sizes pixel_steps = row_major_steps(geometry_.image);
    for_each_index(counts, [&](const Sizes& at) {
      Sizes pixel{};
      for (std::size_t a = 0; a < Axes; ++a)
        pixel[a] = (first[a] + at[a]) * geometry_.stride[a] + remainder(a, phase[a]) -
                   geometry_.padding[a];
      result_.add(flat_index(pixel, pixel_steps), lane(at, first_lane, slice, steps));
    });
  }

  /// Of the last grid; one for each slice of volumes. Returns the lanes from one to the next.
  Index add_pieces(const Sizes& counts, const Sizes& steps) {
    const Index slices = Axes == 3 ? counts[0] : 1;
    Index count = 1;
    for (std::size_t a = Axes == 3; a < Axes; ++a) count += (counts[a] - 1) * steps[a];
    const Index lanes = (count + width_ - 1) / width_ * width_;
    for (Index slice = 0; slice < slices; ++slice) {
      pieces_.push_back({grids_.size() - 1, slice * steps[0], count, lanes_});
      lanes_ += lanes;
    }
    return lanes;
  }
  static Index lane(const Sizes& at, Index first_lane, Index slice, const Sizes& steps) {
    Index lane = first_lane + (Axes == 3 ? at[0] * slice : 0);
    for (std::size_t a = Axes == 3; a < Axes; ++a) lane += at[a] * steps[a];
    return lane;
  }

  PatchGeometry<Axes> geometry_;
  Index width_ = 1;
  Sizes phases_{};
  RowCopies planes_, result_;
  std::vector<Grid> grids_;
  std::vector<Piece> pieces_;
  Index lanes_ = 0;
  Index overlap_ = 0;
};

}  // namespace kfac::linalg::detail
