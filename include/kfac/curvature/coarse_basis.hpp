#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <kfac/core/buffer.hpp>
#include <kfac/core/random.hpp>
#include <kfac/core/state.hpp>
#include <kfac/nn/layer.hpp>

namespace kfac {

/// What the second level of a two-level preconditioner sees of all parameters: the span of a few
/// vectors, each of which lives on one layer.
enum class CoarseSpace {
  None,          ///< nothing: one level
  Layer,         ///< all ones on each layer's parameters
  LayerAndBias,  ///< ones on its weights, and ones on its biases
  Spectral,      ///< the leading eigenvectors of its curvature block; ones where it has none
};

/// The matrix Z, `parameters x size`, whose columns span a coarse space. They have unit length, so
/// that what is made of them is well scaled (the space does not depend on it), and are stored where
/// they are not zero: a dense matrix for each layer.
template <RealScalar S>
class CoarseBasis {
 public:
  /// One layer's columns: `parameters of the layer x vectors`.
  struct Columns {
    std::size_t layer = 0;  ///< its index in `model.layers()`
    Index offset = 0;       ///< of its first parameter in the flat parameters
    Matrix<S> vectors;
  };

  /// `vectors` is how many eigenvectors a layer has (or as many as it has parameters, if these are
  /// fewer); `curved` says of each layer whether it has a curvature block. Both matter to the
  /// spectral space only, which starts with orthonormal vectors of random directions, the same each
  /// time.
  CoarseBasis(const std::vector<LayerView<S>>& layers, CoarseSpace space, Index vectors,
              const std::vector<bool>& curved)
      : space_(space) {
    Rng rng;
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const Index count = layers[i].parameters.size();
      if (count > 0 && space != CoarseSpace::None) {
        Matrix<S> start = Matrix<S>::Ones(count, 1);
        if (space == CoarseSpace::LayerAndBias) start = ones_by_role(layers[i]);
        if (space == CoarseSpace::Spectral && curved[i]) {
          start.resize(count, std::min(vectors, count));
          rng.fill_normal(start);
        }
        orthonormalize(start);
        size_ += start.cols();
        columns_.push_back({i, rows_, std::move(start)});
      }
      rows_ += count;
    }
  }

  /// The number of all parameters.
  Index rows() const { return rows_; }
  /// The dimension of the coarse space.
  Index size() const { return size_; }
  const std::vector<Columns>& columns() const { return columns_; }

  /// into <- Z e_j
  void write_column(Index j, VectorRef<S> into) const {
    into.setZero();
    for_each_column([&](Index k, Index offset, const auto& column) {
      if (k == j) into.segment(offset, column.size()) = column;
    });
  }
  /// into <- Z^T v, summed in double precision.
  void multiply_transposed(const ConstVectorRef<S>& v, Vector<double>& into) const {
    into.resize(size_);
    for_each_column([&](Index j, Index offset, const auto& column) {
      into(j) = column.template cast<double>().dot(
          v.segment(offset, column.size()).template cast<double>());
    });
  }
  /// into <- into + Z c
  void add_product(const Vector<double>& c, VectorRef<S> into) const {
    for_each_column([&](Index j, Index offset, const auto& column) {
      into.segment(offset, column.size()) += static_cast<S>(c(j)) * column;
    });
  }
  /// Z, for small networks.
  Matrix<S> dense() const {
    Matrix<S> result = Matrix<S>::Zero(rows_, size_);
    for (Index j = 0; j < size_; ++j) write_column(j, result.col(j));
    return result;
  }

  /// Orthogonal iterations with each layer's block: they turn its columns towards the leading
  /// eigenvectors, from where they are, by the ratio of the eigenvalues that are wanted to those
  /// that are not, each time. `multiply(layer, v)` multiplies the map of a vector with the block of
  /// the layer of that index, in place, or returns false: there is none.
  /// \source Golub and Van Loan, Matrix computations, 4th edition, section 7.3.2
  template <class Multiply>
  void iterate(Index iterations, const Multiply& multiply) {
    for (Columns& own : columns_)
      for (Index i = 0; i < iterations; ++i)
        if (!iterate_once(own, multiply)) break;
  }

  /// What changes: the eigenvectors.
  void visit_state(StateVisitor& visitor) {
    if (space_ != CoarseSpace::Spectral) return;
    for (Columns& own : columns_)
      visitor.visit("vectors." + std::to_string(own.layer), own.vectors);
  }

 private:
  /// A column of ones for the biases and one for everything else, if the layer has any.
  static Matrix<S> ones_by_role(const LayerView<S>& layer) {
    Matrix<S> ones = Matrix<S>::Zero(layer.parameters.size(), 2);
    for (const ParameterInfo& part : layer.parameter_info) {
      const Index role = part.name.rfind("bias", 0) == 0 ? 1 : 0;
      ones.col(role).segment(part.offset, part.rows * part.columns).setOnes();
    }
    if (ones.col(0).isZero(0)) return ones.rightCols(1);
    if (ones.col(1).isZero(0)) return ones.leftCols(1);
    return ones;
  }

  /// False if there is no block, or if it is 0, where all vectors are as good.
  template <class Multiply>
  bool iterate_once(Columns& own, const Multiply& multiply) {
    MatrixMap<S> before = before_.map(own.vectors.rows(), 1);
    S shift = 0;
    for (Index j = 0; j < own.vectors.cols(); ++j) {
      before = own.vectors.col(j);
      if (!multiply(own.layer, VectorMap<S>(own.vectors.col(j).data(), before.size())))
        return false;
      if (j == 0) {
        const S norm = own.vectors.col(0).stableNorm();
        if (!(norm > 0)) {
          own.vectors.col(0) = before;
          return false;
        }
        // This multiple of the identity, which changes no eigenvector, keeps the columns
        // independent where the block is singular.
        shift = std::sqrt(std::numeric_limits<S>::epsilon()) * norm;
      }
      own.vectors.col(j) += shift * before;
    }
    orthonormalize(own.vectors);
    return true;
  }

  /// Gram and Schmidt's, twice. \pre the columns are independent
  static void orthonormalize(Matrix<S>& vectors) {
    for (Index j = 0; j < vectors.cols(); ++j)
      for (int pass = 0; pass < 2; ++pass) {
        for (Index i = 0; i < j; ++i)
          vectors.col(j) -= vectors.col(i).dot(vectors.col(j)) * vectors.col(i);
        vectors.col(j).stableNormalize();
      }
  }

  /// Calls body(its index, the offset of its layer, its entries there) for each column.
  template <class Body>
  void for_each_column(Body&& body) const {
    Index j = 0;
    for (const Columns& own : columns_)
      for (Index k = 0; k < own.vectors.cols(); ++k, ++j) body(j, own.offset, own.vectors.col(k));
  }

  CoarseSpace space_;
  Index rows_ = 0;
  Index size_ = 0;
  std::vector<Columns> columns_;
  Buffer<S> before_;
};

}  // namespace kfac
