#pragma once

#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <kfac/compression/block_quadratic.hpp>
#include <kfac/compression/compression_memory.hpp>
#include <kfac/compression/masks.hpp>
#include <kfac/linalg/kronecker_sum.hpp>

namespace kfac {

struct CompensationOptions {
  /// Added to the curvature: so many times the mean eigenvalue, to each factor where there are two;
  /// >= 0 and finite. A consistent equation is solved without; some holds the weights back where
  /// the data say little.
  double damping = 1e-3;
  double tolerance = 1e-6;    ///< on the residual over the right-hand side, >= 0
  Index max_iterations = 40;  ///< >= 0; after these most of what there is to gain is gained
  /// G = I: the least-squares fit of each output by itself. For attribution; of K-FAC only.
  bool inputs_only = false;
  linalg::KroneckerSumPreconditioner preconditioner = linalg::KroneckerSumPreconditioner::Diagonal;
  /// Bytes that may be taken beside the network and the estimate (`compression_memory`), > 0.
  double memory_limit = std::numeric_limits<double>::infinity();

  void validate(const char* where) const {
    detail::check_option(tolerance >= 0 && std::isfinite(tolerance), where, "tolerance", tolerance,
                         ">= 0 and finite");
    detail::check_option(max_iterations >= 0, where, "max_iterations", max_iterations, ">= 0");
  }
};

/// What `compensate` did to one block. Costs are 1/2 vec(dW)^T C vec(dW) of the whole change, of
/// the damped curvature C: of the mask alone, and with the other weights at their new values.
struct BlockCompensation {
  std::string block;
  linalg::KrylovStatus status = linalg::KrylovStatus::Converged;
  Index iterations = 0;
  double relative_residual = 0;
  double cost_before = 0;
  double cost = 0;
};

namespace detail {

/// X -> M .* C (M .* X) + damping X where C is diagonal in the eigenbases of two factors, a
/// `LinearOperator` on vec X.
template <RealScalar S>
class MaskedEigen {
 public:
  using Scalar = S;
  MaskedEigen(const linalg::KroneckerEigen<S>& eigen, const Matrix<S>& mask, S damping)
      : eigen_(eigen), mask_(mask), damping_(damping) {}

  Index rows() const { return mask_.size(); }
  Index cols() const { return rows(); }
  Vector<S> operator*(const Vector<S>& v) const {
    Vector<S> result = v;
    MatrixMap<S> x(result.data(), mask_.rows(), mask_.cols());
    x.array() *= mask_.array();
    eigen_.apply(linalg::MatrixFunction::Identity, damping_, x);
    x.array() *= mask_.array();
    return result;
  }
  Matrix<S> product(const Matrix<S>& x) const {
    Matrix<S> result = x;
    eigen_.apply(linalg::MatrixFunction::Identity, damping_, result);
    return result;
  }

 private:
  const linalg::KroneckerEigen<S>& eigen_;
  const Matrix<S>& mask_;
  S damping_;
};

/// Compensates one block: finds the X on the free entries that makes the change X - D cheapest,
/// where D is what the mask takes away, by M .* C X = M .* C D.
template <RealScalar S>
class BlockCompensator {
 public:
  BlockCompensator(const BlockEstimate<S>& estimate, const CompensationOptions& options)
      : estimate_(estimate), options_(options) {
    report_.block = estimate.block.name();
  }

  /// The new weights. `mask` is `outputs x columns`.
  Matrix<S> run(const Matrix<S>& w, const Matrix<S>& mask) {
    const Matrix<S> dropped = w - w.cwiseProduct(mask);
    Matrix<S> x = Matrix<S>::Zero(w.rows(), w.cols());
    if ((dropped.array() != S(0)).any()) {
      check_curvature("kfac::compensate", estimate_);
      x = solve(dropped, mask);
    }
    return w - dropped + x;
  }

  const BlockCompensation& report() const { return report_; }

 private:
  Matrix<S> solve(const Matrix<S>& dropped, const Matrix<S>& mask) {
    if (estimate_.has_factors() && (options_.inputs_only || !estimate_.has_moments))
      return solve_factored(dropped, mask);
    if (estimate_.has_moments) return solve_moments(dropped, mask);
    if (estimate_.full.size() > 0) return solve_full(dropped, mask);
    // Of a diagonal curvature nothing else makes up for a weight.
    const auto mean = static_cast<double>(estimate_.diagonal.mean());
    const Matrix<double> diagonal =
        estimate_.diagonal.template cast<double>().array() + options_.damping * mean;
    const Matrix<double> change = dropped.template cast<double>();
    report_.cost_before = 0.5 * change.cwiseAbs2().cwiseProduct(diagonal).sum();
    report_.cost = report_.cost_before;
    return Matrix<S>::Zero(dropped.rows(), dropped.cols());
  }

  Matrix<S> solve_factored(const Matrix<S>& dropped, const Matrix<S>& mask) {
    linalg::KroneckerTerm<S> term;
    term.a = damped(estimate_.factors.a, options_.damping).template cast<S>();
    term.g = options_.inputs_only
                 ? Matrix<S>::Identity(dropped.rows(), dropped.rows())
                 : Matrix<S>(damped(estimate_.factors.g, options_.damping).template cast<S>());
    const linalg::KroneckerSum<S> all({term});
    const linalg::KroneckerSum<S> masked({term}, mask);
    const Matrix<S> right = all.product(dropped);
    const linalg::KroneckerSumSolution<S> solution =
        linalg::solve_kronecker_sum<S>(masked, right,
                                       {.tolerance = static_cast<S>(options_.tolerance),
                                        .max_iterations = options_.max_iterations,
                                        .preconditioner = options_.preconditioner});
    take(solution, dropped, right, solution.x, all.product(solution.x));
    return solution.x;
  }

