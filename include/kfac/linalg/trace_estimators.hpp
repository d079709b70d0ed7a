#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include <kfac/linalg/linear_operator.hpp>
#include <kfac/linalg/orthonormal_basis.hpp>
#include <kfac/linalg/probes.hpp>

namespace kfac::linalg {

/// An unbiased estimate of a number.
template <RealScalar S>
struct ScalarEstimate {
  S value = 0;
  /// The estimated standard deviation of `value`; 0 where it is exact, infinity where a single
  /// sample says nothing of it.
  S standard_error = 0;
  Index products = 0;  ///< spent on it
};

namespace detail {

/// The mean of independent samples.
template <RealScalar S>
ScalarEstimate<S> mean_of_samples(const Vector<double>& samples, Index products) {
  const auto count = static_cast<double>(samples.size());
  const double mean = samples.mean();
  const double error = samples.size() < 2 ? std::numeric_limits<double>::infinity()
                                          : (samples.array() - mean).matrix().norm() /
                                                std::sqrt(count * (count - 1));
  return {static_cast<S>(mean), static_cast<S>(error), products};
}

/// Calls `body(first, probes, products)` for blocks of probes until there were `samples` of them.
template <class Op, class Body>
void for_each_probe_block(Op& op, const ProbeOptions& options, Rng& rng, Body&& body) {
  using S = ScalarOf<Op>;
  Matrix<S> probes, products;
  for (Index first = 0; first < options.samples; first += kProbeBlock) {
    probes.resize(op.rows(), std::min(kProbeBlock, options.samples - first));
    fill_probes(probes, options.probe, rng);
    products = op * probes;
    body(first, probes, products);
  }
}

/// Calls `body(first, block)` with the square diagonal blocks of the operator, from its products
/// with the unit vectors.
template <class Op, class Body>
void for_each_diagonal_block(Op& op, Body&& body) {
  using S = ScalarOf<Op>;
  const Index size = op.rows();
  Matrix<S> unit, products;
  for (Index first = 0; first < size; first += kProbeBlock) {
    const Index count = std::min(kProbeBlock, size - first);
    unit.setZero(size, count);
    unit.middleRows(first, count).setIdentity();
    products = op * unit;
    body(first, Matrix<S>(products.middleRows(first, count)));
  }
}

template <class Op>
ScalarEstimate<ScalarOf<Op>> exact_trace(Op& op) {
  using S = ScalarOf<Op>;
  double trace = 0;
  for_each_diagonal_block(
      op, [&](Index, const Matrix<S>& block) { trace += static_cast<double>(block.trace()); });
  return {static_cast<S>(trace), S(0), op.rows()};
}

/// a^T b, summed in double.
template <class A, class B>
double dot(const Eigen::MatrixBase<A>& a, const Eigen::MatrixBase<B>& b) {
  return a.template cast<double>().dot(b.template cast<double>());
}

}  // namespace detail

/// The trace of a symmetric operator as the mean of v^T C v over random v. With `samples` m its
/// variance is 2 |C|_F^2 / m for Gaussian probes and smaller, without the diagonal of C, for
/// Rademacher ones. \throws OptionError unless samples >= 1
/// \source Girard 1989; Hutchinson, A stochastic estimator of the trace of the influence matrix for
///         Laplacian smoothing splines, 1990
template <BlockLinearOperator Op>
ScalarEstimate<ScalarOf<Op>> hutchinson_trace(Op&& op, const ProbeOptions& options, Rng& rng) {
  using S = ScalarOf<Op>;
  kfac::detail::check_option(options.samples >= 1, "kfac::linalg::hutchinson_trace", "samples",
                             options.samples, ">= 1");
  Vector<double> samples(options.samples);
  detail::for_each_probe_block(
      op, options, rng, [&](Index first, const Matrix<S>& probes, const Matrix<S>& products) {
        for (Index i = 0; i < probes.cols(); ++i)
          samples(first + i) = detail::dot(probes.col(i), products.col(i));
      });
  return detail::mean_of_samples<S>(samples, options.samples);
}

/// The squared Frobenius norm of a symmetric operator: the mean of |C v|^2 over random v, which is
/// the trace of C^2 so estimated. \throws OptionError unless samples >= 1
template <BlockLinearOperator Op>
ScalarEstimate<ScalarOf<Op>> squared_frobenius_norm(Op&& op, const ProbeOptions& options,
                                                    Rng& rng) {
  using S = ScalarOf<Op>;
  kfac::detail::check_option(options.samples >= 1, "kfac::linalg::squared_frobenius_norm",
                             "samples", options.samples, ">= 1");
  Vector<double> samples(options.samples);
  detail::for_each_probe_block(
      op, options, rng, [&](Index first, const Matrix<S>&, const Matrix<S>& products) {
        for (Index i = 0; i < products.cols(); ++i)
          samples(first + i) = detail::dot(products.col(i), products.col(i));
      });
  return detail::mean_of_samples<S>(samples, options.samples);
}

/// The trace with the range of a third of the probes taken exactly, and the rest of the operator
/// by the mean over another third: exact for an operator of rank at most samples / 3, and with
/// variance of order 1 / samples^2 for a positive semi-definite one. The standard error is that
/// given the range. With a budget of the operator's size or more it multiplies the unit vectors.
/// Memory: 2 samples / 3 vectors. \throws OptionError unless samples >= 3
/// \source Meyer, Musco, Musco and Woodruff, Hutch++: optimal stochastic trace estimation, 2021,
///         arXiv 2010.09649, algorithm 1
template <BlockLinearOperator Op>
ScalarEstimate<ScalarOf<Op>> hutchpp_trace(Op&& op, const ProbeOptions& options, Rng& rng) {
  using S = ScalarOf<Op>;
  kfac::detail::check_option(options.samples >= 3, "kfac::linalg::hutchpp_trace", "samples",
                             options.samples, ">= 3");
  const Index size = op.rows();
  if (options.samples >= size) return detail::exact_trace(op);
  const Index sketch = options.samples / 3;
  Matrix<S> probes(size, sketch);
  detail::fill_probes(probes, options.probe, rng);
  Matrix<S> image = op * probes;
  const Matrix<S> basis = ThinQr<S>(image).q;
  image = op * basis;
  double captured = 0;
  for (Index i = 0; i < sketch; ++i) captured += detail::dot(basis.col(i), image.col(i));

  probes.resize(size, options.samples - 2 * sketch);
  detail::fill_probes(probes, options.probe, rng);
  const Matrix<S> inside = basis.transpose() * probes;
  probes.noalias() -= basis * inside;
  image = op * probes;
  Vector<double> samples(probes.cols());
  for (Index i = 0; i < probes.cols(); ++i)
    samples(i) = captured + detail::dot(probes.col(i), image.col(i));
  return detail::mean_of_samples<S>(samples, options.samples);
}

/// The trace as the mean of Hutch++-like estimates, each of which takes the range of all probes but
/// one exactly and the rest of the operator from that one: the probes are exchangeable and all are
/// used for both. Exact for an operator of rank below samples / 2. With Gaussian probes the one
/// left out, once projected, is scaled to its expected length, which takes away much of the
/// variance. With a budget of the operator's size or more it multiplies the unit vectors. Memory:
/// two times `samples` vectors. \throws OptionError unless samples >= 2
/// \source Epperly, Tropp and Webber 2024, arXiv 2301.07825, sections 2.1 and 2.3 and for the
///         standard error section 3.1
template <BlockLinearOperator Op>
ScalarEstimate<ScalarOf<Op>> xtrace(Op&& op, const ProbeOptions& options, Rng& rng) {
  using S = ScalarOf<Op>;
  kfac::detail::check_option(options.samples >= 2, "kfac::linalg::xtrace", "samples",
                             options.samples, ">= 2");
  const Index size = op.rows();
  if (options.samples >= size) return detail::exact_trace(op);
  const Index count = options.samples / 2;
  Matrix<S> probes(size, count);
  detail::fill_probes(probes, options.probe, rng);
  Matrix<S> image = op * probes;
  const ThinQr<S> factor(image);
  image = op * factor.q;
  // All that follows is small and differences of like numbers: in double.
  const Matrix<double> projected = (factor.q.transpose() * image).template cast<double>();
  const Matrix<double> inside = (factor.q.transpose() * probes).template cast<double>();
  const Matrix<double> directions = leave_one_out_directions(factor).template cast<double>();
  const Matrix<double> r = factor.r.template cast<double>();
  Vector<double> samples(count);
  for (Index i = 0; i < count; ++i) {
    const Vector<double> s = directions.col(i);
    // Of the probe: the part inside the range of the others.
    const Vector<double> within = inside.col(i) - s * s.dot(inside.col(i));
    double outside = (inside.col(i) - 2 * within).dot(r.col(i)) + within.dot(projected * within);
    if (options.probe == Probe::Gaussian) {
      const double square = detail::dot(probes.col(i), probes.col(i)) - within.squaredNorm();
      outside *= static_cast<double>(size - count + 1) / square;
    }
    samples(i) = projected.trace() - s.dot(projected * s) + outside;
  }
  return detail::mean_of_samples<S>(samples, 2 * count);
}

}  // namespace kfac::linalg
