#pragma once

#include <utility>

#include <kfac/nn/jet_layers.hpp>
#include <kfac/nn/jet_pass.hpp>

namespace kfac {

/// A network together with its derivatives with respect to its inputs, all in one pass (the forward
/// Laplacian), and a residual of them if one is given: of a differential equation, say. Made by
/// `jet_network`:
///
///     kfac::Sequential model{kfac::Linear<double>(2, 64, rng), kfac::Tanh<double>{},
///                            kfac::Linear<double>(64, 1, rng)};
///     auto jets = kfac::jet_network(model, kfac::JetSlots<double>::laplacian(2));
///     const auto slots = jets.forward(x);  // u, u_x, u_y and the Laplacian: 4 x points
///
///     auto residual = kfac::jet_network(model, kfac::JetSlots<double>::laplacian(2),
///                                       [](const auto& x, const auto& u) {
///                                         return -u.laplacian() - x[0] * u.value();
///                                       });
///     residual.backward(loss.gradient(residual.forward(x), source));
///
/// It is a network with the parameters of `model`, and used like one: `forward`, `backward`,
/// `tangent`, `layers` with hooks, the losses, optimizers and curvature that take networks. (Not
/// `Hessian` nor `input_gradient`.) Without a residual an example's output has the shape {slots,
/// outputs}. Each Linear layer is one whose weights are shared over the slots, so Kronecker factors
/// are those of `WeightSharing::Expand`. `model` must outlive it and stay where it is; a copy still
/// refers to it.
/// \source Dangel, Mueller and Zeinhofer 2024, arXiv 2405.15603, for the factors; Li et al. 2023,
///         arXiv 2307.08214, for the forward Laplacian
template <class Body, class Residual, class Features>
class JetNetwork : public detail::TupleChain<JetNetwork<Body, Residual, Features>, RunTimeSizes,
                                             detail::JetPass<Body, Residual, Features>> {
  using Pass = detail::JetPass<Body, Residual, Features>;
  using Base = detail::TupleChain<JetNetwork, RunTimeSizes, Pass>;

 public:
  explicit JetNetwork(Pass pass) : Base(std::move(pass)) {}

  const JetSlots<typename Body::Scalar>& slots() const { return this->template layer<0>().slots(); }
};

/// The given network on jets. `residual(x, u)` of coordinates and `JetValues` is a function of
/// numbers as well as of jets, such as a generic lambda, that returns one or a container of
/// residuals; its derivatives are found by themselves. `features(x)`, likewise, makes the network's
/// inputs of a vector of coordinates: a container of numbers or jets. Neither may depend on
/// anything but its arguments. Layers may be Linear, activations with three derivatives, Residual,
/// Sequential and DynamicSequential, and those that `jet_layer` is overloaded for: another is a
/// compile error.
/// \throws ShapeError or ValueError for slots that do not fit; StateError if a layer that is chosen
///         at run time has no rule for jets
template <class Model, class Residual = NoResidual, class Features = NoFeatures>
auto jet_network(Model& model, JetSlots<typename Model::Scalar> slots, Residual residual = {},
                 Features features = {}) {
  slots.validate("kfac::jet_network");
  using Body = decltype(jet_layer(model, slots));
  return JetNetwork<Body, Residual, Features>(detail::JetPass<Body, Residual, Features>(
      jet_layer(model, slots), slots, std::move(residual), std::move(features)));
}

}  // namespace kfac
