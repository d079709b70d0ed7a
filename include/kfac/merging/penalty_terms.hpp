#pragma once

#include <array>
#include <utility>
#include <vector>

#include <kfac/core/buffer.hpp>
#include <kfac/core/state.hpp>
#include <kfac/curvature/memory_estimate.hpp>
#include <kfac/linalg/nearest_kronecker.hpp>
#include <kfac/merging/penalty_options.hpp>

namespace kfac {

/// The curvature of earlier tasks in one block of parameters, of sums of criteria:
/// \f$ \sum_s A_s \otimes G_s \f$ and a diagonal. What there is not is empty.
template <RealScalar S>
struct PenaltyBlock {
  std::vector<linalg::KroneckerTerm<S>> terms;
  Matrix<S> diagonal;

  /// Adds `scale` times the product with V to `sum`, both `outputs x columns`.
  void add_product(const ConstMatrixRef<S>& v, S scale, MatrixRef<S> sum,
                   Buffer<S>& scratch) const {
    for (const linalg::KroneckerTerm<S>& term : terms) {
      if (term.a.size() == 0) continue;
      MatrixMap<S> half = scratch.map(v.rows(), v.cols());
      half.noalias() = term.g * v;
      sum.noalias() += scale * half * term.a;
    }
    if (diagonal.size() > 0) sum.array() += scale * diagonal.array() * v.array();
  }
};

/// \f$ \tfrac12 (\theta - \mu)^T F (\theta - \mu) \f$, with F block by block.
template <RealScalar S>
struct PenaltyQuadratic {
  Vector<S> centre;  ///< mu
  std::vector<PenaltyBlock<S>> blocks;
};

/// All that tasks change in a `LaplacePenalty`.
template <RealScalar S>
struct PenaltyState {
  Index tasks = 0;
  double examples = 0;    ///< of all tasks, decayed
  double loss_scale = 0;  ///< of the latest task's estimate
  std::vector<PenaltyQuadratic<S>> quadratics = {};
};

/// What a `LaplacePenalty` takes after so many tasks whose estimates have that structure, beside
/// four copies of the parameters that a step works in.
template <RealScalar S>
MemoryEstimate penalty_memory(const std::vector<ParameterBlock>& blocks,
                              CurvatureStructure structure, Index tasks,
                              const PenaltyOptions& options = {}) {
  const bool each = options.centre == PenaltyCentre::EachTask;
  const auto count = static_cast<double>(tasks);
  const double kept = each || options.compression == PenaltyCompression::KeepAll ? count : 1;
  MemoryEstimate estimate;
  double parameters = 0;
  for (const ParameterBlock& block : blocks) {
    const auto a = static_cast<double>(block.columns());
    const auto g = static_cast<double>(block.outputs);
    parameters += a * g;
    const bool factored = block.factored && structure != CurvatureStructure::Diagonal;
    const double entries = factored ? kept * (a * a + g * g) : (each ? count : 1) * a * g;
    estimate.parts.push_back({block.name(), entries * sizeof(S)});
  }
  estimate.parts.push_back({"centres", (each ? count + 1 : 1) * parameters * sizeof(S)});
  return estimate;
}

namespace detail {

/// A (x) G of two tasks, or of one if there is none before it.
template <RealScalar S>
linalg::KroneckerTerm<S> compressed(const linalg::KroneckerTerm<S>& before, double examples_before,
                                    const linalg::KroneckerTerm<S>& added, double examples,
                                    PenaltyCompression compression) {
  if (before.a.size() == 0) return added;
  if (compression == PenaltyCompression::FactorSum) {
    const double sum = examples_before + examples;
    return {
        static_cast<S>(examples_before / sum) * before.a + static_cast<S>(examples / sum) * added.a,
        before.g + added.g};
  }
  const std::array<linalg::KroneckerTerm<S>, 2> terms{before, added};
  linalg::NearestKronecker<S> nearest = linalg::nearest_kronecker<S>(terms);
  return {std::move(nearest.a), std::move(nearest.g)};
}

}  // namespace detail
}  // namespace kfac
