#pragma once

#include <cstddef>
#include <utility>

#include <kfac/linalg/product_tile.hpp>

namespace kfac::linalg::detail {

/// What of a convolution is summed in registers: as `ProductTile`, but one operand is read from the
/// image where it lies instead of from a panel that it was unfolded to.
template <RealScalar S>
struct WindowTile {
  using Packet = typename ProductTile<S>::Packet;
  static constexpr Index kWidth = ProductTile<S>::kWidth;
  static constexpr std::size_t kVectors = 3;  ///< packets of a tile's rows, at most
  static constexpr Index kColumns = ProductTile<S>::kColumns;

  /// Rows are consecutive numbers of the image: sum over k of image[offsets[k] + row] times
  /// right[k * Columns + column]. Calls `store(row, column, packet)`.
  template <std::size_t Vectors, std::size_t Columns, class Store>
  static void run_over_windows(Index depth, const S* image, const int* offsets, const S* right,
                               Store&& store) {
    Sums<Vectors, Columns> sums;
    for (Index k = 0; k < depth; ++k) {
      const S* const from = image + offsets[k];
      sums.add([&](Index row) { return Eigen::internal::ploadu<Packet>(from + row); },
               [&](std::size_t column) { return right[column]; });
      right += Columns;
    }
    sums.store(store);
  }

  /// Rows are channels, columns points of images: sum over `channels`, `image_step` apart, and taps
  /// of image[at[column].from + tap.offset] times the packets of the tap in a panel, which has
  /// `panel_taps` for each channel. Calls `store(row, column, packet)`.
  template <std::size_t Vectors, std::size_t Columns, class Tap, class Point, class Store>
  static void run_over_channels(const Tap* taps, Index tap_count, Index channels, const S* image,
                                Index image_step, const S* panel, Index panel_taps, const Point* at,
                                Store&& store) {
    static constexpr Index kRows = Index{Vectors} * kWidth;
    Sums<Vectors, Columns> sums;
    Index from[Columns];
    for (std::size_t column = 0; column < Columns; ++column) from[column] = at[column].from;
    for (Index channel = 0; channel < channels; ++channel) {
      for (Index i = 0; i < tap_count; ++i) {
        const S* const own = image + taps[i].offset;
        const S* const left = panel + taps[i].tap * kRows;
        sums.add([&](Index row) { return Eigen::internal::pload<Packet>(left + row); },
                 [&](std::size_t column) { return own[from[column]]; });
      }
      image += image_step;
      panel += panel_taps * kRows;
    }
    sums.store(store);
  }

  /// Where `run_over_places` goes in an image.
  struct Places {
    Index examples, rows, count;  ///< of places in a row
    Index example_step, step;     ///< from an example, and from a place of a row, to the next
    const int* row_offsets;
  };

  /// Sums over places: panel[place][row] times the image at the place and offsets[column]; the
  /// panels of the packets of rows lie `panel_stride` apart. Calls `store(row, column, packet)`.
  template <std::size_t Vectors, std::size_t Columns, class Store>
  static void run_over_places(const Places& places, const S* panel, Index panel_stride,
                              const S* image, const int* offsets, Store&& store) {
    Sums<Vectors, Columns> sums;
    Index at[Columns];
    for (std::size_t column = 0; column < Columns; ++column) at[column] = offsets[column];
    for (Index example = 0; example < places.examples; ++example, image += places.example_step)
      for (Index row = 0; row < places.rows; ++row) {
        const S* from = image + places.row_offsets[row];
        for (Index i = 0; i < places.count; ++i, from += places.step, panel += kWidth)
          sums.add(
              [&](Index lane) {
                return Eigen::internal::pload<Packet>(panel + lane / kWidth * panel_stride);
              },
              [&](std::size_t column) { return from[at[column]]; });
      }
    sums.store(store);
  }

 private:
  /// By fold expressions, for the sums to be in registers at -O2 too.
  template <std::size_t Vectors, std::size_t Columns>
  class Sums {
   public:
    EIGEN_ALWAYS_INLINE Sums() {
      for (auto& column : sums_)
        for (Packet& sum : column) sum = Eigen::internal::pset1<Packet>(S(0));
    }
    template <class Left, class Right>
    EIGEN_ALWAYS_INLINE void add(Left&& left, Right&& right) {
      Packet packets[Vectors];
      load(packets, left, std::make_index_sequence<Vectors>());
      add_row(packets, right, std::make_index_sequence<Columns>());
    }
    template <class Store>
    EIGEN_ALWAYS_INLINE void store(Store&& store) const {
      for (std::size_t j = 0; j < Columns; ++j)
        for (std::size_t i = 0; i < Vectors; ++i)
          store(static_cast<Index>(i) * kWidth, static_cast<Index>(j), sums_[j][i]);
    }

   private:
    template <class Left, std::size_t... I>
    static EIGEN_ALWAYS_INLINE void load(Packet* packets, Left& left, std::index_sequence<I...>) {
      ((packets[I] = left(Index{I} * kWidth)), ...);
    }
    template <class Right, std::size_t... J>
    EIGEN_ALWAYS_INLINE void add_row(const Packet* left, Right& right, std::index_sequence<J...>) {
      (add_column(sums_[J], left, Eigen::internal::pset1<Packet>(right(J)),
                  std::make_index_sequence<Vectors>()),
       ...);
    }
    template <std::size_t... I>
    static EIGEN_ALWAYS_INLINE void add_column(Packet* sums, const Packet* left,
                                               const Packet& right, std::index_sequence<I...>) {
      ((sums[I] = Eigen::internal::pmadd(left[I], right, sums[I])), ...);
    }

    Packet sums_[Columns][Vectors];
  };
};

/// Calls `body(std::integral_constant<std::size_t, N>())` for N = `count`, 1 to 3.
template <class Body>
void with_vectors(Index count, Body&& body) {
  if (count == 3)
    body(std::integral_constant<std::size_t, 3>());
  else if (count == 2)
    body(std::integral_constant<std::size_t, 2>());
  else
    body(std::integral_constant<std::size_t, 1>());
}

}  // namespace kfac::linalg::detail
