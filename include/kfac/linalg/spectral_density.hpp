#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>

#include <kfac/linalg/lanczos.hpp>
#include <kfac/linalg/probes.hpp>

namespace kfac::linalg {

struct SpectralMeasureOptions {
  Index probes = 4;  ///< random start vectors, >= 1
  Index steps = 64;  ///< of Lanczos from each, at one product a step, >= 1
  Probe probe = Probe::Gaussian;
};

/// Points with weights that sum to 1, standing for the eigenvalues of an operator of `size` rows.
struct SpectralMeasure {
  Vector<double> nodes;
  Vector<double> weights;
  Index size = 0;

  /// An estimate of the trace of f(C): the log-determinant with f = log, the number of eigenvalues
  /// in an interval with its indicator.
  template <class Function>
  double trace(Function&& f) const {
    double sum = 0;
    for (Index i = 0; i < nodes.size(); ++i) sum += weights(i) * f(nodes(i));
    return static_cast<double>(size) * sum;
  }
};

/// The distribution of the eigenvalues of a symmetric operator by stochastic Lanczos quadrature:
/// its Ritz values from random start vectors with the squares of the first entries of their
/// vectors. Moments up to degree 2 steps - 1 are those of the probes, so exact on average. \throws
/// OptionError; ValueError if a product is not finite \source Golub and Welsch 1969; Ubaru, Chen
/// and Saad, Fast estimation of tr(f(A)) via stochastic
///         Lanczos quadrature, 2017; for networks Ghorbani, Krishnan and Xiao 2019, arXiv
///         1901.10159, and Papyan 2020, arXiv 2008.11865
template <LinearOperator Op>
SpectralMeasure spectral_measure(Op&& op, const SpectralMeasureOptions& options, Rng& rng) {
  using S = ScalarOf<Op>;
  static constexpr const char* kWhere = "kfac::linalg::spectral_measure";
  kfac::detail::check_option(options.probes >= 1, kWhere, "probes", options.probes, ">= 1");
  kfac::detail::check_option(options.steps >= 1, kWhere, "steps", options.steps, ">= 1");
  SpectralMeasure measure;
  measure.size = op.rows();
  Matrix<S> start(measure.size, 1);
  Matrix<double> vectors;
  Vector<double> values;
  for (Index probe = 0; probe < options.probes; ++probe) {
    detail::fill_probes(start, options.probe, rng);
    const LanczosDecomposition<S> lanczos_basis = lanczos(op, start.col(0), options.steps);
    const Matrix<double> projected = lanczos_basis.projected();
    kfac::detail::check_finite(kWhere, "op * v", projected);
    if (!detail::decompose_symmetric(projected, vectors, values))
      raise<ValueError>(std::string(kWhere) +
                        ": 'op' is such that the eigensolver fails, expected"
                        " a symmetric operator");
    const Index before = measure.nodes.size();
    measure.nodes.conservativeResize(before + values.size());
    measure.weights.conservativeResize(before + values.size());
    measure.nodes.tail(values.size()) = values;
    measure.weights.tail(values.size()) =
        vectors.row(0).transpose().cwiseAbs2() / static_cast<double>(options.probes);
  }
  return measure;
}

struct DensityOptions {
  Index points = 512;   ///< of the grid, >= 2
  double width = 0.01;  ///< standard deviation of the Gaussians over the range of the nodes, > 0
  double margin =
      0.05;  ///< what the grid has beyond the nodes on either side, over their range, >= 0
};

/// A function on an even grid.
struct SpectralDensity {
  Vector<double> grid;
  Vector<double> values;
};

namespace detail {

inline SpectralDensity broaden(const char* where, const Vector<double>& nodes,
                               const Vector<double>& weights, const DensityOptions& options) {
  kfac::detail::check_option(options.points >= 2, where, "points", options.points, ">= 2");
  kfac::detail::check_option(options.width > 0 && std::isfinite(options.width), where, "width",
                             options.width, "> 0 and finite");
  kfac::detail::check_option(options.margin >= 0 && std::isfinite(options.margin), where, "margin",
                             options.margin, ">= 0 and finite");
  if (nodes.size() == 0 || nodes.size() != weights.size())
    raise<ShapeError>(std::string(where) + ": 'measure' has " + std::to_string(nodes.size()) +
                      " nodes and " + std::to_string(weights.size()) +
                      " weights, expected as many of each and at least one");
  const double low = nodes.minCoeff();
  const double high = nodes.maxCoeff();
  // Nodes that are all the same have no range of their own.
  const double size = std::max(std::abs(low), std::abs(high));
  const double range = high - low > 1e-12 * size ? high - low : (size > 0 ? size : 1.0);
  const double sigma = options.width * range;
  const double peak = 1 / (sigma * std::sqrt(2 * std::numbers::pi));
  SpectralDensity density;
  density.grid.setLinSpaced(options.points, low - options.margin * range,
                            high + options.margin * range);
  density.values.setZero(options.points);
  for (Index i = 0; i < nodes.size(); ++i)
    density.values.array() +=
        weights(i) * peak * (-0.5 * ((density.grid.array() - nodes(i)) / sigma).square()).exp();
  return density;
}

}  // namespace detail

/// The density of the eigenvalues: the nodes of a measure broadened to Gaussians. It integrates to
/// 1 (times the operator's size: the number of eigenvalues). \throws OptionError, ShapeError
inline SpectralDensity spectral_density(const SpectralMeasure& measure,
                                        const DensityOptions& options = {}) {
  return detail::broaden("kfac::linalg::spectral_density", measure.nodes, measure.weights, options);
}

/// The density of log10(|eigenvalue| + offset), which shows the many orders of magnitude that the
/// spectra of networks have. The grid is in these logarithms; what is smaller than `offset`, > 0,
/// is gathered there. \throws OptionError, ShapeError \source Papyan 2020, arXiv 2008.11865
inline SpectralDensity log_spectral_density(const SpectralMeasure& measure, double offset = 1e-6,
                                            const DensityOptions& options = {}) {
  static constexpr const char* kWhere = "kfac::linalg::log_spectral_density";
  kfac::detail::check_option(offset > 0 && std::isfinite(offset), kWhere, "offset", offset,
                             "> 0 and finite");
  const Vector<double> logarithms = (measure.nodes.array().abs() + offset).log10();
  return detail::broaden(kWhere, logarithms, measure.weights, options);
}

}  // namespace kfac::linalg