  Matrix<S> solve_moments(const Matrix<S>& dropped, const Matrix<S>& mask) {
    const linalg::KroneckerEigen<S>& eigen = estimate_.eigen;
    const S damping = static_cast<S>(options_.damping * static_cast<double>(eigen.grid().mean()));
    const MaskedEigen<S> masked(eigen, mask, damping);
    const Matrix<S> right = masked.product(dropped);
    Matrix<S> diagonal = eigen.diagonal();
    diagonal.array() += damping;
    diagonal = (diagonal.array() > S(0)).select(diagonal, S(1));
    const Vector<S> b = right.cwiseProduct(mask).reshaped();
    const linalg::KrylovResult<S> result = linalg::conjugate_gradients(
        masked, b,
        linalg::KrylovOptions<S>{.tolerance = static_cast<S>(options_.tolerance),
                                 .max_iterations = options_.max_iterations},
        [&](Vector<S>& v) { v.array() /= diagonal.reshaped().array(); });
    const Matrix<S> x = result.x.reshaped(dropped.rows(), dropped.cols());
    take(result, dropped, right, x, masked.product(x));
    return x;
  }

  Matrix<S> solve_full(const Matrix<S>& dropped, const Matrix<S>& mask) {
    const Matrix<double> c = damped(estimate_.full, options_.damping);
    const Vector<double> d = dropped.template cast<double>().reshaped();
    const Vector<double> right = c * d;
    std::vector<Index> free;
    for (Index i = 0; i < mask.size(); ++i)
      if (mask.reshaped()(i) != S(0)) free.push_back(i);
    Vector<double> x = Vector<double>::Zero(d.size());
    if (!free.empty()) {
      const Matrix<double> among = c(free, free);
      const Vector<double> part = right(free);
      const Vector<double> best = cholesky("kfac::compensate", among, report_.block).solve(part);
      x(free) = best;
    }
    const Vector<double> product = c * x;
    report_.cost_before = 0.5 * d.dot(right);
    report_.cost = 0.5 * (x - d).dot(product - right);
    return x.reshaped(mask.rows(), mask.cols()).template cast<S>();
  }

  /// The report, of products that are at hand: C D and C X.
  template <class Solution>
  void take(const Solution& solution, const Matrix<S>& dropped, const Matrix<S>& c_dropped,
            const Matrix<S>& x, const Matrix<S>& c_x) {
    report_.status = solution.status;
    report_.iterations = solution.iterations;
    report_.relative_residual = static_cast<double>(solution.relative_residual);
    const Matrix<double> d = dropped.template cast<double>();
    const Matrix<double> change = x.template cast<double>() - d;
    report_.cost_before = 0.5 * d.cwiseProduct(c_dropped.template cast<double>()).sum();
    report_.cost = 0.5 * change.cwiseProduct((c_x - c_dropped).template cast<double>()).sum();
  }

  const BlockEstimate<S>& estimate_;
  const CompensationOptions& options_;
  BlockCompensation report_;
};

}  // namespace detail

/// Applies a mask (flat, of zeros and ones) to a network's parameters and gives those that are left
/// the values that make up for it best: of each block the minimum of 1/2 vec(dW)^T C vec(dW) over
/// all weights of which the masked ones are zero. For K-FAC that is conjugate gradients on the free
/// entries of G X A; EKFAC likewise in its eigenbases, `Full` by a Cholesky decomposition, and a
/// diagonal has nothing to give. Of a mask of any pattern, bias and all: what is gained does not
/// depend on where the mask is from.
///
///     const auto report = kfac::compensate(model, mask, curvature);
///
/// The curvature is to be that at the parameters that the network has now, before the mask. A block
/// of which nothing is removed stays as it is.
/// \throws OptionError; MemoryError; ShapeError or ValueError if the mask is none of the network,
///         or the estimate of another, or without curvature of a block that loses weights;
///         ValueError for `inputs_only` without Kronecker factors;
///         SingularError for a `Full` block without damping. The network is as it was then.
template <class Model>
std::vector<BlockCompensation> compensate(Model& model, const Vector<typename Model::Scalar>& mask,
                                          const CurvatureEstimate<typename Model::Scalar>& estimate,
                                          const CompensationOptions& options = {}) {
  using S = typename Model::Scalar;
  static constexpr const char* kWhere = "kfac::compensate";
  const std::vector<ParameterBlock> blocks = parameter_blocks(model);
  options.validate(kWhere);
  detail::check_compression(kWhere, options.damping, options.memory_limit, blocks,
                            estimate.record.structure);
  detail::check_mask(kWhere, mask, model.parameter_count());
  detail::check_estimate(kWhere, estimate, blocks);
  for (const BlockEstimate<S>& block : estimate.blocks)
    if (options.inputs_only && block.block.factored && !block.has_factors())
      raise<ValueError>(std::string(kWhere) +
                        ": 'inputs_only' is true, expected an estimate with Kronecker factors");
  Vector<S> flat = flat_parameters(model);
  std::vector<BlockCompensation> reports;
  for (const BlockEstimate<S>& block : estimate.blocks) {
    detail::BlockCompensator<S> compensator(block, options);
    const Matrix<S> next = compensator.run(block.block.of(flat), block.block.of(mask));
    block.block.of(flat) = next;
    reports.push_back(compensator.report());
  }
  set_flat_parameters(model, flat);
  return reports;
}

}  // namespace kfac
