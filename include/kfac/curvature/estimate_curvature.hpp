#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <kfac/curvature/curvature_estimate.hpp>
#include <kfac/curvature/curvature_estimator.hpp>
#include <kfac/curvature/diagonal_block.hpp>
#include <kfac/curvature/full_block.hpp>
#include <kfac/curvature/memory_estimate.hpp>
#include <kfac/data/slices.hpp>

namespace kfac {

struct EstimateOptions {
  CurvatureStructure structure = CurvatureStructure::Kronecker;
  FisherType fisher = FisherType::Type2;
  Index samples = 1;       ///< drawn for each example (Monte-Carlo, curvature propagation); >= 1
  std::uint64_t seed = 0;  ///< of those samples
  WeightSharing sharing = WeightSharing::Expand;
  /// Which layers to estimate, by name; the blocks of others are left empty. Not set: all.
  std::function<bool(const std::string&)> layers = {};
  /// Bytes that the estimate may take, > 0: more is refused before anything is allocated.
  double memory_limit = std::numeric_limits<double>::infinity();
};

namespace detail {

/// Fits the blocks that `factory` picks to slices of a data set, and calls `take(layer, block)`
/// with each in turn. Records what data those were.
template <class Model, Loss L, class Take>
void fit_blocks(Model& model, const L& loss,
                const std::vector<Slice<typename L::Scalar, typename L::Targets>>& slices,
                const BlockFactory<typename L::Scalar>& factory, CurvatureRecord& record,
                Take&& take) {
  using S = typename L::Scalar;
  CurvatureEstimator estimator(model, loss,
                               EstimatorOptions<S>{.fisher = record.fisher,
                                                   .samples = record.samples,
                                                   .seed = record.seed,
                                                   .sharing = record.sharing},
                               factory);
  for (Index pass = 0; estimator.begin_pass(pass); ++pass) {
    for (const auto& slice : slices)
      estimator.add(slice.inputs, slice.targets, {.shape = slice.shape});
    estimator.end_pass();
  }
  record.examples = estimator.examples();
  record.loss_scale = estimator.loss_scale();
  record.averages = estimator.averages();
  for (const auto& layer : estimator.layers())
    for (const auto& block : layer->blocks()) take(*block);
}

/// The scale of a loss over N examples, R N: that of the curvature of a mean over them.
inline double mean_scale(const CurvatureRecord& record) {
  return record.loss_scale * static_cast<double>(record.examples);
}

/// The diagonal of a block in the eigenbases of an estimate's: the second moments of EKFAC.
template <RealScalar S>
class MomentsBlock final : public DiagonalBlock<S> {
 public:
  /// \pre `eigen` outlives it
  MomentsBlock(BlockOptions<S> options, const linalg::KroneckerEigen<S>& eigen)
      : DiagonalBlock<S>("kfac::fit_moments", std::move(options)), eigen_(eigen) {}
  std::unique_ptr<CurvatureBlock<S>> clone() const override {
    return std::unique_ptr<CurvatureBlock<S>>(new MomentsBlock(*this));
  }

 private:
  std::pair<const Matrix<S>*, const Matrix<S>*> bases() const override {
    return {&eigen_.input_basis().vectors, &eigen_.output_basis().vectors};
  }

