#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <kfac/nn/activations.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/sequential.hpp>

/// What the optimizers are tested with: a small network whose gradient is written by hand.
namespace kfac::test {

/// Layers "0" and "2" have parameters, 24 in all.
template <RealScalar S = double>
auto toy_network(std::uint64_t seed = 3) {
  Rng rng(seed);
  return Sequential{Linear<S>(2, 4, rng), Tanh<S>{}, Linear<S>(4, 3, rng, {.bias = false})};
}
template <RealScalar S = double>
using ToyNetwork = decltype(toy_network<S>());

/// The flat parameters, copied.
template <class Model>
Vector<typename Model::Scalar> parameters_of(Model& model) {
  Vector<typename Model::Scalar> flat(model.gradient().size());
  Index offset = 0;
  for (const auto& layer : model.layers()) {
    flat.segment(offset, layer.parameters.size()) = layer.parameters;
    offset += layer.parameters.size();
  }
  return flat;
}

/// The gradient, at the given parameters and step, of something that is not quadratic.
inline double toy_gradient(double parameter, Index i, int step) {
  const auto place = static_cast<double>(i);
  return (0.5 + 0.1 * place) * parameter + std::sin(3 * parameter + place + step);
}

/// Writes the toy gradient of a step into the model.
template <class Model>
void write_gradient(Model& model, int step) {
  using S = typename Model::Scalar;
  const Vector<S> parameters = parameters_of(model);
  VectorMap<S> gradient = model.gradient();
  for (Index i = 0; i < gradient.size(); ++i)
    gradient(i) = static_cast<S>(toy_gradient(static_cast<double>(parameters(i)), i, step));
}

/// A plain loop over parameters: `rule(parameter, gradient, i, step)` is a new parameter.
template <class Rule>
Vector<double> reference_run(Vector<double> parameters, int steps, Rule rule) {
  for (int step = 1; step <= steps; ++step)
    for (Index i = 0; i < parameters.size(); ++i)
      parameters(i) = rule(parameters(i), toy_gradient(parameters(i), i, step), i, step);
  return parameters;
}

/// The parameters after some steps of an optimizer from the toy network's start.
template <class Optimizer, class Options>
Vector<double> run(const Options& options, int steps) {
  ToyNetwork<> model = toy_network();
  Optimizer optimizer(model, options);
  for (int step = 1; step <= steps; ++step) {
    write_gradient(model, step);
    optimizer.step();
  }
  return parameters_of(model);
}

/// The largest difference between entries.
inline double distance(const Vector<double>& a, const Vector<double>& b) {
  return (a - b).cwiseAbs().maxCoeff();
}

}  // namespace kfac::test
