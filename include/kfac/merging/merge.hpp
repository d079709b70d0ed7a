#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <kfac/curvature/memory_estimate.hpp>
#include <kfac/merging/merge_equations.hpp>
#include <kfac/merging/merge_layout.hpp>
#include <kfac/merging/merge_result.hpp>

namespace kfac {

/// What `merge` takes for so many models of these blocks, beside what it is given: the result, and
/// all that is there while the largest block is merged.
template <RealScalar S>
MemoryEstimate merge_memory(const std::vector<ParameterBlock>& blocks, Index models,
                            const MergeOptions& options = {}) {
  MemoryEstimate::Part largest{"largest block", 0};
  double parameters = 0;
  const auto count = static_cast<double>(models);
  const bool uses_factors =
      options.method == MergeMethod::RegMean || options.method == MergeMethod::Kronecker;
  for (const ParameterBlock& block : blocks) {
    const auto a = static_cast<double>(block.columns());
    const auto g = static_cast<double>(block.outputs);
    parameters += a * g;
    double entries = (2 * count + 4) * a * g;
    if (block.factored && uses_factors)
      entries = (count + 12) * a * g + (2 * count + 8) * (a * a + g * g);
    const double bytes = entries * sizeof(double);
    if (bytes > largest.bytes) largest = {"block " + block.name(), bytes};
  }
  return {.parts = {{"merged parameters", parameters * sizeof(S)}, largest}};
}

namespace detail {

/// One call of `merge`.
template <RealScalar S>
class Merger {
 public:
  Merger(std::span<const MergeModel<S>> models, const MergeOptions& options)
      : models_(models), options_(options) {
    options.validate(kWhere);
    check_models(kWhere, models);
    layout_ = merge_layout(kWhere, models, options);
    for (std::size_t t = 0; t < models.size(); ++t)
      if (models[t].weight > 0) active_.push_back(t);
    check_memory(kWhere,
                 merge_memory<S>(layout_.blocks(), static_cast<Index>(active_.size()), options),
                 options.memory_limit);
    if (options.start == MergeStart::Given)
      check_size(kWhere, "initial", options.initial.size(), layout_.size, "entries");
    check_finite(kWhere, "initial", options.initial);
    if (options.method == MergeMethod::Kronecker && options.solver == MergeSolver::Exact &&
        active_.size() > 2)
      raise<OptionError>(std::string(kWhere) + ": 'solver' is Exact for " +
                         std::to_string(active_.size()) +
                         " models, expected at most 2, or ConjugateGradients");
  }

  MergeResult<S> run() const {
    MergeResult<S> result;
    result.parameters.resize(layout_.size);
    for (const MergeLayout::Part& part : layout_.parts) {
      MergedBlock merged{.block = part.block};
      const Matrix<double> x = part.head ? head(part, merged) : solve(part, merged);
      part.block.of(result.parameters) = x.template cast<S>();
      result.blocks.push_back(std::move(merged));
    }
    return result;
  }

 private:
  static constexpr const char* kWhere = "kfac::merge";

  Matrix<double> own_parameters(std::size_t model, std::size_t block) const {
    return models_[model].blocks[block].of(models_[model].parameters).template cast<double>();
  }

  Matrix<double> head(const MergeLayout::Part& part, MergedBlock& merged) const {
    if (options_.head_rule == HeadRule::Keep) {
      merged.merge = BlockMerge::Kept;
      return own_parameters(static_cast<std::size_t>(options_.head_of), part.sources[0]);
    }
    merged.merge = BlockMerge::Concatenated;
    Matrix<double> x(part.block.outputs, part.block.columns());
    Index row = 0;
    for (std::size_t t = 0; t < models_.size(); ++t) {
      const Matrix<double> own = own_parameters(t, part.sources[t]);
      x.middleRows(row, own.rows()) = own;
      row += own.rows();
    }
    return x;
  }

