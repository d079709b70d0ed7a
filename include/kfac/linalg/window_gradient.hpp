#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <vector>

#include <kfac/core/buffer.hpp>
#include <kfac/core/parallel.hpp>
#include <kfac/linalg/product_packing.hpp>
#include <kfac/linalg/window_product.hpp>

namespace kfac::linalg::detail {

/// The gradient of a convolution's weights at the speed of a matrix product: for each place the
/// outer product of its gradient and its patch, which is read where it lies in the image.
template <RealScalar S, std::size_t Axes>
class WindowGradient {
  using Tile = WindowTile<S>;
  using Packet = typename Tile::Packet;
  static constexpr Index kWidth = Tile::kWidth;
  /// Gradients of so many places at a time are in the first cache.
  static constexpr Index kPlaces = 1024 / Index{sizeof(S)};

 public:
  void begin(const PatchGeometry<Axes>& geometry, const WindowChannels& channels) {
    if (ready_ && geometry == geometry_ && channels == channels_) return;
    channels_ = channels;
    geometry_ = geometry;
    padded_ = geometry.is_padded();
    std::array<Index, Axes> sizes = geometry.image;
    std::array<Index, Axes> rows{};
    for (std::size_t a = 0; a < Axes; ++a) {
      sizes[a] +=
          geometry.padding[a] + std::max<Index>(geometry.padding[a] + geometry.extra_padding[a], 0);
      rows[a] = geometry.places(a);
    }
    row_places_ = rows.back();
    rows.back() = 1;
    plane_ = size_of_box(sizes);
    const auto steps = row_major_steps(sizes);
    const auto image_steps = row_major_steps(geometry.image);
    images_.begin(plane_, 1, 1);
    for_each_index(geometry.image, [&](const auto& at) {
      Index into = 0;
      for (std::size_t a = 0; a < Axes; ++a) into += (at[a] + geometry.padding[a]) * steps[a];
      images_.add(into, flat_index(at, image_steps));
    });
    row_offsets_.clear();
    for_each_index(rows, [&](const auto& at) {
      Index offset = 0;
      for (std::size_t a = 0; a < Axes; ++a) offset += at[a] * geometry.stride[a] * steps[a];
      row_offsets_.push_back(static_cast<int>(offset));
    });
    offsets_.clear();
    for (Index channel = 0; channel < channels.in; ++channel)
      for_each_index(geometry.kernel, [&](const auto& at) {
        Index offset = channel * plane_;
        for (std::size_t a = 0; a < Axes; ++a) offset += at[a] * geometry.dilation[a] * steps[a];
        offsets_.push_back(static_cast<int>(offset));
      });
    ready_ = true;
  }

  /// into += the sum over `examples` images, one after another, as are the gradients. `into` has,
  /// for each group, `out x (in * taps)`, column-major; with `bias` there are biases behind the
  /// weights of each group, which get the gradients' own sums.
  void add(Index examples, const S* images, const S* gradients, bool bias, S* into) const {
    add(examples, images, gradients, bias, bias, into);
  }
  /// Without these sums.
  void add_weights(Index examples, const S* images, const S* gradients, bool bias, S* into) const {
    add(examples, images, gradients, bias, false, into);
  }

 private:
  /// Some weights of a group.
  struct Part {
    Index group;
    Index first_out, end_out, first_in, end_in;
  };

  void add(Index examples, const S* images, const S* gradients, bool bias, bool adds_bias,
           S* into) const {
    // Threads take different weights: no sum is ever divided.
    const Index threads = kfac::detail::parallelism();
    const Index groups = std::min(threads, channels_.groups);
    const Index packets = (channels_.out + kWidth - 1) / kWidth;
    const Index rows = std::min(threads / groups, packets);
    const Index columns = std::min(threads / groups / rows, channels_.in);
    kfac::detail::parallel_for(groups * rows * columns, [&](Index part) {
      const Index group = part / (rows * columns);
      const Index row = part / columns % rows;
      const Index column = part % columns;
      Part own{.group = 0,
               .first_out = packets * row / rows * kWidth,
               .end_out = std::min(packets * (row + 1) / rows * kWidth, channels_.out),
               .first_in = channels_.in * column / columns,
               .end_in = channels_.in * (column + 1) / columns};
      const Index end = channels_.groups * (group + 1) / groups;
      for (own.group = channels_.groups * group / groups; own.group < end; ++own.group)
        add(own, examples, images, gradients, bias, adds_bias && column == 0, into);
    });
  }

