#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include <kfac/curvature/parameter_block.hpp>
#include <kfac/linalg/krylov.hpp>

namespace kfac {

/// What was done with a block of parameters.
enum class BlockMerge {
  Average,
  Diagonal,
  RegMean,
  Exact,               ///< K-FAC's equations, for two models
  ConjugateGradients,  ///< K-FAC's equations
  Kept,                ///< a head, of one model
  Concatenated         ///< a head, of all models
};

struct MergedBlock {
  ParameterBlock block;  ///< in the merged parameters
  BlockMerge merge = BlockMerge::Average;
  /// What is left of the right-hand side \f$ \sum_t G_t W_t A_t \f$, of the solution before it is
  /// rounded to S; 0 where there is no equation.
  double relative_residual = 0;
  Index iterations = 0;  ///< of conjugate gradients
  linalg::KrylovStatus status = linalg::KrylovStatus::Converged;

  const char* merge_name() const {
    switch (merge) {
      case BlockMerge::Average:
        return "average";
      case BlockMerge::Diagonal:
        return "diagonal";
      case BlockMerge::RegMean:
        return "RegMean";
      case BlockMerge::Exact:
        return "K-FAC, exact";
      case BlockMerge::ConjugateGradients:
        return "K-FAC, conjugate gradients";
      case BlockMerge::Kept:
        return "kept";
      case BlockMerge::Concatenated:
        return "concatenated";
    }
    return "";
  }
};

/// What `merge` returns.
template <RealScalar S>
struct MergeResult {
  Vector<S> parameters;  ///< flat: for `set_flat_parameters`
  std::vector<MergedBlock> blocks;

  /// Whether each block's equations were solved to the tolerance.
  bool converged() const {
    return std::all_of(blocks.begin(), blocks.end(), [](const MergedBlock& block) {
      return block.status == linalg::KrylovStatus::Converged;
    });
  }
  double largest_residual() const {
    double largest = 0;
    for (const MergedBlock& block : blocks) largest = std::max(largest, block.relative_residual);
    return largest;
  }
  /// One line a block: its name, kind and size, what was done with it and, of equations, how well.
  std::string summary() const {
    std::string text;
    for (const MergedBlock& merged : blocks) {
      text += merged.block.name() + "  " + detail::text(merged.block) + "  " + merged.merge_name();
      if (merged.merge == BlockMerge::RegMean || merged.merge == BlockMerge::Exact ||
          merged.merge == BlockMerge::ConjugateGradients)
        text += "  residual " + detail::text(merged.relative_residual);
      if (merged.merge == BlockMerge::ConjugateGradients)
        text += " after " + std::to_string(merged.iterations) + " iterations";
      if (merged.status != linalg::KrylovStatus::Converged) text += ", not converged";
      text += '\n';
    }
    return text;
  }
};

}  // namespace kfac
