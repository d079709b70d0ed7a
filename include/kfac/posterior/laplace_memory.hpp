#pragma once

#include <cstddef>
#include <vector>

#include <kfac/curvature/memory_estimate.hpp>
#include <kfac/posterior/laplace_curvature.hpp>

namespace kfac {

/// What `fit_laplace` takes for a network of these blocks: of each random one the estimate of its
/// curvature and its covariance, and five vectors of all parameters.
/// \throws OptionError
template <RealScalar S>
MemoryEstimate laplace_memory(const std::vector<ParameterBlock>& blocks,
                              CurvatureStructure structure, const LaplaceOptions<S>& options = {}) {
  const std::vector<bool> random = detail::random_blocks("kfac::laplace_memory", blocks, options);
  std::vector<ParameterBlock> estimated;
  for (std::size_t i = 0; i < blocks.size(); ++i)
    if (random[i]) estimated.push_back(blocks[i]);
  MemoryEstimate estimate = curvature_memory<S>(estimated, structure);
  double parameters = 0;
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    const auto size = static_cast<double>(blocks[i].size());
    const auto a = static_cast<double>(blocks[i].columns());
    const auto g = static_cast<double>(blocks[i].outputs);
    parameters += size;
    if (!random[i]) continue;
    double bytes = size * (sizeof(S) + 2 * sizeof(double));  // variances, as they are made
    if (structure == CurvatureStructure::Full)
      bytes = 3 * size * size * sizeof(double);  // the precision and its factor
    else if (structure != CurvatureStructure::Diagonal && blocks[i].factored)
      bytes += (a * a + g * g + size) * sizeof(S) + 2 * (a * a + g * g) * sizeof(double);  // bases
    estimate.parts.push_back({blocks[i].name() + " covariance", bytes});
  }
  estimate.parts.push_back({"vectors", 5 * parameters * sizeof(S)});
  return estimate;
}

/// What `fit_full_laplace` takes, where `rows` is the most outputs times examples of a slice.
/// \throws OptionError
template <RealScalar S>
MemoryEstimate full_laplace_memory(const std::vector<ParameterBlock>& blocks,
                                   const LaplaceOptions<S>& options, Index rows) {
  const std::vector<bool> random =
      detail::random_blocks("kfac::full_laplace_memory", blocks, options);
  double parameters = 0, all = 0;
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    all += static_cast<double>(blocks[i].size());
    if (random[i]) parameters += static_cast<double>(blocks[i].size());
  }
  return {{{"curvature", parameters * parameters * sizeof(S)},
           {"precision", 3 * parameters * parameters * sizeof(double)},
           {"Jacobian", 2 * static_cast<double>(rows) * parameters * sizeof(S)},
           {"vectors", 5 * all * sizeof(S)}}};
}

}  // namespace kfac
