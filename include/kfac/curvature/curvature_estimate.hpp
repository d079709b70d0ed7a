#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <kfac/curvature/fisher.hpp>
#include <kfac/curvature/parameter_block.hpp>
#include <kfac/linalg/kronecker_eigen.hpp>
#include <kfac/linalg/kronecker_term.hpp>

namespace kfac {

/// What the blocks of a `CurvatureEstimate` are. Where a layer announces no inputs and output
/// gradients (a normalisation's scale and shift, a layer of one's own), its block is the diagonal
/// for all kinds but `Full`.
enum class CurvatureStructure {
  Diagonal,
  Kronecker,  ///< A (x) G
  /// A (x) G in its eigenbasis, with the second moments there as eigenvalues once they are fitted.
  Ekfac,
  Full,  ///< the exact block, dense: for small layers
};

/// What an estimate is of: recorded with it where it is saved.
struct CurvatureRecord {
  CurvatureStructure structure = CurvatureStructure::Kronecker;
  FisherType fisher = FisherType::Type2;
  Index samples = 1;       ///< drawn for each example, where the Fisher type samples
  std::uint64_t seed = 0;  ///< of those
  WeightSharing sharing = WeightSharing::Expand;
  Index examples = 0;  ///< N, of the data
  /// R of the loss L = R sum_n c_n over the data whose curvature this is, c_n being the criterion
  /// of one example, summed over everything in it: 1 for a sum of cross-entropies, 1 / N for their
  /// mean, 2 / (N outputs) for a mean squared error (whose criterion has a 1/2).
  double loss_scale = 1;
  /// Whether the loss is a mean over the examples, whose R falls as they become more; a sum's is
  /// the same for any number.
  bool averages = true;
  Index moment_examples = 0;  ///< of the data of EKFAC's second moments; 0: there are none

  bool operator==(const CurvatureRecord&) const = default;
};

/// The curvature of one block of parameters, in one or more forms; what there is not is empty.
template <RealScalar S>
struct BlockEstimate {
  ParameterBlock block;
  linalg::KroneckerTerm<S> factors = {};  ///< A and G, which carries the scale of the loss
  /// Eigenbases of A and G and, in them, eigenvalues: the outer product of theirs or, where
  /// `has_moments`, the second moments of the examples' own gradients (EKFAC).
  linalg::KroneckerEigen<S> eigen = {};
  bool has_moments = false;
  Matrix<S> diagonal = {};  ///< `outputs x columns`
  Matrix<S> full = {};      ///< `size x size`, where [W b] is stacked by columns

  bool has_factors() const { return factors.a.size() > 0; }
  bool is_empty() const { return !has_factors() && diagonal.size() == 0 && full.size() == 0; }
};

/// The curvature of a loss over a data set at the parameters that a network had, block by block,
/// without the network: what posteriors, influence functions, compression and merging start from,
/// and what `kfac/io/curvature_file.hpp` writes. Made by `estimate_curvature`.
template <RealScalar S>
struct CurvatureEstimate {
  using Scalar = S;

  CurvatureRecord record;
  /// All parameters, in the order of `parameter_blocks`.
  std::vector<BlockEstimate<S>> blocks = {};

  Index parameters() const {
    return blocks.empty() ? 0 : blocks.back().block.offset + blocks.back().block.size();
  }
};

namespace detail {

/// Such as "Linear 10x(64+1)".
inline std::string text(const ParameterBlock& block) {
  return block.kind + ' ' + std::to_string(block.outputs) + "x(" + std::to_string(block.inputs) +
         (block.bias ? "+1)" : ")");
}

/// Raises a ShapeError, naming the layer, unless the estimate is of such blocks.
template <RealScalar S>
void check_estimate(const char* where, const CurvatureEstimate<S>& estimate,
                    const std::vector<ParameterBlock>& blocks) {
  check_size(where, "estimate", static_cast<Index>(estimate.blocks.size()),
             static_cast<Index>(blocks.size()), "blocks");
  for (std::size_t i = 0; i < blocks.size(); ++i)
    if (!(estimate.blocks[i].block == blocks[i]))
      raise<ShapeError>(std::string(where) + ": 'estimate' has block '" +
                        estimate.blocks[i].block.name() + "', " + text(estimate.blocks[i].block) +
                        ", expected '" + blocks[i].name() + "', " + text(blocks[i]));
}

}  // namespace detail
}  // namespace kfac
