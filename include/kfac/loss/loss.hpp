#pragma once

#include <concepts>
#include <string>

#include <kfac/core/pieces.hpp>
#include <kfac/core/random.hpp>
#include <kfac/core/reduction.hpp>

namespace kfac {

struct LossOptions {
  /// As PyTorch defines it: `Mean` is over labels, or over all entries of the target matrix.
  Reduction reduction = Reduction::Mean;
};

/// A loss L = R sum_n c(f_n, y_n) over the columns f_n of `outputs` (`outputs x batch`), where the
/// criterion c of one example is a negative log-likelihood, convex in f. Only `value` and
/// `gradient` carry the factor R = `scale(outputs, batch)`; curvature is built from c, since R
/// enters it once:
///
/// - `check(outputs, targets)`: throws ShapeError or ValueError if they do not fit each other.
/// - `value(outputs, targets)`, `gradient(outputs, targets, into)`: of L.
/// - `scale(outputs, batch)`: R, for that many outputs and examples.
/// - `hessian_product(outputs, v, into)`: column by column, the Hessian of c times v.
/// - `hessian_sqrt(outputs, column, into)`: the given column of S_n, S_n S_n^T the Hessian of c,
/// for
///   each example; there are `hessian_sqrt_columns(outputs)` of them.
/// - `sample(outputs, rng)`: targets drawn from the model's own likelihood.
/// - `sampled_gradient(outputs, rng, into)`: the gradient of c at such targets.
template <class L>
concept Loss = RealScalar<typename L::Scalar> &&
    requires(const L& loss, const ConstMatrixRef<typename L::Scalar>& outputs,
             const typename L::TargetsRef& targets, MatrixRef<typename L::Scalar> into, Rng& rng,
             Index count) {
  loss.check(outputs, targets);
  { loss.value(outputs, targets) } -> std::same_as<typename L::Scalar>;
  loss.gradient(outputs, targets, into);
  { loss.scale(count, count) } -> std::same_as<typename L::Scalar>;
  loss.hessian_product(outputs, outputs, into);
  { loss.hessian_sqrt_columns(count) } -> std::same_as<Index>;
  loss.hessian_sqrt(outputs, count, into);
  { loss.sample(outputs, rng) } -> std::same_as<typename L::Targets>;
  loss.sampled_gradient(outputs, rng, into);
};

/// A loss that also has, for random vectors of curvature propagation,
///
/// - `hessian_sqrt_product(outputs, u, into)`: S_n u_n for each example, where u, `columns x
/// batch`,
///   has as many rows as S_n columns, in the time that the outputs take.
/// \source Martens, Sutskever and Swersky, Estimating the Hessian by back-propagating curvature,
///         2012
template <class L>
concept HessianSqrtLoss = Loss<L> &&
    requires(const L& loss, const ConstMatrixRef<typename L::Scalar>& matrix,
             MatrixRef<typename L::Scalar> into) {
  loss.hessian_sqrt_product(matrix, matrix, into);
};

/// Writes the gradient of a loss and returns its value: at once where the loss has
/// `value_and_gradient(outputs, targets, into)`, which those here do.
/// \throws as `gradient`
template <Loss L>
typename L::Scalar value_and_gradient(const L& loss,
                                      const ConstMatrixRef<typename L::Scalar>& outputs,
                                      const typename L::TargetsRef& targets,
                                      MatrixRef<typename L::Scalar> into) {
  if constexpr (requires { loss.value_and_gradient(outputs, targets, into); }) {
    return loss.value_and_gradient(outputs, targets, into);
  } else {
    loss.gradient(outputs, targets, into);
    return loss.value(outputs, targets);
  }
}

namespace detail {

template <RealScalar S>
using ArrayMap = Eigen::Map<Eigen::Array<S, Eigen::Dynamic, 1>>;
template <RealScalar S>
using ConstArrayMap = Eigen::Map<const Eigen::Array<S, Eigen::Dynamic, 1>>;

/// The sum of `body(f, y, into)` over pieces of two matrices and of what is written, all of one
/// size; what is written may be null (and is in each piece, then). Large ones are shared by
/// threads.
template <RealScalar S, class Body>
S sum_over_entries(const ConstMatrixRef<S>& f, const ConstMatrixRef<S>& y, MatrixRef<S>* into,
                   Body&& body) {
  const auto is_contiguous = [](const auto& m) { return m.outerStride() == m.rows(); };
  const bool at_once = is_contiguous(f) && is_contiguous(y) && (!into || is_contiguous(*into));
  const Index columns = at_once ? 1 : f.cols();
  S total = 0;
  for (Index column = 0; column < columns; ++column)
    total += sum_over_pieces<S>(f.size() / columns, kPieceSize, [&](Index first, Index count) -> S {
      return body(ConstArrayMap<S>(f.data() + column * f.outerStride() + first, count),
                  ConstArrayMap<S>(y.data() + column * y.outerStride() + first, count),
                  ArrayMap<S>(into ? into->data() + column * into->outerStride() + first : nullptr,
                              into ? count : 0));
    });
  return total;
}

/// What the losses whose targets are a matrix like the outputs share.
template <RealScalar S>
class MatrixTargetLoss {
 public:
  using Scalar = S;
  using Targets = Matrix<S>;
  using TargetsRef = ConstMatrixRef<S>;

 protected:
  explicit MatrixTargetLoss(LossOptions options) : reduction_(options.reduction) {}

  static void check_targets(const char* where, const ConstMatrixRef<S>& outputs,
                            const TargetsRef& targets) {
    if (outputs.size() == 0)
      raise<ShapeError>(std::string(where) +
                        ": 'outputs' has no entries, expected at least one example");
    check_shape(where, "targets", targets.rows(), targets.cols(), outputs.rows(), outputs.cols());
    if (!all_finite<S>(targets)) check_finite(where, "targets", targets);
  }

  /// 1, or one over the number of entries or examples.
  S reduction_factor(Index outputs, Index batch) const {
    return detail::reduction_factor<S>(reduction_, outputs, batch);
  }

 private:
  Reduction reduction_;
};

}  // namespace detail
}  // namespace kfac
