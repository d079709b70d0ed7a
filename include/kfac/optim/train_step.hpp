#pragma once

#include <kfac/loss/loss.hpp>
#include <kfac/nn/network.hpp>
#include <kfac/optim/step_report.hpp>

namespace kfac {

/// One step of a first-order optimizer (`Sgd`, `Adam`, `AdamW`) on a batch: forward, loss,
/// backward, step. Nothing is announced to observers.
///
/// \throws ShapeError or ValueError if the batch is empty, does not fit or is not finite
template <class Model, Loss L, class Optimizer>
const StepReport<typename L::Scalar>& train_step(Model& model, const L& loss, Optimizer& optimizer,
                                                 const ConstMatrixRef<typename L::Scalar>& x,
                                                 const typename L::TargetsRef& y) {
  using S = typename L::Scalar;
  const NoTracking<Model> untracked(model);
  const ConstMatrixMap<S> outputs = model.forward(x);
  const S value = loss.value(outputs, y);
  MatrixMap<S> grad_output = model.workspace().grad_output.map(outputs.rows(), outputs.cols());
  loss.gradient(outputs, y, grad_output);
  model.backward(grad_output);
  return optimizer.step(value);
}

}  // namespace kfac
