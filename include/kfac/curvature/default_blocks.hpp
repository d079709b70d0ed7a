#pragma once

#include <memory>

#include <kfac/curvature/block_factory.hpp>
#include <kfac/nn/layer.hpp>

namespace kfac {

/// The kinds of blocks that layers have where nothing else is asked for: K-FAC's for linear maps
/// (`KroneckerBlock`), with a diagonal input factor for embeddings (`DiagonalInputBlock`), one small
/// matrix a unit for the scale and shift of normalisations (`UnitwiseBlock`), and none, a plain
/// gradient, for layers that announce nothing. Only those are compiled that layers of the network's
/// type can call for.
template <class Model>
BlockFactory<typename Model::Scalar> default_blocks() {
  using S = typename Model::Scalar;
  using Result = std::unique_ptr<CurvatureBlock<S>>;
  return [](const LayerView<S>& layer, const BlockOptions<S>& options) -> Result {
    if (layer.kronecker) return std::make_unique<KroneckerBlock<S>>(options);
    return nullptr;
  };
}

}  // namespace kfac