  Matrix<double> solve(const MergeLayout::Part& part, MergedBlock& merged) const {
    if (options_.method == MergeMethod::Average) return merged_average(terms(part));
    if (options_.method == MergeMethod::Diagonal || !part.block.factored) {
      std::vector<MergeTerm> all = terms(part);
      if (!add_diagonals(part, all)) return merged_average(all);
      merged.merge = BlockMerge::Diagonal;
      return merged_by_diagonals(all);
    }
    std::vector<MergeTerm> all = terms(part);
    add_factors(part, options_.method, all);
    if (options_.bias == MergeBias::Joint || !part.block.bias) return solve(part, all, merged);
    // The bias is the last column of [W b], and of A.
    Matrix<double> x = merged_average(all);
    const Index inputs = part.block.inputs;
    for (MergeTerm& term : all) {
      term.parameters.conservativeResize(Eigen::NoChange, inputs);
      term.factors.a.conservativeResize(inputs, inputs);
    }
    x.leftCols(inputs) = solve(part, all, merged);
    return x;
  }

  /// By factors.
  Matrix<double> solve(const MergeLayout::Part& part, const std::vector<MergeTerm>& all,
                       MergedBlock& merged) const {
    const std::string name = part.block.name();
    MergeSolution solution;
    if (options_.method == MergeMethod::RegMean) {
      merged.merge = BlockMerge::RegMean;
      solution = merged_by_grams(all, name);
    } else if (options_.solver == MergeSolver::Exact ||
               (options_.solver == MergeSolver::Automatic && all.size() <= 2)) {
      merged.merge = BlockMerge::Exact;
      solution = merged_exactly(all, name);
    } else {
      merged.merge = BlockMerge::ConjugateGradients;
      solution = merged_by_iteration(all, start(part, all), options_);
    }
    merged.relative_residual = solution.relative_residual;
    merged.iterations = solution.iterations;
    merged.status = solution.status;
    return std::move(solution.x);
  }

  Matrix<double> start(const MergeLayout::Part& part, const std::vector<MergeTerm>& all) const {
    if (options_.start == MergeStart::Given)
      return part.block.of(options_.initial).leftCols(all[0].parameters.cols());
    if (options_.start == MergeStart::Average) return merged_average(all);
    std::vector<MergeTerm> grams = terms(part);
    add_factors(part, MergeMethod::RegMean, grams);
    const Index columns = all[0].parameters.cols();
    for (MergeTerm& term : grams) {
      term.parameters.conservativeResize(Eigen::NoChange, columns);
      term.factors.a.conservativeResize(columns, columns);
    }
    return merged_by_grams(grams, part.block.name()).x;
  }

  /// The parameters and weights of a block, one of each model that has a weight.
  std::vector<MergeTerm> terms(const MergeLayout::Part& part) const {
    std::vector<MergeTerm> result;
    for (const std::size_t t : active_)
      result.push_back(
          {.parameters = own_parameters(t, part.sources[t]), .weight = models_[t].weight});
    return result;
  }

  const BlockEstimate<S>& estimate(std::size_t model, std::size_t block) const {
    const CurvatureEstimate<S>* curvature = models_[model].curvature;
    if (!curvature) lacks("no curvature", model, block);
    return curvature->blocks[block];
  }

  [[noreturn]] void lacks(const char* what, std::size_t model, std::size_t block) const {
    raise<StateError>(std::string(kWhere) + ": 'models[" + std::to_string(model) + "]' has " +
                      what + " to merge with, expected one of the structure that 'method' asks " +
                      "for (layer '" + models_[model].blocks[block].name() + "')");
  }

  /// False, and nothing is added, if a model has no such thing where nothing else is to be had.
  bool add_diagonals(const MergeLayout::Part& part, std::vector<MergeTerm>& all) const {
    for (std::size_t k = 0; k < active_.size(); ++k) {
      const std::size_t t = active_[k];
      const BlockEstimate<S>& own = estimate(t, part.sources[t]);
      Matrix<double> diagonal = own.diagonal.template cast<double>();
      if (own.diagonal.size() == 0 && own.full.size() > 0)
        diagonal = own.full.diagonal().template cast<double>().reshaped(part.block.outputs,
                                                                        part.block.columns());
      if (diagonal.size() == 0 && part.block.factored) lacks("no diagonal", t, part.sources[t]);
      if (diagonal.size() == 0) return false;
      diagonal.array() += options_.damping * diagonal.mean();
      all[k].diagonal = scale(t) * diagonal;
    }
    return true;
  }

