#pragma once

#include <algorithm>
#include <array>
#include <cstddef>

#include <kfac/linalg/transpose.hpp>
#include <kfac/linalg/window_points.hpp>
#include <kfac/linalg/window_product.hpp>

namespace kfac::linalg::detail {

/// As `WindowProduct`, but with the channels of the result side by side in registers, not its
/// points: images are read where they lie, by single numbers, whatever strides and padding are, and
/// only what counts is multiplied. For results with channels enough to fill registers. Points come
/// from several images at a time.
template <RealScalar S, std::size_t Axes>
class ChannelProduct {
  using Tile = WindowTile<S>;
  using Packet = typename Tile::Packet;
  static constexpr Index kWidth = Tile::kWidth;
  using Kind = typename WindowPoints<Axes>::Kind;
  using Point = typename WindowPoints<Axes>::Point;

 public:
  void begin(WindowDirection direction, const PatchGeometry<Axes>& geometry,
             const WindowChannels& channels) {
    if (ready_ && geometry == geometry_ && channels == channels_) return;
    direction_ = direction;
    geometry_ = geometry;
    channels_ = channels;
    const bool to_places = direction == WindowDirection::ToPlaces;
    from_ = to_places ? channels.in : channels.out;
    to_ = to_places ? channels.out : channels.in;
    if (to_places)
      points_.read_pixels(geometry);
    else
      points_.read_places(geometry);
    from_size_ = to_places ? geometry.plane_size() : geometry.positions();
    to_size_ = to_places ? geometry.positions() : geometry.plane_size();
    packets_ = (to_ + kWidth - 1) / kWidth;
    ready_ = true;
  }

  Index image_size() const { return channels_.groups * from_ * from_size_; }
  Index result_size() const { return channels_.groups * to_ * to_size_; }
  /// The multiplications and additions of an image, and as many more as writing it takes, which
  /// counts where they are few.
  double work() const {
    constexpr Index kWriting = 4;
    return static_cast<double>(points_.terms() * from_ + kWriting * to_size_) *
           static_cast<double>(channels_.groups * lanes());
  }

  /// How many numbers the weights take in panels: for each few packets of channels, those of all
  /// entries.
  Index panel_size() const { return channels_.groups * group_panel_size(); }
  void pack(const WindowWeights<S>& weights, S* into) const {
    const bool to_places = direction_ == WindowDirection::ToPlaces;
    for (Index group = 0; group < channels_.groups; ++group)
      for_each_row_tile([&](Index first, Index packets) {
        for (Index channel = 0; channel < from_; ++channel)
          for (Index tap = 0; tap < geometry_.taps(); ++tap)
            for (Index lane = first; lane < first + packets * kWidth; ++lane, ++into) {
              if (lane >= to_)
                *into = S(0);
              else
                *into = to_places ? weights(group, lane, channel, tap)
                                  : weights(group, channel, lane, tap);
            }
      });
  }

  /// How many images are best taken together.
  Index images_at_once() const {
    return std::clamp<Index>(kSums / (to_size_ * lanes()), 1, Tile::kColumns);
  }

  /// The sums of a group: the channels of each point of the images together.
  Index sums_size(Index images) const { return images * to_size_ * lanes(); }
  void multiply(Index group, const S* images, Index count, const S* panels, bool add,
                S* sums) const {
    const S* panel = panels + group * group_panel_size();
    for_each_row_tile([&](Index first, Index packets) {
      with_vectors(packets, [&](auto vectors) {
        for (const Kind& kind : points_.kinds())
          multiply<vectors()>(kind, images + group * from_ * from_size_, count, panel, add,
                              sums + first);
      });
      panel += packets * kWidth * from_ * geometry_.taps();
    });
  }

  /// The channels of a group of the results, from the sums; `shift(channel)` is added.
  template <class Shift>
  void write(Index group, const S* sums, Index count, Shift&& shift, S* results) const {
    for (Index image = 0; image < count; ++image)
      Transpose<S>::run(
          sums + sums_size(image), lanes(), to_size_, to_,
          [&](Index channel) { return shift(group * to_ + channel); },
          results + image * result_size() + group * to_ * to_size_, to_size_);
  }

 private:
  /// So many sums stay in the second cache.
  static constexpr Index kSums = Index{1} << 15;
  static constexpr Index kHalf = 4;

  Index lanes() const { return packets_ * kWidth; }
  Index group_panel_size() const { return lanes() * from_ * geometry_.taps(); }

  /// Calls `body(first channel, packets)`.
  template <class Body>
  void for_each_row_tile(Body&& body) const {
    Index tiles = (packets_ + 2) / 3;
    for (Index packet = 0; packet < packets_; --tiles) {
      const Index count = (packets_ - packet + tiles - 1) / tiles;  // of about equal sizes
      body(packet * kWidth, count);
      packet += count;
    }
  }

  template <std::size_t Vectors>
  void multiply(const Kind& kind, const S* images, Index count, const S* panel, bool add,
                S* sums) const {
    const Index end = static_cast<Index>(kind.points.size()) * count;
    auto next = kind.points.begin();
    Point image{0, 0};
    for (Index first = 0; first < end; first += Tile::kColumns) {
      const Index columns = std::min(Tile::kColumns, end - first);
      // What is beyond the last point is summed for nothing.
      std::array<Point, static_cast<std::size_t>(Tile::kColumns)> at{};
      for (std::size_t j = 0; j < static_cast<std::size_t>(columns); ++j) {
        at[j] = {image.from + next->from, image.to + next->to * lanes()};
        if (++next != kind.points.end()) continue;
        next = kind.points.begin();
        image = {image.from + image_size(), image.to + sums_size(1)};
      }
      if (columns <= kHalf)
        run<Vectors, kHalf>(kind, images, panel, at.data(), columns, add, sums);
      else
        run<Vectors, Tile::kColumns>(kind, images, panel, at.data(), columns, add, sums);
    }
  }

  // Not inlined, where the registers that it needs would be taken.
  template <std::size_t Vectors, Index Columns>
  EIGEN_DONT_INLINE void run(const Kind& kind, const S* images, const S* panel, const Point* at,
                             Index columns, bool add, S* sums) const {
    using namespace Eigen::internal;  // NOLINT(google-build-using-namespace): packets' operations
    Tile::template run_over_channels<Vectors, static_cast<std::size_t>(Columns)>(
        kind.taps.data(), static_cast<Index>(kind.taps.size()), from_, images, from_size_, panel,
        geometry_.taps(), at, [&](Index row, Index column, const Packet& sum) {
          if (column >= columns) return;
          S* const to = sums + at[column].to + row;
          pstore(to, add ? padd(sum, pload<Packet>(to)) : sum);
        });
  }

  bool ready_ = false;
  WindowDirection direction_ = WindowDirection::ToPlaces;
  PatchGeometry<Axes> geometry_;
  WindowChannels channels_{1, 1, 1};
  Index from_ = 1, to_ = 1;  // channels of a group
  Index from_size_ = 1, to_size_ = 1;
  Index packets_ = 1;  // of the channels of a group of the result
  WindowPoints<Axes> points_;
};

}  // namespace kfac::linalg::detail
