#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <kfac/compression/block_quadratic.hpp>
#include <kfac/compression/linear_maps.hpp>
#include <kfac/linalg/symmetric_eigen.hpp>

/// What factorizations of layers share.
namespace kfac::detail {

/// The second moment of a block's inputs as its weights feel it with the bias at its best: of
/// A = [[M, m], [m^T, c]] the Schur complement M - m m^T / c, which is the covariance, and m / c,
/// by which a change dW of the weights is made up for: db = -dW m / c. Without a bias M, and zero.
struct CentredInputs {
  Matrix<double> covariance;
  Vector<double> mean;

  CentredInputs(const Matrix<double>& a, bool bias) {
    const Index inputs = a.rows() - (bias ? 1 : 0);
    covariance = a.topLeftCorner(inputs, inputs);
    mean = Vector<double>::Zero(inputs);
    if (!bias || a(inputs, inputs) == 0) return;
    mean = a.col(inputs).head(inputs) / a(inputs, inputs);
    covariance.noalias() -= mean * a.row(inputs).head(inputs);
  }
};

/// The eigendecomposition of a positive semi-definite matrix.
inline linalg::SymmetricEigen<double> eigen_of(const char* where, const Matrix<double>& matrix,
                                               const std::string& block) {
  linalg::SymmetricEigen<double> eigen;
  if (!eigen.compute(matrix))
    raise<ValueError>(std::string(where) + ": a factor is not finite (layer '" + block + "')");
  return eigen;
}

/// The map [W b] of a kernel and strides like those of `like`, or a pointwise one; `bias` may be
/// empty.
template <RealScalar S>
UnitMap<S> map_of(const Matrix<double>& weight, const Vector<double>& bias, const UnitMap<S>& like,
                  bool pointwise) {
  UnitMap<S> map = like;
  if (pointwise) {
    map.taps = 1;
    map.pointwise = true;
    map.padded = false;
  }
  map.inputs = weight.cols() / map.taps;
  map.bias = bias.size() > 0;
  map.weight.resize(weight.rows(), weight.cols() + (map.bias ? 1 : 0));
  map.weight.leftCols(weight.cols()) = weight.template cast<S>();
  if (map.bias) map.weight.col(weight.cols()) = bias.template cast<S>();
  return map;
}

/// Raises a ValueError unless each name is that of a Linear, or of a Conv without groups.
template <RealScalar S>
void check_layers(const char* where, const DynamicSequential<S>& model,
                  const std::vector<std::string>& names) {
  std::vector<std::string> known;
  for_each_chain(model, [&](const DynamicSequential<S>& chain, const std::string& prefix) {
    for (std::size_t i = 0; i < chain.size(); ++i)
      if (const auto map = unit_map(chain.layer(i)); map && map->groups == 1)
        known.push_back(prefix + std::to_string(i));
  });
  for (const std::string& name : names)
    if (std::find(known.begin(), known.end(), name) == known.end())
      raise<ValueError>(std::string(where) + ": 'layers' has '" + name +
                        "', expected a Linear, or a convolution without groups");
}

}  // namespace kfac::detail
