#pragma once

#include <memory>

#include <kfac/curvature/block_factory.hpp>
#include <kfac/curvature/diagonal_input_block.hpp>
#include <kfac/curvature/unitwise_block.hpp>
#include <kfac/nn/layer.hpp>

namespace kfac {

/// The kinds of blocks that layers have where nothing else is asked for: K-FAC's for linear maps
/// (`KroneckerBlock`), with a diagonal input factor for embeddings (`DiagonalInputBlock`), one
/// small matrix a unit for the scale and shift of normalisations (`UnitwiseBlock`), and none, a
/// plain gradient, for layers that announce nothing. Only those are compiled that layers of the
/// network's type can call for.
template <class Model>
BlockFactory<typename Model::Scalar> default_blocks() {
  using S = typename Model::Scalar;
  using Result = std::unique_ptr<CurvatureBlock<S>>;
  return [](const LayerView<S>& layer, const BlockOptions<S>& options) -> Result {
    constexpr BlockNeeds kNeeds = detail::block_needs_of<Model>();
    if constexpr (kNeeds.diagonal_input)
      if (layer.kronecker && layer.kronecker->diagonal_input)
        return std::make_unique<DiagonalInputBlock<S>>(options);
    if (layer.kronecker) return std::make_unique<KroneckerBlock<S>>(options);
    if constexpr (kNeeds.unitwise)
      if (layer.units > 0) return std::make_unique<UnitwiseBlock<S>>(options);
    return nullptr;
  };
}

}  // namespace kfac