  void add(const Part& part, Index examples, const S* images, const S* gradients, bool bias,
           bool adds_bias, S* into) const {
    thread_local Buffer<S> memory;
    const auto rows = static_cast<Index>(row_offsets_.size());
    const Index places = rows * row_places_;
    const Index examples_at_once = std::clamp<Index>(kPlaces / places, 1, examples);
    const Index rows_at_once = std::clamp<Index>(kPlaces / row_places_, 1, rows);
    const Index outs = part.end_out - part.first_out;
    const Index packets = (outs + kWidth - 1) / kWidth;
    const Index channels = part.end_in - part.first_in;
    const Index panel = examples_at_once * rows_at_once * row_places_ * kWidth;
    S* const panels =
        memory.map(packets * panel + (padded_ ? examples_at_once * channels * plane_ : 0), 1)
            .data();
    S* const copies = panels + packets * panel;

    const Index taps = geometry_.taps();
    const Index group_size = channels_.out * (channels_.in * taps + (bias ? 1 : 0));
    S* const weights = into + part.group * group_size + part.first_out;
    const Index image_size = channels_.groups * channels_.in * geometry_.plane_size();
    const Index gradient_size = channels_.groups * channels_.out * places;
    const Index first_channel = part.group * channels_.in + part.first_in;

    for (Index first = 0; first < examples; first += examples_at_once) {
      const Index count = std::min(examples_at_once, examples - first);
      const S* image = images + first * image_size + first_channel * geometry_.plane_size();
      Index image_step = image_size;
      if (padded_) {
        for (Index i = 0; i < count * channels; ++i)
          images_.copy(image + i / channels * image_size + i % channels * geometry_.plane_size(),
                       S(0), copies + i * plane_);
        image = copies;
        image_step = channels * plane_;
      }
      for (Index row = 0; row < rows; row += rows_at_once) {
        const typename Tile::Places at{.examples = count,
                                       .rows = std::min(rows_at_once, rows - row),
                                       .count = row_places_,
                                       .example_step = image_step,
                                       .step = geometry_.stride.back(),
                                       .row_offsets = row_offsets_.data() + row};
        const Index depth = at.rows * row_places_;
        for (Index i = 0; i < count; ++i) {
          const S* const gradient = gradients + (first + i) * gradient_size +
                                    (part.group * channels_.out + part.first_out) * places +
                                    row * row_places_;
          const Strided<S> operand{gradient, outs, depth, places, 1};
          for (Index packet = 0; packet < packets; ++packet)
            LanePacking<kWidth, S>::pack(operand, packet * kWidth, 0, depth,
                                         panels + packet * panel + i * depth * kWidth);
          if (!adds_bias) continue;
          S* const biases = weights + channels_.out * channels_.in * taps;
          for (Index o = 0; o < outs; ++o)
            biases[o] += ConstVectorMap<S>(gradient + o * places, depth).sum();
        }
        multiply(at, panels, panel, image, outs, channels * taps,
                 weights + channels_.out * part.first_in * taps);
      }
    }
  }

  void multiply(const typename Tile::Places& at, const S* panels, Index panel, const S* image,
                Index outs, Index features, S* weights) const {
    const Index packets = (outs + kWidth - 1) / kWidth;
    for (Index column = 0; column < features; column += Tile::kColumns) {
      const Index columns = std::min(Tile::kColumns, features - column);
      // What is beyond the last column is summed for nothing.
      std::array<int, static_cast<std::size_t>(Tile::kColumns)> offsets;
      for (Index j = 0; j < Tile::kColumns; ++j)
        offsets[static_cast<std::size_t>(j)] =
            offsets_[static_cast<std::size_t>(column + std::min(j, columns - 1))];
      Index tiles = (packets + 2) / 3;
      for (Index packet = 0; packet < packets; --tiles) {
        const Index count = (packets - packet + tiles - 1) / tiles;
        const Index row = packet * kWidth;
        const Index rows = std::min(count * kWidth, outs - row);
        S* const to = weights + row + column * channels_.out;
        with_vectors(count, [&](auto vectors) {
          const S* const left = panels + packet * panel;
          if (columns <= 4)
            run<vectors(), 4>(at, left, panel, image, offsets.data(), rows, columns, to);
          else
            run<vectors(), Tile::kColumns>(at, left, panel, image, offsets.data(), rows, columns,
                                           to);
        });
        packet += count;
      }
    }
  }

  // Not inlined, where the registers that it needs would be taken.
  template <std::size_t Vectors, Index Columns>
  EIGEN_DONT_INLINE void run(const typename Tile::Places& at, const S* panels, Index panel,
                             const S* image, const int* offsets, Index rows, Index columns,
                             S* weights) const {
    using namespace Eigen::internal;  // NOLINT(google-build-using-namespace): packets' operations
    const Index stride = channels_.out;
    const bool whole = rows == Index{Vectors} * kWidth;
    Tile::template run_over_places<Vectors, static_cast<std::size_t>(Columns)>(
        at, panels, panel, image, offsets, [&](Index row, Index column, const Packet& sum) {
          if (column >= columns) return;
          S* const to = weights + row + column * stride;
          if (whole || row + kWidth <= rows) {
            pstoreu(to, padd(sum, ploadu<Packet>(to)));
            return;
          }
          EIGEN_ALIGN_TO_BOUNDARY(64) S sums[static_cast<std::size_t>(kWidth)];
          pstore(sums, sum);
          for (Index i = 0; row + i < rows; ++i) to[i] += sums[i];
        });
  }

  bool ready_ = false;
  PatchGeometry<Axes> geometry_;
  WindowChannels channels_{1, 1, 1};
  bool padded_ = false;
  Index row_places_ = 1;
  Index plane_ = 1;               // pixels of a padded channel
  RowCopies images_;              // from a channel to a padded one
  std::vector<int> row_offsets_;  // of the rows of places
  std::vector<int> offsets_;      // of the entries of a patch
};

}  // namespace kfac::linalg::detail