  void add_factors(const MergeLayout::Part& part, MergeMethod method,
                   std::vector<MergeTerm>& all) const {
    for (std::size_t k = 0; k < active_.size(); ++k) {
      const std::size_t t = active_[k];
      const BlockEstimate<S>& own = estimate(t, part.sources[t]);
      if (!own.has_factors()) lacks("no factors", t, part.sources[t]);
      linalg::KroneckerTerm<double>& factors = all[k].factors;
      factors.a = own.factors.a.template cast<double>();
      const Vector<double> diagonal = factors.a.diagonal();
      factors.a *= options_.off_diagonal;
      factors.a.diagonal() = diagonal;
      damp(options_.damping, factors.a);
      if (method == MergeMethod::RegMean) {
        const Index examples = models_[t].curvature->record.examples;
        if (examples < 1)
          raise<ValueError>(std::string(kWhere) + ": 'models[" + std::to_string(t) +
                            "].curvature' is of 0 examples, expected at least 1");
        factors.a *= models_[t].weight * static_cast<double>(examples);
      } else {
        factors.g = scale(t) * own.factors.g.template cast<double>();
        damp(options_.output_damping, factors.g);
      }
    }
  }

  /// Makes the curvature of a model that of the sum of its criteria.
  double scale(std::size_t model) const {
    return models_[model].weight / models_[model].curvature->record.loss_scale;
  }

  std::span<const MergeModel<S>> models_;
  const MergeOptions& options_;
  MergeLayout layout_;
  std::vector<std::size_t> active_;  // the models that have a weight
};

}  // namespace detail

/// Makes one network of several of one architecture, which were trained on different data:
///
///     const std::vector models{kfac::merge_model(first, &first_curvature),
///                              kfac::merge_model(second, &second_curvature)};
///     const auto merged = kfac::merge(models);
///     kfac::set_flat_parameters(first, merged.parameters);
///     std::cout << merged.summary();
///
/// It minimises \f$ \sum_t \tfrac12 (\theta - \theta_t)^T F_t (\theta - \theta_t) \f$, where F_t is
/// the weight of a model times its curvature, block by block: of a linear map with K-FAC's factors,
/// \f$ \sum_t G_t W A_t = \sum_t G_t W_t A_t \f$. Each estimate counts by the sum of criteria over
/// its data, whatever the scale of its loss: a model of twice as much data weighs twice as much.
/// Averages go by the models' weights alone.
///
/// Layers without Kronecker structure are merged by their diagonals, or averaged where not all
/// models have one; the result says so. An EKFAC estimate counts by its factors. All work is in
/// double, and nothing is random.
/// \throws ShapeError if there are no models, or they are not of one architecture; ValueError (not
///         finite); OptionError, also for a weight; StateError, naming the layer, if an estimate
///         lacks what the method needs; SingularError, naming the layer, without enough damping;
///         MemoryError. What conjugate gradients do not reach is in the result.
/// \source Matena and Raffel 2022, arXiv 2111.09832 (diagonal); Jin et al. 2023, arXiv 2212.09849
///         (RegMean); Tam et al. 2024, arXiv 2312.04339 (K-FAC, conjugate gradients)
template <RealScalar S>
MergeResult<S> merge(std::span<const MergeModel<S>> models, const MergeOptions& options = {}) {
  return detail::Merger<S>(models, options).run();
}
template <RealScalar S>
MergeResult<S> merge(const std::vector<MergeModel<S>>& models, const MergeOptions& options = {}) {
  return merge(std::span<const MergeModel<S>>(models), options);
}

}  // namespace kfac