  const linalg::KroneckerEigen<S>& eigen_;
};

}  // namespace detail

/// Makes the eigenbases of all factors, in double whatever the scalar. What was fitted in others is
/// forgotten.
/// \throws ValueError, naming the layer, if a factor is not finite; the estimate is as it was then
template <RealScalar S>
void decompose(CurvatureEstimate<S>& estimate) {
  std::vector<linalg::KroneckerEigen<S>> bases;
  for (const BlockEstimate<S>& block : estimate.blocks) {
    linalg::KroneckerEigen<S>& eigen = bases.emplace_back();
    if (block.has_factors() && !eigen.compute(block.factors.a, block.factors.g))
      raise<ValueError>("kfac::decompose: a factor is not finite (layer '" + block.block.name() +
                        "')");
  }
  for (std::size_t i = 0; i < bases.size(); ++i) {
    estimate.blocks[i].eigen = std::move(bases[i]);
    estimate.blocks[i].has_moments = false;
  }
  if (estimate.record.structure == CurvatureStructure::Ekfac)
    estimate.record.structure = CurvatureStructure::Kronecker;
  estimate.record.moment_examples = 0;
}

/// Replaces the eigenvalues in the bases of `decompose` by the second moments of the examples' own
/// gradients in them, which makes K-FAC EKFAC: the nearest matrix to the exact block in those
/// bases. The vectors are those of the estimate's record, with its seed. The slices may be of other
/// data, of which the mean is taken: the scale stays that of the record.
/// \throws StateError if the estimate has no factors, or before `decompose`; ShapeError if it is
/// not
///         of such a network; likewise
/// \source George et al. 2018, arXiv 1806.03884
template <class Model, Loss L>
void fit_moments(CurvatureEstimate<typename L::Scalar>& estimate, Model& model, const L& loss,
                 const std::vector<Slice<typename L::Scalar, typename L::Targets>>& slices) {
  using S = typename L::Scalar;
  static constexpr const char* kWhere = "kfac::fit_moments";
  detail::check_estimate(kWhere, estimate, parameter_blocks(model));
  if (estimate.record.structure == CurvatureStructure::Diagonal ||
      estimate.record.structure == CurvatureStructure::Full)
    raise<StateError>(std::string(kWhere) + ": 'estimate' has no factors, expected those of " +
                      "CurvatureStructure::Kronecker");
  std::vector<BlockEstimate<S>*> fitted;
  for (BlockEstimate<S>& block : estimate.blocks) {
    if (!block.has_factors()) continue;
    if (block.eigen.empty())
      raise<StateError>(std::string(kWhere) + ": 'estimate' has no eigenbases, expected " +
                        "decompose before it (layer '" + block.block.name() + "')");
    fitted.push_back(&block);
  }
  CurvatureRecord record = estimate.record;
  std::vector<Matrix<S>> moments;
  const auto moments_block =
      [&, next = std::make_shared<std::size_t>(0)](
          const LayerView<S>& layer,
          const BlockOptions<S>& options) -> std::unique_ptr<CurvatureBlock<S>> {
    if (*next == fitted.size() || fitted[*next]->block.layer != layer.name) return nullptr;
    return std::make_unique<detail::MomentsBlock<S>>(options, fitted[(*next)++]->eigen);
  };
  if (!fitted.empty())
    detail::fit_blocks(model, loss, slices, moments_block, record, [&](CurvatureBlock<S>& block) {
      moments.push_back(static_cast<const DiagonalBlock<S>&>(block).value());
    });
  const auto scale =
      static_cast<S>(detail::mean_scale(estimate.record) / detail::mean_scale(record));
  for (std::size_t i = 0; i < moments.size(); ++i) {
    fitted[i]->eigen.set_grid(scale * moments[i]);
    fitted[i]->has_moments = true;
  }
  estimate.record.structure = CurvatureStructure::Ekfac;
  estimate.record.moment_examples = record.examples;
}

/// The curvature of a loss over a data set, in the form that applications take:
///
///     const auto curvature =
///         kfac::estimate_curvature(model, loss, kfac::slices(train, 500),
///                                  {.structure = kfac::CurvatureStructure::Ekfac});
///
/// The scale is that of the loss over all the data at once, whatever the slices. `Ekfac` walks them
/// twice; its stages are also there by themselves, to save and resume between them: this with
/// `Kronecker`, then `decompose`, then `fit_moments`.
/// \throws OptionError; ShapeError or ValueError (not finite, naming the layer); StateError if
/// there
///         are no slices, or no layers are wanted; MemoryError
template <class Model, Loss L>
CurvatureEstimate<typename L::Scalar> estimate_curvature(
    Model& model, const L& loss,
    const std::vector<Slice<typename L::Scalar, typename L::Targets>>& slices,
    const EstimateOptions& options = {}) {
  using S = typename L::Scalar;
  using Structure = CurvatureStructure;
  static constexpr const char* kWhere = "kfac::estimate_curvature";
  CurvatureEstimate<S> estimate{.record = {.structure = options.structure,
                                           .fisher = options.fisher,
                                           .samples = options.samples,
                                           .seed = options.seed,
                                           .sharing = options.sharing}};
  const auto is_wanted = [&](const std::string& layer) {
    return !options.layers || options.layers(layer);
  };
  std::vector<ParameterBlock> wanted;
  for (const ParameterBlock& block : parameter_blocks(model)) {
    estimate.blocks.push_back({.block = block});
    if (is_wanted(block.layer)) wanted.push_back(block);
  }
  if (wanted.empty())
    raise<StateError>(std::string(kWhere) + ": 'layers' picks none, expected at least one");
  detail::check_memory(kWhere, curvature_memory<S>(wanted, options.structure),
                       options.memory_limit);
  const bool factored =
      options.structure == Structure::Kronecker || options.structure == Structure::Ekfac;
  BlockFactory<S> kind = block_factory<DiagonalBlock<S>, DiagonalBlock<S>>();
  if (options.structure == Structure::Full) kind = block_factory<FullBlock<S>, FullBlock<S>>();
  if (factored) kind = block_factory<KroneckerBlock<S>, DiagonalBlock<S>>();
  const auto wanted_block =
      [&](const LayerView<S>& layer,
          const BlockOptions<S>& block) -> std::unique_ptr<CurvatureBlock<S>> {
    return is_wanted(layer.name) ? kind(layer, block) : nullptr;
  };
  std::size_t i = 0;
  detail::fit_blocks(
      model, loss, slices, wanted_block, estimate.record, [&](CurvatureBlock<S>& block) {
        while (!is_wanted(estimate.blocks[i].block.layer)) ++i;
        BlockEstimate<S>& result = estimate.blocks[i++];
        if (options.structure == Structure::Full) {
          result.full = static_cast<const FullBlock<S>&>(block).value();
        } else if (factored && result.block.factored) {
          const auto& kronecker = static_cast<const KroneckerBlock<S>&>(block);
          result.factors = {kronecker.input_factor(), kronecker.output_gradient_factor()};
        } else {
          result.diagonal = static_cast<const DiagonalBlock<S>&>(block).value();
        }
      });
  if (options.structure == Structure::Ekfac) {
    decompose(estimate);
    fit_moments(estimate, model, loss, slices);
  }
  return estimate;
}

}  // namespace kfac
