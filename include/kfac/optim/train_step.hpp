#pragma once

#include <kfac/loss/loss.hpp>
#include <kfac/nn/network.hpp>
#include <kfac/optim/lap_clock.hpp>
#include <kfac/optim/step_report.hpp>

namespace kfac {

namespace detail {

/// One step on what `forward()` makes of a batch's inputs, and its targets.
template <class Model, Loss L, class Optimizer, class Forward>
const StepReport<typename L::Scalar>& step_on(Model& model, const L& loss, Optimizer& optimizer,
                                              Forward&& forward, const typename L::TargetsRef& y) {
  using S = typename L::Scalar;
  StepSeconds seconds;
  LapClock clock;
  const NoTracking<Model> untracked(model);
  const ConstMatrixMap<S> outputs = forward();
  MatrixMap<S> grad_output = model.workspace().grad_output.map(outputs.rows(), outputs.cols());
  const S value = value_and_gradient(loss, outputs, y, grad_output);
  seconds.forward = clock.lap();
  model.backward(grad_output);
  seconds.gradient = clock.lap();
  return optimizer.step(value, seconds);
}

}  // namespace detail

/// One step of a first-order optimizer (`Sgd`, `Adam`, `AdamW`, `RmsProp`) on a batch: forward,
/// loss, backward, step. Nothing is announced to observers. `shape` is that of one example,
/// `{features}` where it is not given.
///
/// \throws ShapeError or ValueError if the batch is empty, does not fit or is not finite;
///         OptionError for what a schedule gives
template <class Model, Loss L, class Optimizer>
const StepReport<typename L::Scalar>& train_step(Model& model, const L& loss, Optimizer& optimizer,
                                                 const ConstMatrixRef<typename L::Scalar>& x,
                                                 const typename L::TargetsRef& y) {
  return detail::step_on(
      model, loss, optimizer, [&] { return model.forward(x); }, y);
}
template <class Model, Loss L, class Optimizer>
const StepReport<typename L::Scalar>& train_step(Model& model, const L& loss, Optimizer& optimizer,
                                                 const ConstMatrixRef<typename L::Scalar>& x,
                                                 const typename L::TargetsRef& y,
                                                 const Shape& shape) {
  return detail::step_on(
      model, loss, optimizer, [&] { return model.forward(x, shape); }, y);
}

}  // namespace kfac
