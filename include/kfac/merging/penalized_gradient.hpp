#pragma once

#include <kfac/loss/loss.hpp>
#include <kfac/merging/laplace_penalty.hpp>

namespace kfac {

/// Makes the network's gradient that of the loss of a batch plus the penalty, and returns their
/// value: for a step of any optimizer.
///
///     const auto value = kfac::penalized_gradient(model, loss, penalty, x, y);
///     adam.step(value);
///
/// Hooks are announced to, so that a `Preconditioner` on the network sees the gradients of the loss
/// alone: `preconditioner.step()` goes in between.
/// \throws as forward and backward passes and the loss do; StateError as
///         `LaplacePenalty::add_gradient`
template <class Model, Loss L>
typename L::Scalar penalized_gradient(Model& model, const L& loss,
                                      LaplacePenalty<typename L::Scalar>& penalty,
                                      const ConstMatrixRef<typename L::Scalar>& x,
                                      const typename L::TargetsRef& y, const Shape& shape) {
  using S = typename L::Scalar;
  const ConstMatrixMap<S> outputs = model.forward(x, shape);
  MatrixMap<S> grad_output = model.workspace().grad_output.map(outputs.rows(), outputs.cols());
  const S value = value_and_gradient(loss, outputs, y, grad_output);
  model.backward(grad_output);
  return value + penalty.add_gradient();
}
template <class Model, Loss L>
typename L::Scalar penalized_gradient(Model& model, const L& loss,
                                      LaplacePenalty<typename L::Scalar>& penalty,
                                      const ConstMatrixRef<typename L::Scalar>& x,
                                      const typename L::TargetsRef& y) {
  return penalized_gradient(model, loss, penalty, x, y, Shape{x.rows()});
}

}  // namespace kfac
