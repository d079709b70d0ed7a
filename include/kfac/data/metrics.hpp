#pragma once

#include <algorithm>

#include <kfac/data/dataset.hpp>
#include <kfac/loss/loss.hpp>
#include <kfac/nn/network.hpp>

namespace kfac {
namespace detail {

/// Calls `body(outputs, first)` for the outputs of the examples `first, first + 1, ...`, a bounded
/// number at a time, as in evaluation.
template <class Model, RealScalar S, class Targets, class Body>
void for_each_output(const char* where, Model& model, const Dataset<S, Targets>& data,
                     const Shape& shape, Body&& body) {
  static constexpr Index kExamplesAtOnce = 256;
  check_dataset(where, data);
  const Evaluation evaluation(model);
  for (Index first = 0; first < data.examples(); first += kExamplesAtOnce) {
    const Index count = std::min(kExamplesAtOnce, data.examples() - first);
    body(model.forward(data.inputs.middleCols(first, count), shape), first);
  }
}

}  // namespace detail

/// The share of the examples whose largest output is that of their label, in [0, 1]. Dropout is off
/// and nothing is announced; the model's workspace is used. `shape` is that of one example.
/// \throws ShapeError if there are no examples, or they do not fit the model
template <class Model, RealScalar S>
double accuracy(Model& model, const Dataset<S, Labels>& data, const Shape& shape) {
  Index correct = 0;
  detail::for_each_output("kfac::accuracy", model, data, shape,
                          [&](const ConstMatrixMap<S>& outputs, Index first) {
                            for (Index n = 0; n < outputs.cols(); ++n) {
                              Index predicted = 0;
                              outputs.col(n).maxCoeff(&predicted);
                              correct += predicted == data.targets(first + n);
                            }
                          });
  return static_cast<double>(correct) / static_cast<double>(data.examples());
}
/// The same for examples that are vectors.
template <class Model, RealScalar S>
double accuracy(Model& model, const Dataset<S, Labels>& data) {
  return accuracy(model, data, Shape{data.inputs.rows()});
}

/// The loss of the model on all of the data, as if it were one batch: with the reduction of `loss`,
/// summed in double. Evaluated as `accuracy` is.
/// \throws as `accuracy`, and ShapeError or ValueError if the targets do not fit the loss
template <class Model, Loss LossType, RealScalar S, class Targets>
double dataset_loss(Model& model, const LossType& loss, const Dataset<S, Targets>& data,
                    const Shape& shape) {
  double total = 0;
  detail::for_each_output(
      "kfac::dataset_loss", model, data, shape, [&](const ConstMatrixMap<S>& outputs, Index first) {
        const Index count = outputs.cols();
        const S value = [&] {
          if constexpr (std::same_as<Targets, Labels>)
            return loss.value(outputs, data.targets.segment(first, count));
          else
            return loss.value(outputs, data.targets.middleCols(first, count));
        }();
        // From the reduction over these examples to that over all of them.
        const auto factor = static_cast<double>(loss.scale(outputs.rows(), data.examples())) /
                            static_cast<double>(loss.scale(outputs.rows(), count));
        total += factor * static_cast<double>(value);
      });
  return total;
}
/// The same for examples that are vectors.
template <class Model, Loss LossType, RealScalar S, class Targets>
double dataset_loss(Model& model, const LossType& loss, const Dataset<S, Targets>& data) {
  return dataset_loss(model, loss, data, Shape{data.inputs.rows()});
}

}  // namespace kfac
