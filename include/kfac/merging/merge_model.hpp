#pragma once

#include <cmath>
#include <span>
#include <string>
#include <vector>

#include <kfac/curvature/curvature_estimate.hpp>

namespace kfac {

/// One of the networks that `merge` makes one of.
template <RealScalar S>
struct MergeModel {
  Vector<S> parameters;                ///< flat, as `flat_parameters`
  std::vector<ParameterBlock> blocks;  ///< of these, as `parameter_blocks`
  /// Of the loss on its own data, at its parameters; it must outlive the merge. Null: averages
  /// only.
  const CurvatureEstimate<S>* curvature = nullptr;
  double weight = 1;  ///< >= 0; on top of what the estimate says of the amount of data
};

/// A network as it is now, to be merged with others.
///
///     const std::vector models{kfac::merge_model(first, &first_curvature),
///                              kfac::merge_model(second, &second_curvature)};
template <class Model>
MergeModel<typename Model::Scalar> merge_model(
    Model& model, const CurvatureEstimate<typename Model::Scalar>* curvature = nullptr,
    double weight = 1) {
  return {flat_parameters(model), parameter_blocks(model), curvature, weight};
}

namespace detail {

/// Raises an exception, naming the model, unless each is whole and fits its curvature.
template <RealScalar S>
void check_models(const char* where, std::span<const MergeModel<S>> models) {
  if (models.empty())
    raise<ShapeError>(std::string(where) + ": 'models' is empty, expected at least one");
  double sum = 0;
  for (std::size_t t = 0; t < models.size(); ++t) {
    const MergeModel<S>& model = models[t];
    const std::string name = "models[" + std::to_string(t) + "].";
    const std::string parameters = name + "parameters";
    const Index size =
        model.blocks.empty() ? 0 : model.blocks.back().offset + model.blocks.back().size();
    check_size(where, parameters.c_str(), model.parameters.size(), size, "entries");
    check_finite(where, parameters.c_str(), model.parameters);
    check_option(model.weight >= 0 && std::isfinite(model.weight), where, (name + "weight").c_str(),
                 model.weight, ">= 0 and finite");
    sum += model.weight;
    if (!model.curvature) continue;
    check_estimate(where, *model.curvature, model.blocks);
    const CurvatureRecord& record = model.curvature->record;
    if (!(record.loss_scale > 0 && std::isfinite(record.loss_scale)))
      raise<ValueError>(std::string(where) + ": '" + name + "curvature' has the loss_scale " +
                        text(record.loss_scale) + ", expected > 0 and finite");
  }
  check_option(sum > 0 && std::isfinite(sum), where, "weight", sum, "a positive sum");
}

}  // namespace detail
}  // namespace kfac
