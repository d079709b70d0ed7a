#pragma once

#include <kfac/curvature/ggn.hpp>
#include <kfac/optim/kfac_optimizer.hpp>

#include "support/networks.hpp"

/// What the tests of the K-FAC optimizer compare it with: the objective and the curvature estimate
/// as dense matrices of all parameters.
namespace kfac::test {

template <class Model>
void set_parameters(Model& model, const Vector<double>& flat) {
  Index offset = 0;
  for (auto& layer : model.layers()) {
    VectorMap<double> parameters = layer.parameters;
    parameters = flat.segment(offset, parameters.size());
    offset += parameters.size();
  }
}

inline bool is_no_bias(const LayerView<double>&, const ParameterInfo& parameter) {
  return !parameter.name.starts_with("bias");
}

/// The diagonal of L: 1 for a parameter that decays.
template <class Model>
Vector<double> decay_mask(Model& model, const ParameterPredicate<double>& decays) {
  Vector<double> mask = Vector<double>::Zero(model.parameter_count());
  Index offset = 0;
  for (const auto& layer : model.layers()) {
    for (const ParameterInfo& parameter : layer.parameter_info)
      if (!decays || decays(layer, parameter))
        mask.segment(offset + parameter.offset, parameter.rows * parameter.columns).setOnes();
    offset += layer.parameters.size();
  }
  return mask;
}

/// A loss on a batch with weight decay, at the model as it is.
struct DenseObjective {
  Vector<double> theta;
  double value;              // with the decay's half square
  Vector<double> gradient;   // of that
  Matrix<double> curvature;  // the exact C + decay L

  template <class Model, class LossType>
  DenseObjective(Model& model, const LossType& loss, const Matrix<double>& x,
                 const typename LossType::Targets& y, double decay = 0,
                 const ParameterPredicate<double>& decays = {})
      : theta(parameters(model)) {
    const Vector<double> decayed = decay * decay_mask(model, decays);
    const Ggn<Model, LossType> ggn(model, loss, x);
    const Matrix<double> outputs = ggn.outputs();
    Matrix<double> output_gradient(outputs.rows(), outputs.cols());
    loss.gradient(outputs, y, output_gradient);
    value = loss.value(outputs, y) + theta.dot(decayed.cwiseProduct(theta)) / 2;
    gradient = ggn.jacobian_transposed_product(output_gradient) + decayed.cwiseProduct(theta);
    curvature = ggn.dense();
    curvature.diagonal() += decayed;
  }

  /// The quadratic model, without and with damping.
  double change(const Vector<double>& step) const {
    return gradient.dot(step) + step.dot(curvature * step) / 2;
  }
  double damped_change(const Vector<double>& step, double damping) const {
    return change(step) + damping * step.squaredNorm() / 2;
  }
};

/// The optimizer's estimate as it is, with that damping, block by block; the identity for layers
/// that have none.
template <class Optimizer, class Model>
Matrix<double> dense_estimate(Optimizer& optimizer, Model& model, double damping) {
  const Index size = model.parameter_count();
  Matrix<double> result = Matrix<double>::Identity(size, size);
  Index offset = 0;
  for (const auto& view : model.layers()) {
    for (const auto& layer : optimizer.preconditioner().layers())
      if (layer->layer().name == view.name) {
        const Matrix<double> block = layer->blocks().front()->matrix(damping)->dense();
        result.block(offset, offset, block.rows(), block.cols()) = block;
      }
    offset += view.parameters.size();
  }
  return result;
}

inline Vector<double> solve(const Matrix<double>& matrix, const Vector<double>& right) {
  return matrix.llt().solve(right);
}

}  // namespace kfac::test
