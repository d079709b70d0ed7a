#pragma once

#include <algorithm>

#include <kfac/core/buffer.hpp>
#include <kfac/linalg/patches.hpp>
#include <kfac/nn/shared_batch.hpp>

namespace kfac::detail {

/// The patches of a batch of images within a workspace of so many bytes: kept from the forward pass
/// on if there is room for all (and was in all passes before), otherwise made again, a few examples
/// at a time, when they are asked for. A block of memory for a few examples serves that, and
/// gradients and tangents of patches.
template <RealScalar S, std::size_t Axes>
class PatchMemory final : public ColumnSource<S> {
 public:
  /// Every pass begins here. `images`, `(channels * plane_size) x examples`, are used until the
  /// next.
  void begin(const PatchGeometry<Axes>& geometry, const ConstMatrixMap<S>& images,
             Index workspace) {
    geometry_ = geometry;
    images_ = images.data();
    examples_ = images.cols();
    // Few enough examples that what is computed for them stays in cache, and enough that the
    // products are efficient; not depending on the batch, since memory once taken stays.
    constexpr Index kRows = 512;
    const Index room =
        workspace / (geometry.positions() * geometry.features() * static_cast<Index>(sizeof(S)));
    step_ = std::max<Index>(std::min(kRows / geometry.positions(), room / 2), 1);
    // Once a batch was too large, smaller ones find no memory that is warm either.
    kept_ = kept_ && examples_ + step_ <= room;
  }

  const PatchGeometry<Axes>& geometry() const { return geometry_; }
  bool kept() const { return kept_; }
  /// How many examples to work on at once.
  Index examples_at_once() const override { return step_; }
  /// How much memory it has taken, in bytes.
  Index bytes() const {
    return (all_.capacity() + block_.capacity()) * static_cast<Index>(sizeof(S));
  }

  /// The patches of some examples, for the first time.
  ConstMatrixRef<S> make(Index first, Index count) {
    if (!kept_) return of(images_, first, count);
    MatrixRef<S> patches = rows(first, count);
    unfold_patches<S>(geometry_, columns(images_, first, count), patches);
    return patches;
  }
  /// And later on.
  ConstMatrixRef<S> get(Index first, Index count) {
    if (!kept_) return of(images_, first, count);
    return rows(first, count);
  }
  /// Those of other images, in the block.
  ConstMatrixRef<S> of(const S* images, Index first, Index count) {
    MatrixMap<S> patches = block(count);
    unfold_patches<S>(geometry_, columns(images, first, count), patches);
    return patches;
  }
  /// The block as `(count * positions) x features`.
  MatrixMap<S> block(Index count) {
    return block_.map(count * geometry_.positions(), geometry_.features());
  }

  /// All patches, as layers announce them; valid as long as this and the images are.
  SharedBatch<S> shared() const {
    const Index positions = geometry_.positions();
    const Index count = examples_ * positions;
    if (!kept_) return {*this, geometry_.features(), count, positions};
    return {all_.data(), geometry_.features(), count, positions, SharedBatch<S>::Order::RowMajor};
  }
  SharedBatch<S> columns_of(Index first_example, Index count) const override {
    const Index positions = geometry_.positions();
    MatrixMap<S> patches = block_.map(count * positions, geometry_.features());
    unfold_patches<S>(geometry_, columns(images_, first_example, count), patches);
    return {patches.data(), patches.cols(), patches.rows(), positions,
            SharedBatch<S>::Order::RowMajor};
  }

 private:
  ConstMatrixMap<S> columns(const S* images, Index first, Index count) const {
    const Index size = geometry_.channels * geometry_.plane_size();
    return {images + first * size, size, count};
  }
  MatrixRef<S> rows(Index first, Index count) {
    const Index positions = geometry_.positions();
    return all_.map(examples_ * positions, geometry_.features())
        .middleRows(first * positions, count * positions);
  }

  PatchGeometry<Axes> geometry_;
  const S* images_ = nullptr;
  Index examples_ = 0;
  Index step_ = 1;
  bool kept_ = true;
  Buffer<S> all_;
  mutable Buffer<S> block_;
};

}  // namespace kfac::detail
