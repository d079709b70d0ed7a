#pragma once

#include <functional>
#include <memory>
#include <type_traits>

#include <kfac/curvature/kronecker_block.hpp>
#include <kfac/nn/layer.hpp>

namespace kfac {

/// Picks the block of a layer (of each group of a grouped one), given options that fit it; null for
/// a plain gradient. Any function will do, so that layers can have different kinds:
///
///     const kfac::BlockFactory<float> blocks = [](const auto& layer, const auto& options)
///         -> std::unique_ptr<kfac::CurvatureBlock<float>> {
///       if (layer.name == "0") return std::make_unique<kfac::DiagonalBlock<float>>(options);
///       return std::make_unique<kfac::KroneckerBlock<float>>(options);
///     };
///
/// Layers that announce no inputs and output gradients have a block of all their parameters
/// (`outputs` of them, 1 input, no bias), fed with the gradient of each example.
template <RealScalar S>
using BlockFactory =
    std::function<std::unique_ptr<CurvatureBlock<S>>(const LayerView<S>&, const BlockOptions<S>&)>;

/// One kind for all layers that announce inputs and output gradients, and one for those that do not
/// (by default none: plain gradients).
///
///     using Ekfac = kfac::EkfacBlock<float>;
///     using Diagonal = kfac::DiagonalBlock<float>;
///     kfac::KfacOptimizer optimizer(model, loss, {}, kfac::block_factory<Ekfac, Diagonal>());
template <class Block, class Fallback = void>
BlockFactory<typename Block::Scalar> block_factory() {
  using S = typename Block::Scalar;
  using Result = std::unique_ptr<CurvatureBlock<S>>;
  return [](const LayerView<S>& layer, const BlockOptions<S>& options) -> Result {
    if (layer.kronecker) return std::make_unique<Block>(options);
    if constexpr (std::is_void_v<Fallback>)
      return nullptr;
    else
      return std::make_unique<Fallback>(options);
  };
}

}  // namespace kfac
