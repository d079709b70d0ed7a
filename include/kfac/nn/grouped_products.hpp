#pragma once

#include <kfac/nn/layer.hpp>

namespace kfac::detail {

/// The matrix products of a layer with groups, whose flat parameters (and tangents and gradients of
/// them) are what `KroneckerStructure` says. Positions are rows here, the features and channels of
/// a group consecutive columns.
template <RealScalar S>
class GroupedProducts {
 public:
  explicit GroupedProducts(const KroneckerStructure& sizes) : sizes_(sizes) {}

  /// outputs += features W^T.
  void add_outputs(const ConstMatrixRef<S>& features, const S* parameters,
                   MatrixMap<S> outputs) const {
    for (Index group = 0; group < sizes_.groups; ++group)
      outputs_of(group, outputs).noalias() +=
          features_of(group, features) * weight(group, parameters).transpose();
  }

  /// features += gradient W.
  void add_feature_gradients(const ConstMatrixRef<S>& gradient, const S* parameters,
                             MatrixMap<S> features) const {
    for (Index group = 0; group < sizes_.groups; ++group)
      features_of(group, features).noalias() +=
          outputs_of(group, gradient) * weight(group, parameters);
  }

  /// W += gradient^T features.
  void add_weight_gradients(const ConstMatrixRef<S>& gradient, const ConstMatrixRef<S>& features,
                            S* parameters) const {
    for (Index group = 0; group < sizes_.groups; ++group)
      MatrixMap<S>(parameters + offset(group), sizes_.outputs, sizes_.inputs).noalias() +=
          outputs_of(group, gradient).transpose() * features_of(group, features);
  }

  /// b += the sum of the rows of gradient, if there is a bias.
  void add_bias_gradients(const ConstMatrixRef<S>& gradient, S* parameters) const {
    if (!sizes_.bias) return;
    for (Index group = 0; group < sizes_.groups; ++group)
      VectorMap<S>(parameters + bias_offset(group), sizes_.outputs) +=
          outputs_of(group, gradient).colwise().sum().transpose();
  }

  /// The biases of a group. \pre there are some
  ConstVectorMap<S> bias(Index group, const S* parameters) const {
    return {parameters + bias_offset(group), sizes_.outputs};
  }

 private:
  Index offset(Index group) const { return group * sizes_.outputs * sizes_.columns(); }
  Index bias_offset(Index group) const { return offset(group) + sizes_.outputs * sizes_.inputs; }
  ConstMatrixMap<S> weight(Index group, const S* parameters) const {
    return {parameters + offset(group), sizes_.outputs, sizes_.inputs};
  }

  ConstMatrixRef<S> features_of(Index group, const ConstMatrixRef<S>& all) const {
    return all.middleCols(group * sizes_.inputs, sizes_.inputs);
  }
  MatrixRef<S> features_of(Index group, MatrixMap<S>& all) const {
    return all.middleCols(group * sizes_.inputs, sizes_.inputs);
  }
  ConstMatrixRef<S> outputs_of(Index group, const ConstMatrixRef<S>& all) const {
    return all.middleCols(group * sizes_.outputs, sizes_.outputs);
  }
  MatrixRef<S> outputs_of(Index group, MatrixMap<S>& all) const {
    return all.middleCols(group * sizes_.outputs, sizes_.outputs);
  }

  KroneckerStructure sizes_;
};

}  // namespace kfac::detail
