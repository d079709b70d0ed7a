#pragma once

#include <algorithm>

#include <kfac/core/buffer.hpp>
#include <kfac/linalg/patches.hpp>
#include <kfac/nn/shared_batch.hpp>

namespace kfac::detail {

/// How many examples to make the columns of at once: enough columns for products with them to be
/// efficient.
inline Index examples_of_columns(Index positions) {
  constexpr Index kColumns = 640;
  return std::max<Index>(kColumns / positions, 1);
}

/// The patches of a batch of images as layers announce them: a few examples at a time, when they
/// are asked for. Those that a convolution multiplies are at places of the window
/// (`unfold_patches`), those of its adjoint at pixels (`spread_places`).
template <RealScalar S, std::size_t Axes>
class PatchSource final : public ColumnSource<S> {
 public:
  using Direction = linalg::detail::WindowDirection;

  /// `images`, `channels * plane_size` (or `positions`, to pixels) `x examples`, are used until the
  /// next call. The patches take at most `workspace` bytes, or those of one example.
  void begin(Direction direction, const PatchGeometry<Axes>& geometry,
             const ConstMatrixMap<S>& images, Index workspace) {
    direction_ = direction;
    geometry_ = geometry;
    images_ = images.data();
    examples_ = images.cols();
    const Index room =
        workspace / (positions() * geometry.features() * static_cast<Index>(sizeof(S)));
    step_ = std::max<Index>(std::min(examples_of_columns(positions()), room), 1);
  }

  Index examples_at_once() const override { return step_; }
  /// How many numbers they are.
  Index size_at_once() const {
    return std::min(step_, examples_) * positions() * geometry_.features();
  }
  /// How much memory it has taken, in bytes.
  Index bytes() const { return block_.capacity() * static_cast<Index>(sizeof(S)); }

  /// All patches; valid as long as this and the images are.
  SharedBatch<S> shared() const {
    return {*this, geometry_.features(), examples_ * positions(), positions()};
  }
  SharedBatch<S> columns_of(Index first_example, Index count) const override {
    const bool to_places = direction_ == Direction::ToPlaces;
    const Index size =
        geometry_.channels * (to_places ? geometry_.plane_size() : geometry_.positions());
    const ConstMatrixMap<S> images(images_ + first_example * size, size, count);
    MatrixMap<S> patches = block_.map(count * positions(), geometry_.features());
    if (to_places)
      unfold_patches<S>(geometry_, images, patches);
    else
      spread_places<S>(geometry_, images, patches);
    return {patches.data(), patches.cols(), patches.rows(), positions(),
            SharedBatch<S>::Order::RowMajor};
  }

 private:
  Index positions() const {
    return direction_ == Direction::ToPlaces ? geometry_.positions() : geometry_.plane_size();
  }

  Direction direction_ = Direction::ToPlaces;
  PatchGeometry<Axes> geometry_;
  const S* images_ = nullptr;
  Index examples_ = 0;
  Index step_ = 1;
  mutable Buffer<S> block_;
};

/// The places of a batch of images as columns, in the same way.
template <RealScalar S>
class PlaceSource final : public ColumnSource<S> {
 public:
  /// `images`, `(channels * positions) x examples`, are used until the next call.
  void begin(Index channels, const ConstMatrixMap<S>& images) {
    channels_ = channels;
    positions_ = images.rows() / channels;
    images_ = images.data();
    examples_ = images.cols();
  }

  Index examples_at_once() const override { return examples_of_columns(positions_); }
  /// How many numbers it copies at once.
  Index size_at_once() const {
    const Index count = std::min(examples_at_once(), examples_);
    return count == 1 ? 0 : count * positions_ * channels_;
  }

  SharedBatch<S> shared() const { return {*this, channels_, examples_ * positions_, positions_}; }
  SharedBatch<S> columns_of(Index first_example, Index count) const override {
    const S* const images = images_ + first_example * channels_ * positions_;
    if (count == 1) return {images, channels_, positions_, positions_, kOrder};
    MatrixMap<S> rows = block_.map(count * positions_, channels_);
    for (Index i = 0; i < count; ++i)
      rows.middleRows(i * positions_, positions_) =
          ConstMatrixMap<S>(images + i * channels_ * positions_, positions_, channels_);
    return {rows.data(), channels_, rows.rows(), positions_, kOrder};
  }

 private:
  static constexpr auto kOrder = SharedBatch<S>::Order::RowMajor;

  Index channels_ = 1;
  Index positions_ = 1;
  const S* images_ = nullptr;
  Index examples_ = 0;
  mutable Buffer<S> block_;
};

}  // namespace kfac::detail
