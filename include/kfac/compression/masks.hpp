#pragma once

#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <kfac/compression/selection.hpp>
#include <kfac/curvature/parameter_block.hpp>

namespace kfac {
namespace detail {

/// Raises a ShapeError or ValueError unless it is a mask of so many parameters.
template <RealScalar S>
void check_mask(const char* where, const Vector<S>& mask, Index parameters) {
  check_size(where, "mask", mask.size(), parameters, "entries");
  for (const S entry : mask)
    if (entry != S(0) && entry != S(1))
      raise<ValueError>(std::string(where) + ": 'mask' has an entry " + text(entry) +
                        ", expected 0 or 1");
}

}  // namespace detail

/// A mask of zeros and ones, flat like the parameters, that removes the weights with the smallest
/// saliencies (as `weight_saliencies` has them: what is infinite stays). Those that are zero in
/// `before`, a mask or empty, are removed first: pruned weights stay pruned.
///
///     const auto mask = kfac::prune_mask(model, saliencies, {.ratio = 0.8});
///
/// \throws OptionError; ShapeError; ValueError if `before` is no mask or a saliency is NaN
template <class Model>
Vector<typename Model::Scalar> prune_mask(Model& model,
                                          const Vector<typename Model::Scalar>& saliencies,
                                          const SelectionOptions& options = {},
                                          const Vector<typename Model::Scalar>& before = {}) {
  using S = typename Model::Scalar;
  static constexpr const char* kWhere = "kfac::prune_mask";
  options.validate(kWhere);
  detail::check_size(kWhere, "saliencies", saliencies.size(), model.parameter_count(), "entries");
  if (before.size() > 0) detail::check_mask(kWhere, before, model.parameter_count());
  std::vector<Vector<S>> scores;
  const std::vector<ParameterBlock> blocks = parameter_blocks(model);
  for (const ParameterBlock& block : blocks) {
    Vector<S>& score = scores.emplace_back(saliencies.segment(block.offset, block.size()));
    if (score.hasNaN())
      raise<ValueError>(std::string(kWhere) + ": 'saliencies' is nan, expected numbers (layer '" +
                        block.name() + "')");
    if (before.size() == 0) continue;
    for (Index i = 0; i < score.size(); ++i)
      if (before(block.offset + i) == S(0)) score(i) = -std::numeric_limits<S>::infinity();
  }
  const std::vector<std::vector<Index>> removed = detail::select_smallest(scores, options);
  Vector<S> mask = Vector<S>::Ones(model.parameter_count());
  for (std::size_t i = 0; i < blocks.size(); ++i)
    for (const Index entry : removed[i]) mask(blocks[i].offset + entry) = S(0);
  return mask;
}

/// The share of a network's weights that a mask removes; biases, and layers that are no linear
/// maps, do not count. \throws ShapeError, ValueError if it is no mask of the network
template <class Model>
double pruned_share(Model& model, const Vector<typename Model::Scalar>& mask) {
  using S = typename Model::Scalar;
  detail::check_mask("kfac::pruned_share", mask, model.parameter_count());
  Index weights = 0;
  Index removed = 0;
  for (const ParameterBlock& block : parameter_blocks(model)) {
    if (!block.factored) continue;
    weights += block.outputs * block.inputs;
    removed += (block.of(mask).leftCols(block.inputs).array() == S(0)).count();
  }
  return weights == 0 ? 0 : static_cast<double>(removed) / static_cast<double>(weights);
}

/// Keeps pruned parameters at zero while a network is trained on:
///
///     const kfac::MaskedParameters masked(model, mask);  // they are zero from here on
///     for (...) {
///       optimizer.step(x, y);
///       masked.apply();
///     }
///
/// `kfac::fit(optimizer, stream, options, [&] { masked.apply(); })` does the same. The model must
/// outlive it and stay where it is.
template <class Model>
class MaskedParameters {
 public:
  using Scalar = typename Model::Scalar;

  /// Applies the mask. \throws ShapeError, ValueError if it is no mask of the network
  MaskedParameters(Model& model, Vector<Scalar> mask) : model_(model), mask_(std::move(mask)) {
    detail::check_mask("kfac::MaskedParameters", mask_, model.parameter_count());
    apply();
  }

  const Vector<Scalar>& mask() const { return mask_; }

  /// Sets what is pruned to zero again, whatever it was, NaN too.
  void apply() const {
    Index offset = 0;
    for (auto& layer : model_.layers()) {
      const Index size = layer.parameters.size();
      layer.parameters =
          (mask_.segment(offset, size).array() == Scalar(0)).select(Scalar(0), layer.parameters);
      offset += size;
    }
  }

 private:
  Model& model_;
  Vector<Scalar> mask_;
};

}  // namespace kfac
