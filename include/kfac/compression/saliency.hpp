#pragma once

#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include <kfac/compression/block_quadratic.hpp>
#include <kfac/compression/compression_memory.hpp>
#include <kfac/core/random.hpp>

namespace kfac {

/// How much a weight, a row or a column matters; the smallest are pruned first. OBD and OBS are the
/// increase of the loss, to second order at a minimum, by the curvature that the estimate holds,
/// whatever its structure: diagonal, K-FAC, EKFAC or full.
/// \source LeCun, Denker and Solla, Optimal brain damage, 1989; Hassibi and Stork, Second order
///         derivatives for network pruning: optimal brain surgeon, 1992; Wang et al. 2019, arXiv
///         1905.05934, for rows
enum class Saliency {
  Random,     ///< uniform in [0, 1): the baseline of baselines
  Magnitude,  ///< half the sum of squares, as if the curvature were I
  Obd,        ///< as all other weights stay
  /// As all other weights of the block then take their best values. It is what pruning costs with
  /// that compensation, and misleads without.
  Obs,
};

struct SaliencyOptions {
  Saliency saliency = Saliency::Obd;
  /// Added before an inverse is taken (Obs): so many times the mean eigenvalue, to each factor
  /// where there are two; >= 0 and finite. A dead input or output makes a factor singular.
  double damping = 1e-3;
  std::uint64_t seed = 0;  ///< of Random
  /// Bytes that may be taken beside the network and the estimate (`compression_memory`), > 0.
  double memory_limit = std::numeric_limits<double>::infinity();
};

namespace detail {

/// What saliencies of a network's blocks share: checks, and a loop over the linear maps. `body` is
/// called with the block, its weights, and a function that gives the curvature of it.
template <class Model, class Body>
void for_each_map(const char* where, Model& model,
                  const CurvatureEstimate<typename Model::Scalar>& estimate,
                  const SaliencyOptions& options, Body&& body) {
  const std::vector<ParameterBlock> blocks = parameter_blocks(model);
  const bool curved = options.saliency == Saliency::Obd || options.saliency == Saliency::Obs;
  check_compression(where, options.damping, options.memory_limit, blocks,
                    curved ? estimate.record.structure : CurvatureStructure::Diagonal);
  if (curved) check_estimate(where, estimate, blocks);
  const Vector<typename Model::Scalar> flat = flat_parameters(model);
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    if (!blocks[i].factored) continue;
    const Matrix<double> w = blocks[i].of(flat).template cast<double>();
    body(i, blocks[i], w,
         [&] { return BlockQuadratic(where, estimate.blocks[i], options.damping); });
  }
}

template <class Model, class Curved, class Squares>
std::vector<Vector<typename Model::Scalar>> group_saliencies(
    const char* where, Model& model, const CurvatureEstimate<typename Model::Scalar>& estimate,
    const SaliencyOptions& options, Curved&& curved, Squares&& squares) {
  using S = typename Model::Scalar;
  std::vector<Vector<S>> result(parameter_blocks(model).size());
  Rng rng(options.seed);
  for_each_map(
      where, model, estimate, options,
      [&](std::size_t i, const ParameterBlock&, const Matrix<double>& w, auto&& curvature) {
        Vector<double> values = squares(w);
        if (options.saliency == Saliency::Random)
          rng.fill_uniform(values, 0, 1);
        else if (options.saliency != Saliency::Magnitude)
          values = curved(curvature(), w, options.saliency == Saliency::Obs);
        result[i] = values.template cast<S>();
      });
  return result;
}

}  // namespace detail

/// The saliencies of all weights, flat like the parameters; infinity for what is never pruned by
/// itself: biases, and layers that are no linear maps. Random and Magnitude need no estimate: `{}`
/// will do.
///
///     const auto curvature = kfac::estimate_curvature(model, loss, kfac::slices(train, 500));
///     const auto saliencies = kfac::weight_saliencies(model, curvature);
///
/// \throws OptionError; MemoryError; ShapeError if the estimate is of another network;
///         SingularError, naming the layer, for Obs without damping of a singular block
template <class Model>
Vector<typename Model::Scalar> weight_saliencies(
    Model& model, const CurvatureEstimate<typename Model::Scalar>& estimate,
    const SaliencyOptions& options = {}) {
  using S = typename Model::Scalar;
  Vector<S> result =
      Vector<S>::Constant(model.parameter_count(), std::numeric_limits<S>::infinity());
  Rng rng(options.seed);
  detail::for_each_map(
      "kfac::weight_saliencies", model, estimate, options,
      [&](std::size_t, const ParameterBlock& block, const Matrix<double>& w, auto&& curvature) {
        Matrix<double> values = 0.5 * w.cwiseAbs2();
        if (options.saliency == Saliency::Random)
          rng.fill_uniform(values, 0, 1);
        else if (options.saliency != Saliency::Magnitude)
          values = curvature().weights(w, options.saliency == Saliency::Obs);
        block.of(result).leftCols(block.inputs) = values.leftCols(block.inputs).template cast<S>();
      });
  return result;
}

/// The saliencies of the rows of each block, bias included: output units, or filters. One vector
/// of `outputs` for each of `parameter_blocks`; empty where it is no linear map.
/// \throws as `weight_saliencies`
template <class Model>
std::vector<Vector<typename Model::Scalar>> row_saliencies(
    Model& model, const CurvatureEstimate<typename Model::Scalar>& estimate,
    const SaliencyOptions& options = {}) {
  return detail::group_saliencies(
      "kfac::row_saliencies", model, estimate, options,
      [](const detail::BlockQuadratic& curvature, const Matrix<double>& w, bool joint) {
        return curvature.rows(w, joint);
      },
      [](const Matrix<double>& w) -> Vector<double> {
        return 0.5 * w.cwiseAbs2().rowwise().sum();
      });
}

/// The saliencies of the columns of each block, a bias included as the last: inputs, or entries of
/// a patch. One vector of `columns()` for each of `parameter_blocks`; empty where it is no linear
/// map. \throws as `weight_saliencies`
template <class Model>
std::vector<Vector<typename Model::Scalar>> column_saliencies(
    Model& model, const CurvatureEstimate<typename Model::Scalar>& estimate,
    const SaliencyOptions& options = {}) {
  return detail::group_saliencies(
      "kfac::column_saliencies", model, estimate, options,
      [](const detail::BlockQuadratic& curvature, const Matrix<double>& w, bool joint) {
        return curvature.columns(w, joint);
      },
      [](const Matrix<double>& w) -> Vector<double> {
        return 0.5 * w.cwiseAbs2().colwise().sum().transpose();
      });
}

}  // namespace kfac
