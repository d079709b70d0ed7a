#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include <kfac/core/buffer.hpp>
#include <kfac/linalg/window_plan.hpp>
#include <kfac/linalg/window_tile.hpp>

namespace kfac::linalg::detail {

/// So many numbers that what comes after them in memory is aligned as packets want it.
constexpr Index aligned_size(Index size) {
  return (size + 15) / 16 * 16;
}

/// How many channels a layer with groups has, in a group.
struct WindowChannels {
  Index in, out, groups;

  bool operator==(const WindowChannels&) const = default;
};

/// Where the weights of a convolution are: from those of a channel of places (a row), a channel of
/// the image, an entry of the window or a group to those of the next.
template <RealScalar S>
struct WindowWeights {
  const S* data;
  Index row_step, channel_step, tap_step, group_step;

  const S& operator()(Index group, Index row, Index channel, Index tap) const {
    return data[group * group_step + row * row_step + channel * channel_step + tap * tap_step];
  }
};

/// A convolution of one image at a time, or its adjoint, at the speed of a matrix product: the
/// image is read as `WindowPlan` says, the weights from panels that all images share.
template <RealScalar S, std::size_t Axes>
class WindowProduct {
  using Tile = WindowTile<S>;
  using Packet = typename Tile::Packet;
  using Piece = typename WindowPlan<Axes>::Piece;

 public:
  /// From images with `channels.in` channels a group to as many places with `channels.out`; or from
  /// these to pixels.
  void begin(WindowDirection direction, const PatchGeometry<Axes>& geometry,
             const WindowChannels& channels) {
    if (ready_ && geometry == geometry_ && channels == channels_) return;
    direction_ = direction;
    geometry_ = geometry;
    channels_ = channels;
    groups_ = channels.groups;
    const bool to_places = direction == WindowDirection::ToPlaces;
    from_ = to_places ? channels.in : channels.out;
    to_ = to_places ? channels.out : channels.in;
    if (to_places)
      plan_.read_pixels(geometry, Tile::kWidth);
    else
      plan_.read_places(geometry, Tile::kWidth);
    from_size_ = to_places ? geometry.plane_size() : geometry.positions();
    offsets_.clear();
    for (const auto& grid : plan_.grids()) {
      std::vector<int> offsets;
      for (Index channel = 0; channel < from_; ++channel)
        for (const int offset : grid.offsets)
          offsets.push_back(static_cast<int>(channel * plan_.planes().size()) + offset);
      offsets_.push_back(std::move(offsets));
    }
    ready_ = true;
  }

  Index image_size() const { return groups_ * from_ * from_size_; }
  Index result_size() const { return groups_ * to_ * plan_.result().size(); }
  /// The multiplications and additions of an image.
  double work() const {
    double work = 0;
    for (const Piece& piece : plan_.pieces())
      work += static_cast<double>(piece.count) *
              static_cast<double>(groups_ * grid_panel_size(piece.grid));
    return work;
  }

  /// How many numbers the weights take in panels.
  Index panel_size() const { return groups_ * group_panel_size(); }

  void pack(const WindowWeights<S>& weights, S* into) const {
    const bool to_places = direction_ == WindowDirection::ToPlaces;
    for (Index group = 0; group < groups_; ++group)
      for (const auto& grid : plan_.grids())
        for_each_column_tile([&](Index first, Index columns) {
          for (Index channel = 0; channel < from_; ++channel)
            for (const Index tap : grid.taps)
              for (Index j = first; j < first + columns; ++j, ++into) {
                if (j >= to_)
                  *into = S(0);
                else
                  *into =
                      to_places ? weights(group, j, channel, tap) : weights(group, channel, j, tap);
              }
        });
  }

  /// What an image is copied to.
  Index planes_size() const {
    return groups_ * from_ * plan_.planes().size() + plan_.overlap() + Tile::kWidth;
  }
  void copy(const S* image, S* planes) const {
    const Index size = plan_.planes().size();
    for (Index channel = 0; channel < groups_ * from_; ++channel)
      plan_.planes().copy(image + channel * from_size_, S(0), planes + channel * size);
    const Index copied = groups_ * from_ * size;
    std::fill_n(planes + copied, planes_size() - copied, S(0));
  }

