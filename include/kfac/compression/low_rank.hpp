#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <kfac/compression/compression_memory.hpp>
#include <kfac/compression/replaced_maps.hpp>
#include <kfac/compression/selection.hpp>

namespace kfac {

/// A linear map as the product of two: y = left (right x) + bias.
struct LowRankMap {
  Matrix<double> left;   ///< outputs x rank
  Matrix<double> right;  ///< rank x inputs
  Vector<double> bias;   ///< empty without one
  /// 1/2 vec(dW)^T (A (x) G) vec(dW) of the change of [W b].
  double cost = 0;
};

/// The map of that rank which changes the loss least, to second order: of all X of the rank and all
/// biases the minimum of 1/2 |G^1/2 ([W b] - [X c]) A^1/2|^2. That is the truncated SVD of
/// G^1/2 W C^1/2, mapped back, where C is the covariance of the inputs (what is left of A with the
/// bias at its best), or their second moment without a bias. Both factors have `damping` times
/// their mean eigenvalue added; of a G that is still singular the pseudo-inverse is taken.
///
/// `w` is [W b], or W without a bias; the factors are those of its block.
/// \throws ShapeError; OptionError unless 1 <= rank <= the smaller side of W, or for the damping;
///         ValueError (not finite)
/// \source Eckart and Young, The approximation of one matrix by another of lower rank, 1936
template <RealScalar S>
LowRankMap weighted_low_rank(const ConstMatrixRef<S>& w, const linalg::KroneckerTerm<S>& factors,
                             bool bias, Index rank, double damping = 0) {
  static constexpr const char* kWhere = "kfac::weighted_low_rank";
  detail::check_shape(kWhere, "factors.a", factors.a.rows(), factors.a.cols(), w.cols(), w.cols());
  detail::check_shape(kWhere, "factors.g", factors.g.rows(), factors.g.cols(), w.rows(), w.rows());
  const Index inputs = w.cols() - (bias ? 1 : 0);
  detail::check_option(rank >= 1 && rank <= std::min(inputs, w.rows()), kWhere, "rank", rank,
                       "1 to the smaller side of W");
  detail::check_option(damping >= 0 && std::isfinite(damping), kWhere, "damping", damping,
                       ">= 0 and finite");
  detail::check_finite(kWhere, "w", w);
  const detail::CentredInputs centred(factors.a.template cast<double>(), bias);
  const Matrix<double> covariance = detail::damped(centred.covariance, damping);
  const linalg::SymmetricEigen<double> g =
      detail::eigen_of(kWhere, detail::damped(factors.g, damping), "G");
  const Matrix<double> weight = w.leftCols(inputs).template cast<double>();

  // The left singular vectors of G^1/2 W C^1/2 are eigenvectors of a matrix that needs no root of
  // C.
  const Vector<double> roots = g.values.cwiseSqrt();
  const double round_off = 1e-12 * roots.maxCoeff();
  const Vector<double> inverse_roots =
      (roots.array() > round_off).select(roots.cwiseInverse(), 0.0);
  Matrix<double> scaled = g.vectors.transpose() * weight;
  scaled.array().colwise() *= roots.array();
  const Matrix<double> half = scaled * covariance;
  const linalg::SymmetricEigen<double> square =
      detail::eigen_of(kWhere, half * scaled.transpose(), "W");
  const Matrix<double> vectors = square.vectors.rightCols(rank);

  LowRankMap result;
  const Matrix<double> back = inverse_roots.asDiagonal() * vectors;
  result.left = g.vectors * back;
  result.right = vectors.transpose() * scaled;
  result.cost = 0.5 * square.values.head(w.rows() - rank).sum();
  if (bias) {
    const Matrix<double> change = result.left * result.right - weight;
    result.bias = w.col(inputs).template cast<double>() - change * centred.mean;
  }
  return result;
}

struct LowRankOptions {
  /// The share of each layer's weights that is left, in (0, 1): the rank is the largest that allows
  /// it, and at least 1.
  double keep = 0.25;
  /// By the curvature; else the plain truncated SVD of W, which needs no estimate.
  bool weighted = true;
  std::vector<std::string> layers = {};  ///< which; empty: all that become smaller
  double damping = 1e-3;  ///< so many times the mean eigenvalue of each factor; >= 0 and finite
  /// Bytes that may be taken beside the network and the estimate (`compression_memory`), > 0.
  double memory_limit = std::numeric_limits<double>::infinity();
};

/// A copy of a network in which layers are two of a lower rank each: a Linear becomes two, a
/// convolution one with the same kernel to `rank` channels and a pointwise one; see
/// `weighted_low_rank`. Layers that would not become smaller stay.
///
///     auto smaller = kfac::factorize(model, curvature, {.keep = 0.25});
///
/// \throws OptionError; MemoryError; ShapeError if the estimate is of another network; ValueError
/// if
///         it has no Kronecker factors, or for a layer that is no linear map
template <RealScalar S>
DynamicSequential<S> factorize(DynamicSequential<S>& model, const CurvatureEstimate<S>& estimate,
                               const LowRankOptions& options = {}) {
  static constexpr const char* kWhere = "kfac::factorize";
  const std::vector<ParameterBlock> blocks = parameter_blocks(model);
  detail::check_option(options.keep > 0 && options.keep < 1, kWhere, "keep", options.keep,
                       "0 < keep < 1");
  detail::check_compression(kWhere, options.damping, options.memory_limit, blocks,
                            CurvatureStructure::Kronecker);
  if (options.weighted) detail::check_estimate(kWhere, estimate, blocks);
  detail::check_layers(kWhere, model, options.layers);
  return detail::rewritten(model, [&](std::vector<AnyLayer<S>>& layers, const std::string& prefix) {
    std::vector<AnyLayer<S>> next;
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const std::string name = prefix + std::to_string(i);
      const auto map = detail::unit_map(layers[i]);
      const bool chosen =
          options.layers.empty() ||
          std::find(options.layers.begin(), options.layers.end(), name) != options.layers.end();
      if (!map || map->groups != 1 || !chosen) {
        next.push_back(layers[i]);
        continue;
      }
      const Index size = map->outputs() * map->columns();
      const Index each = map->outputs() + map->columns();
      const Index rank = std::max<Index>(
          1,
          detail::whole_part(options.keep * static_cast<double>(size) / static_cast<double>(each)));
      if (rank * each >= size || rank > std::min(map->outputs(), map->columns())) {
        next.push_back(layers[i]);
        continue;
      }
      linalg::KroneckerTerm<S> factors;
      factors.a = Matrix<S>::Identity(map->weight.cols(), map->weight.cols());
      factors.g = Matrix<S>::Identity(map->outputs(), map->outputs());
      if (options.weighted) {
        std::size_t at = 0;
        while (blocks[at].name() != name) ++at;
        detail::check_factors(kWhere, estimate.blocks[at]);
        factors = estimate.blocks[at].factors;
      }
      const LowRankMap low =
          weighted_low_rank<S>(map->weight, factors, map->bias, rank, options.damping);
      next.push_back(detail::layer_of(detail::map_of<S>(low.right, {}, *map, false), layers[i]));
      next.push_back(
          detail::layer_of(detail::map_of<S>(low.left, low.bias, *map, true), layers[i]));
    }
    layers = std::move(next);
  });
}

}  // namespace kfac
