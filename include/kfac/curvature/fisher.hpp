#pragma once

#include <cmath>

#include <kfac/core/buffer.hpp>
#include <kfac/curvature/layer_curvature.hpp>
#include <kfac/loss/loss.hpp>

namespace kfac {

/// Which matrix the blocks approximate: what is propagated back from the outputs in place of the
/// loss's gradients.
enum class FisherType {
  Type2,       ///< the GGN, exactly: one backward pass for each output
  MonteCarlo,  ///< the Fisher from sampled targets: one backward pass a sample
  Empirical,   ///< the outer products of the loss's own gradients: no extra pass
  /// The GGN from random signs: v = S e, where S S^T is the criterion's Hessian and e is +-1, has
  /// E[v v^T] = S S^T. One backward pass a sample, where outputs are independent (squared error,
  /// binary cross-entropy) with less variance than sampled targets.
  /// \source Martens, Sutskever and Swersky 2012, arXiv 1206.6464
  CurvaturePropagation,
  /// G = I: nothing is propagated, and only the inputs count. For Kronecker factors only.
  /// \source Benzing 2022, Gradient descent on neurons and its link to approximate second-order
  ///         optimization, arXiv 2201.12250
  ForwardOnly,
  /// The Fisher, in closed form: that of the likelihoods here is the GGN.
  Exact = Type2,
};

namespace detail {

/// into <- S e, for signs e of `hessian_sqrt_columns x batch`.
template <Loss L>
void random_signs_through_sqrt(const L& loss, const ConstMatrixRef<typename L::Scalar>& outputs,
                               Rng& rng, Buffer<typename L::Scalar>& scratch,
                               MatrixMap<typename L::Scalar> into) {
  using S = typename L::Scalar;
  const Index columns = loss.hessian_sqrt_columns(outputs.rows());
  if constexpr (requires { loss.hessian_sqrt_product(outputs, into, into); }) {
    MatrixMap<S> signs = scratch.map(columns, outputs.cols());
    for (Index i = 0; i < signs.size(); ++i) signs.data()[i] = rng.below(2) == 0 ? S(1) : S(-1);
    loss.hessian_sqrt_product(outputs, signs, into);
  } else {
    MatrixMap<S> one = scratch.map(outputs.rows(), outputs.cols());
    into.setZero();
    for (Index column = 0; column < columns; ++column) {
      loss.hessian_sqrt(outputs, column, one);
      for (Index n = 0; n < one.cols(); ++n)
        into.col(n) += (rng.below(2) == 0 ? S(1) : S(-1)) * one.col(n);
    }
  }
}

}  // namespace detail

/// Scratch memory of `propagate_fisher_vectors`.
template <RealScalar S>
struct FisherScratch {
  Buffer<S> vectors, signs;
};

/// Feeds `curvature` (a `Preconditioner` or `CurvatureEstimator`) with the vectors of the given
/// Fisher for the model's last forward pass. The empirical one has none of its own: the loss's
/// gradient is to be collected.
/// \source Martens 2020, arXiv 1412.1193, sections 5 and 9
template <class Model, Loss L, class Curvature>
void propagate_fisher_vectors(FisherType type, Index samples, Model& model, const L& loss,
                              const ConstMatrixRef<typename L::Scalar>& outputs,
                              Curvature& curvature, Rng& rng,
                              FisherScratch<typename L::Scalar>& scratch) {
  using S = typename L::Scalar;
  using What = typename Collection<S>::What;
  if (type == FisherType::Empirical) return;
  if (type == FisherType::ForwardOnly) return curvature.add_forward_only();
  MatrixMap<S> vectors = scratch.vectors.map(outputs.rows(), outputs.cols());
  if (type == FisherType::Type2) {
    curvature.collect({What::Vectors, S(1)});
    const Index columns = loss.hessian_sqrt_columns(outputs.rows());
    for (Index column = 0; column < columns; ++column) {
      loss.hessian_sqrt(outputs, column, vectors);
      model.backward_hooks_only(vectors);
    }
    return;
  }
  curvature.collect({What::Vectors, S(1) / static_cast<S>(samples)});
  for (Index sample = 0; sample < samples; ++sample) {
    if (type == FisherType::MonteCarlo)
      loss.sampled_gradient(outputs, rng, vectors);
    else
      detail::random_signs_through_sqrt(loss, outputs, rng, scratch.signs, vectors);
    model.backward_hooks_only(vectors);
  }
}

}  // namespace kfac
