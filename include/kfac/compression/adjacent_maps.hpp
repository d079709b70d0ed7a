#pragma once

#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include <kfac/compression/replaced_maps.hpp>

namespace kfac::detail {

/// A linear map on its way into a network, and a layer of its kind.
template <RealScalar S>
struct MapPiece {
  UnitMap<S> map;
  AnyLayer<S> like;
  bool core = false;
};

/// One map for two in a row, if their product is one: where either is pointwise, and no bias of the
/// first would have to be padded with zeros.
template <RealScalar S>
std::optional<MapPiece<S>> product_of(const MapPiece<S>& first, const MapPiece<S>& second) {
  const UnitMap<S>& a = first.map;
  const UnitMap<S>& b = second.map;
  if (a.is_image != b.is_image || a.outputs() != b.inputs) return {};
  const Matrix<double> left = b.weight.leftCols(b.columns()).template cast<double>();
  const Matrix<double> right = a.weight.leftCols(a.columns()).template cast<double>();
  Vector<double> bias;
  if (b.bias) bias = b.weight.col(b.columns()).template cast<double>();
  if (a.bias) {
    // Every tap of the second sees the bias of the first.
    const Vector<double> below = a.weight.col(a.columns()).template cast<double>();
    if (bias.size() == 0) bias = Vector<double>::Zero(b.outputs());
    for (Index c = 0; c < b.inputs; ++c)
      bias += below(c) * left.middleCols(c * b.taps, b.taps).rowwise().sum();
  }
  const bool core = first.core || second.core;
  if (b.pointwise) {
    const Matrix<double> weight = left * right;
    return MapPiece<S>{map_of<S>(weight, bias, a, false), first.like, core};
  }
  if (!a.pointwise || (a.bias && b.padded)) return {};
  Matrix<double> weight(b.outputs(), a.inputs * b.taps);
  for (Index tap = 0; tap < b.taps; ++tap) {
    const Matrix<double> taken = left(Eigen::all, Eigen::seqN(tap, b.inputs, b.taps));
    weight(Eigen::all, Eigen::seqN(tap, a.inputs, b.taps)) = taken * right;
  }
  return MapPiece<S>{map_of<S>(weight, bias, b, false), second.like, core};
}

template <RealScalar S>
Index parameters_of(const std::vector<MapPiece<S>>& pieces) {
  Index count = 0;
  for (const MapPiece<S>& piece : pieces) count += piece.map.weight.size();
  return count;
}

/// Multiplies maps in a row out where that takes no more parameters, the best pair first; cores
/// too, or only what is around them.
template <RealScalar S>
void fold(std::vector<MapPiece<S>>& pieces, bool cores) {
  while (true) {
    Index best_saving = -1;
    std::size_t best = 0;
    std::optional<MapPiece<S>> folded;
    for (std::size_t i = 0; i + 1 < pieces.size(); ++i) {
      if (!cores && (pieces[i].core || pieces[i + 1].core)) continue;
      std::optional<MapPiece<S>> product = product_of(pieces[i], pieces[i + 1]);
      if (!product) continue;
      const Index saving = pieces[i].map.weight.size() + pieces[i + 1].map.weight.size() -
                           product->map.weight.size();
      if (saving <= best_saving) continue;
      best_saving = saving;
      best = i;
      folded = std::move(product);
    }
    if (!folded) return;
    pieces[best] = *std::move(folded);
    pieces.erase(pieces.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
}

}  // namespace kfac::detail