  /// What the sums are written to, or added to.
  Index sums_size() const { return groups_ * to_ * plan_.lanes(); }
  void multiply(const S* planes, const S* panels, bool add, S* sums) const {
    for (Index group = 0; group < groups_; ++group) {
      for (const Piece& piece : plan_.pieces()) {
        const S* panel = panels;
        for (std::size_t grid = 0; grid < piece.grid; ++grid) panel += grid_panel_size(grid);
        multiply(piece, planes, panel, add, sums + piece.lane);
      }
      planes += from_ * plan_.planes().size();
      panels += group_panel_size();
      sums += to_ * plan_.lanes();
    }
  }

  /// The channels of the result, from the sums; `shift(channel)` is added.
  template <class Shift>
  void write(const S* sums, Shift&& shift, S* image) const {
    const Index size = plan_.result().size();
    for (Index channel = 0; channel < groups_ * to_; ++channel)
      plan_.result().copy(sums + channel * plan_.lanes(), shift(channel), image + channel * size);
  }

 private:
  /// The last tile is half as wide if that is enough.
  static constexpr Index kHalf = 4;

  template <class Body>
  void for_each_column_tile(Body&& body) const {
    for (Index first = 0; first < to_; first += Tile::kColumns)
      body(first, to_ - first <= kHalf ? kHalf : Tile::kColumns);
  }
  Index rounded_columns() const {
    Index columns = 0;
    for_each_column_tile([&](Index, Index count) { columns += count; });
    return columns;
  }
  Index grid_panel_size(std::size_t grid) const {
    return static_cast<Index>(offsets_[grid].size()) * rounded_columns();
  }
  Index group_panel_size() const {
    Index size = 0;
    for (std::size_t grid = 0; grid < offsets_.size(); ++grid) size += grid_panel_size(grid);
    return size;
  }

  void multiply(const Piece& piece, const S* planes, const S* panels, bool add, S* sums) const {
    const std::vector<int>& offsets = offsets_[piece.grid];
    const auto depth = static_cast<Index>(offsets.size());
    const S* const image = planes + piece.first;
    const Index packets = (piece.count + Tile::kWidth - 1) / Tile::kWidth;
    Index tiles = (packets + 2) / 3;
    for (Index packet = 0; packet < packets; --tiles) {
      const Index count = (packets - packet + tiles - 1) / tiles;  // of about equal sizes
      const Index row = packet * Tile::kWidth;
      packet += count;
      with_vectors(count, [&](auto vectors) {
        const S* panel = panels;
        for_each_column_tile([&](Index first, Index columns) {
          S* const to = sums + row + first * plan_.lanes();
          if (columns == kHalf)
            run<vectors(), kHalf>(depth, image + row, offsets.data(), panel, add,
                                  std::min(kHalf, to_ - first), to);
          else
            run<vectors(), Tile::kColumns>(depth, image + row, offsets.data(), panel, add,
                                           std::min(Tile::kColumns, to_ - first), to);
          panel += columns * depth;
        });
      });
    }
  }

  // Not inlined, where the registers that it needs would be taken.
  template <std::size_t Vectors, Index Columns>
  EIGEN_DONT_INLINE void run(Index depth, const S* image, const int* offsets, const S* panel,
                             bool add, Index columns, S* sums) const {
    using namespace Eigen::internal;  // NOLINT(google-build-using-namespace): packets' operations
    const Index stride = plan_.lanes();
    Tile::template run_over_windows<Vectors, static_cast<std::size_t>(Columns)>(
        depth, image, offsets, panel, [&](Index row, Index column, const Packet& sum) {
          if (column >= columns) return;
          S* const at = sums + row + column * stride;
          pstore(at, add ? padd(sum, pload<Packet>(at)) : sum);
        });
  }

  bool ready_ = false;
  WindowDirection direction_ = WindowDirection::ToPlaces;
  PatchGeometry<Axes> geometry_;
  WindowChannels channels_{1, 1, 1};
  Index groups_ = 1;
  Index from_ = 1, to_ = 1;  // channels of a group
  Index from_size_ = 1;
  WindowPlan<Axes> plan_;
  std::vector<std::vector<int>> offsets_;  // by grid: of each channel and tap
};

}  // namespace kfac::linalg::detail
