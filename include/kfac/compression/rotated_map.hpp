#pragma once

#include <string>
#include <utility>
#include <vector>

#include <kfac/compression/adjacent_maps.hpp>

namespace kfac::detail {

/// A layer in the eigenbases of its factors: W = Q_G core (Q_A (x) I)^T, the inputs of a
/// convolution rotated over channels alone.
struct RotatedMap {
  Matrix<double> q_a, q_g;
  Matrix<double> core;      ///< as [W] in these bases
  Matrix<double> saliency;  ///< outputs x inputs, summed over the taps
  Vector<double> mean;      ///< of the inputs: by which the bias makes up for what is left out

  template <RealScalar S>
  RotatedMap(const char* where, const UnitMap<S>& map, const BlockEstimate<S>& estimate) {
    const std::string name = estimate.block.name();
    check_factors(where, estimate);
    const CentredInputs inputs(estimate.factors.a.template cast<double>(), map.bias);
    mean = inputs.mean;
    const auto at_tap = [&](Index tap) { return Eigen::seqN(tap, map.inputs, map.taps); };
    Matrix<double> channels = Matrix<double>::Zero(map.inputs, map.inputs);
    for (Index tap = 0; tap < map.taps; ++tap)
      channels += inputs.covariance(at_tap(tap), at_tap(tap));
    q_a = eigen_of(where, channels, name).vectors;
    const linalg::SymmetricEigen<double> g =
        eigen_of(where, estimate.factors.g.template cast<double>(), name);
    q_g = g.vectors;

    const Matrix<double> half =
        q_g.transpose() * map.weight.leftCols(map.columns()).template cast<double>();
    core.resize(map.outputs(), map.columns());
    saliency = Matrix<double>::Zero(map.outputs(), map.inputs);
    for (Index tap = 0; tap < map.taps; ++tap) {
      const Matrix<double> taken = half(Eigen::all, at_tap(tap));
      const Matrix<double> rotated = taken * q_a;
      core(Eigen::all, at_tap(tap)) = rotated;
      Matrix<double> curvature;
      if (estimate.has_moments) {
        curvature = moments(map, estimate, tap);
      } else {
        const Matrix<double> among = inputs.covariance(at_tap(tap), at_tap(tap));
        const Matrix<double> product = among * q_a;
        curvature = g.values * q_a.cwiseProduct(product).colwise().sum();
      }
      saliency += 0.5 * rotated.cwiseAbs2().cwiseProduct(curvature);
    }
  }

 private:
  /// The second moments of EKFAC along the directions of the core at a tap, each with the change of
  /// the bias that goes with it: outputs x inputs.
  template <RealScalar S>
  Matrix<double> moments(const UnitMap<S>& map, const BlockEstimate<S>& estimate, Index tap) const {
    const Matrix<double> u_a = estimate.eigen.input_basis().vectors.template cast<double>();
    const Matrix<double> u_g = estimate.eigen.output_basis().vectors.template cast<double>();
    const Matrix<double> grid = estimate.eigen.grid().template cast<double>();
    Matrix<double> directions = Matrix<double>::Zero(u_a.rows(), map.inputs);
    directions(Eigen::seqN(tap, map.inputs, map.taps), Eigen::all) = q_a;
    if (map.bias) {
      const Vector<double> below = directions.topRows(map.columns()).transpose() * mean;
      directions.row(map.columns()) = -below.transpose();
    }
    const Matrix<double> of_a = (u_a.transpose() * directions).cwiseAbs2();
    const Matrix<double> of_g = (q_g.transpose() * u_g).cwiseAbs2();
    const Matrix<double> half = of_g * grid;
    return half * of_a;
  }
};

/// The factors of a rotated layer that are left with these eigen-channels: inputs to inputs, core,
/// outputs to outputs.
template <RealScalar S>
std::vector<MapPiece<S>> factors_of(const RotatedMap& rotated, const UnitMap<S>& map,
                                    const AnyLayer<S>& like, const std::vector<Index>& rows,
                                    const std::vector<Index>& columns) {
  std::vector<Index> entries;
  for (const Index column : columns)
    for (Index tap = 0; tap < map.taps; ++tap) entries.push_back(column * map.taps + tap);
  const Matrix<double> from = rotated.q_a(Eigen::all, columns).transpose();
  const Matrix<double> core = rotated.core(rows, entries);
  const Matrix<double> to = rotated.q_g(Eigen::all, rows);
  MapPiece<S> first{map_of<S>(from, {}, map, true), like};
  MapPiece<S> middle{map_of<S>(core, {}, map, false), like, true};
  Vector<double> bias;
  if (map.bias) {
    // The change of W that all this makes.
    const MapPiece<S> product = *product_of(first, middle);
    const Matrix<double> inner = product.map.weight.template cast<double>();
    const Matrix<double> change =
        to * inner - map.weight.leftCols(map.columns()).template cast<double>();
    bias = map.weight.col(map.columns()).template cast<double>() - change * rotated.mean;
  }
  MapPiece<S> last{map_of<S>(to, bias, map, true), like};
  return {std::move(first), std::move(middle), std::move(last)};
}

}  // namespace kfac::detail
