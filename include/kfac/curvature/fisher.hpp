#pragma once

#include <cmath>

#include <kfac/core/buffer.hpp>
#include <kfac/curvature/preconditioner.hpp>
#include <kfac/loss/loss.hpp>

namespace kfac {

/// Which matrix the Kronecker factors approximate.
enum class FisherType {
  Type2,       ///< the Fisher, which is the GGN, exactly: one backward pass for each output
  MonteCarlo,  ///< the Fisher from sampled targets: one backward pass a sample
  Empirical,   ///< the outer products of the loss's own gradients: no extra pass
};

/// Feeds `preconditioner`'s factors with the vectors of the given Fisher for the model's last
/// forward pass. The empirical one needs none of its own: the loss's gradient is to be collected.
/// \source Martens 2020, arXiv 1412.1193, sections 5 and 9
template <class Model, Loss L, class Preconditioner>
void propagate_fisher_vectors(FisherType type, Index samples, Model& model, const L& loss,
                              const ConstMatrixRef<typename L::Scalar>& outputs,
                              Preconditioner& preconditioner, Rng& rng,
                              Buffer<typename L::Scalar>& scratch) {
  using S = typename L::Scalar;
  using What = typename Collection<S>::What;
  if (type == FisherType::Empirical) return;
  MatrixMap<S> vectors = scratch.map(outputs.rows(), outputs.cols());
  if (type == FisherType::Type2) {
    preconditioner.collect({What::Vectors, S(1)});
    const Index columns = loss.hessian_sqrt_columns(outputs.rows());
    for (Index column = 0; column < columns; ++column) {
      loss.hessian_sqrt(outputs, column, vectors);
      model.backward_hooks_only(vectors);
    }
  } else {
    preconditioner.collect({What::Vectors, S(1) / static_cast<S>(samples)});
    for (Index sample = 0; sample < samples; ++sample) {
      loss.sampled_gradient(outputs, rng, vectors);
      model.backward_hooks_only(vectors);
    }
  }
}

}  // namespace kfac
