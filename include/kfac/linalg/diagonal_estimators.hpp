#pragma once

#include <kfac/linalg/trace_estimators.hpp>

namespace kfac::linalg {

/// The diagonal of a symmetric operator, unbiased: sums of v .* (C v) over random v, divided by the
/// sums of v .* v. The variance of entry i is about the sum of the squares of the other entries of
/// row i over `samples`. \throws OptionError unless samples >= 1
/// \source Bekas, Kokiopoulou and Saad, An estimator for the diagonal of a matrix, 2007
template <BlockLinearOperator Op>
Vector<ScalarOf<Op>> hutchinson_diagonal(Op&& op, const ProbeOptions& options, Rng& rng) {
  using S = ScalarOf<Op>;
  kfac::detail::check_option(options.samples >= 1, "kfac::linalg::hutchinson_diagonal", "samples",
                             options.samples, ">= 1");
  Vector<S> products_sum = Vector<S>::Zero(op.rows());
  Vector<S> squares_sum = Vector<S>::Zero(op.rows());
  detail::for_each_probe_block(op, options, rng,
                               [&](Index, const Matrix<S>& probes, const Matrix<S>& products) {
                                 products_sum += probes.cwiseProduct(products).rowwise().sum();
                                 squares_sum += probes.cwiseAbs2().rowwise().sum();
                               });
  return products_sum.cwiseQuotient(squares_sum);
}

/// The diagonal from Rademacher probes as `xtrace` finds the trace: the range of all probes but one
/// exactly, the rest of the operator from that one, and the mean over which one it is. Exact for an
/// operator of rank below samples / 2, and (from the unit vectors) with a budget of its size or
/// more. Memory: two times `samples` vectors. \throws OptionError unless samples >= 2
/// \source Epperly, Tropp and Webber 2024, arXiv 2301.07825, section 2.4
template <BlockLinearOperator Op>
Vector<ScalarOf<Op>> xdiag(Op&& op, Index samples, Rng& rng) {
  using S = ScalarOf<Op>;
  kfac::detail::check_option(samples >= 2, "kfac::linalg::xdiag", "samples", samples, ">= 2");
  const Index size = op.rows();
  Vector<S> diagonal(size);
  if (samples >= size) {
    detail::for_each_diagonal_block(op, [&](Index first, const Matrix<S>& block) {
      diagonal.segment(first, block.rows()) = block.diagonal();
    });
    return diagonal;
  }
  const Index count = samples / 2;
  Matrix<S> probes(size, count);
  detail::fill_probes(probes, Probe::Rademacher, rng);
  Matrix<S> image = op * probes;
  const ThinQr<S> factor(image);
  image = op * factor.q;
  const Matrix<S> directions = leave_one_out_directions(factor);
  diagonal = factor.q.cwiseProduct(image).rowwise().sum();
  // Without probe i the range lacks the direction s_i, and the probe's own estimate stands in.
  const Matrix<S> missing = factor.q * directions;
  const Matrix<S> missing_image = image * directions;
  const S share = S(1) / static_cast<S>(count);
  for (Index i = 0; i < count; ++i) {
    const S along = directions.col(i).dot(factor.r.col(i));
    diagonal += share * missing.col(i).cwiseProduct(along * probes.col(i) - missing_image.col(i));
  }
  return diagonal;
}

}  // namespace kfac::linalg
