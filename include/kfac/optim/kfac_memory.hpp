#pragma once

#include <algorithm>

#include <kfac/linalg/factored_inverse.hpp>
#include <kfac/linalg/matrix_product.hpp>
#include <kfac/optim/kfac_step.hpp>
#include <kfac/optim/summary.hpp>

namespace kfac {
namespace detail {

/// Of so many numbers.
template <RealScalar S>
double bytes(Index numbers) {
  return static_cast<double>(numbers) * double{sizeof(S)};
}

/// How many numbers threads keep for products of matrices with each other and with inverses.
template <RealScalar S>
Index product_scratch_of_all(const Preconditioner<S>& preconditioner, Index batch) {
  Index products = 0;
  Index inverses = 0;
  for (const auto& layer : preconditioner.layers())
    for (const auto& block : layer->blocks()) {
      const Index columns = block->columns();
      const Index outputs = block->outputs();
      products = std::max(
          products, linalg::product_scratch_size<S>(outputs, columns, std::max(batch, columns)));
      inverses = std::max(inverses, FactoredInverse<S>::scratch_size(columns, outputs));
    }
  const ThreadPool* pool = preconditioner.pool();
  return products * (pool ? pool->threads() + 1 : 1) + inverses;
}

}  // namespace detail

/// What training by K-FAC keeps in memory that does not depend on the batch, once some steps were
/// taken.
template <class Model, Loss LossType>
TrainingMemory training_memory(const KfacStep<Model, LossType>& step) {
  using S = typename Model::Scalar;
  const KfacOptions<S>& options = step.options();
  const TwoLevel<S>& two_level = step.two_level();
  const Index parameters = step.model().parameter_count();
  const bool has_direction = options.decoupled_weight_decay || options.bounds_norm();
  const Index vectors = Index{options.uses_quadratic_model()} + Index{options.may_take_back()} +
                        Index{has_direction} + Index{options.two_level.space != CoarseSpace::None};
  TrainingMemory memory;
  memory.parameters = memory.gradient = detail::bytes<S>(parameters);
  memory.optimizer =
      detail::bytes<S>(step.memory().size() + vectors * parameters + two_level.memory_size(0));
  for (const auto& layer : step.preconditioner().layers())
    for (const auto& block : layer->blocks()) {
      const BlockCost cost = block->cost();
      memory.factors += cost.bytes - cost.inverse_bytes;
      memory.inverses += cost.inverse_bytes;
      if (options.asynchronous_inverses && layer->layer().kronecker)
        memory.inverses += detail::bytes<S>(block->columns() * block->columns() +
                                            block->outputs() * block->outputs());
    }
  return memory;
}

/// The same with what steps on batches of so many examples of a shape take, as far as it grows with
/// the network or the batch.
/// \throws OptionError unless batch >= 1; ShapeError if the network cannot take the shape
template <class Model, Loss LossType>
TrainingMemory training_memory(const KfacStep<Model, LossType>& step, Index batch,
                               const Shape& shape) {
  using S = typename Model::Scalar;
  detail::check_option(batch >= 1, "kfac::KfacOptimizer::memory", "batch", batch, ">= 1");
  const KfacOptions<S>& options = step.options();
  const TwoLevel<S>& two_level = step.two_level();
  const WorkspaceSize size =
      step.model().workspace_size(shape, batch, {.training = true, .once = options.passes_once()});
  const Index outputs = step.model().output_shape(shape).size() * batch;
  const Index coarse = two_level.memory_size(outputs) - two_level.memory_size(0);
  const Index quadratic = options.uses_quadratic_model() ? 4 * outputs : 0;
  TrainingMemory memory = training_memory(step);
  memory.activations = detail::bytes<S>(size.activations);
  // With the gradient of the loss.
  memory.flow = detail::bytes<S>(size.gradients + outputs + quadratic + coarse);
  memory.scratch =
      detail::bytes<S>(size.scratch + detail::product_scratch_of_all(step.preconditioner(), batch));
  return memory;
}

/// The shape of an example where the first layer says it. \throws ShapeError where not
template <class Model, Loss LossType>
Shape shape_of_example(const KfacStep<Model, LossType>& step) {
  const LayerView<typename Model::Scalar>& first = step.layers().front();
  if (first.kind != "Linear")
    raise<ShapeError>("kfac::KfacOptimizer::memory: 'shape' is not given, and layer '" +
                      first.name + "' (" + first.kind +
                      ") does not say it, expected the shape of an example");
  return Shape{first.kronecker->inputs};
}

}  // namespace kfac
