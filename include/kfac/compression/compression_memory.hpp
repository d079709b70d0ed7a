#pragma once

#include <limits>
#include <string>
#include <vector>

#include <kfac/curvature/memory_estimate.hpp>

namespace kfac {

/// What the functions of `kfac/compression` take at most beside the network and the estimate: they
/// work on one block at a time, in double. For a block of a columns and g outputs: eight matrices
/// like each factor (its copies, and what a decomposition takes) and twelve like the parameters,
/// 8 (8 a^2 + 8 g^2 + 12 a g) bytes; of a `Full` estimate five matrices of (a g)^2 in place of the
/// factors, of a `Diagonal` one neither.
inline MemoryEstimate compression_memory(const std::vector<ParameterBlock>& blocks,
                                         CurvatureStructure structure) {
  MemoryEstimate::Part largest;
  for (const ParameterBlock& block : blocks) {
    const auto a = static_cast<double>(block.columns());
    const auto g = static_cast<double>(block.outputs);
    double entries = 12 * a * g;
    if (structure == CurvatureStructure::Full)
      entries += 5 * a * g * a * g;
    else if (block.factored && structure != CurvatureStructure::Diagonal)
      entries += 8 * (a * a + g * g);
    if (entries * sizeof(double) > largest.bytes)
      largest = {block.name(), entries * sizeof(double)};
  }
  MemoryEstimate estimate;
  if (largest.bytes > 0) estimate.parts.push_back(largest);
  return estimate;
}

namespace detail {

/// What most options of compression have: checked where they are used.
inline void check_compression(const char* where, double damping, double memory_limit,
                              const std::vector<ParameterBlock>& blocks,
                              CurvatureStructure structure) {
  check_option(damping >= 0 && damping <= std::numeric_limits<double>::max(), where, "damping",
               damping, ">= 0 and finite");
  check_memory(where, compression_memory(blocks, structure), memory_limit);
}

}  // namespace detail
}  // namespace kfac
