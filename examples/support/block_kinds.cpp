#include "support/block_kinds.hpp"

#include <kfac/curvature/diagonal_block.hpp>
#include <kfac/curvature/ekfac_block.hpp>
#include <kfac/curvature/full_block.hpp>
#include <kfac/curvature/kronecker_block.hpp>
#include <kfac/curvature/kronecker_eigen_block.hpp>
#include <kfac/curvature/kronecker_fit_block.hpp>
#include <kfac/curvature/tensor_normal_block.hpp>

namespace examples {

std::vector<BlockKind> block_kinds() {
  using kfac::block_factory;
  return {{"exact block", block_factory<kfac::FullBlock<double>>()},
          {"diagonal", block_factory<kfac::DiagonalBlock<double>>()},
          {"K-FAC (split)", block_factory<kfac::KroneckerBlock<double>>(), true},
          {"K-FAC", block_factory<kfac::KroneckerEigenBlock<double>>()},
          {"EKFAC", block_factory<kfac::EkfacBlock<double>>()},
          {"KFOC", block_factory<kfac::KroneckerFitBlock<double>>()},
          {"TNT", block_factory<kfac::TensorNormalBlock<double>>()}};
}

}  // namespace examples
