#pragma once

#include <algorithm>
#include <cmath>

#include <kfac/core/errors.hpp>
#include <kfac/core/random.hpp>
#include <kfac/linalg/linear_operator.hpp>
#include <kfac/linalg/orthonormal_basis.hpp>
#include <kfac/linalg/symmetric_eigen.hpp>

namespace kfac::linalg {

enum class SpectrumEnd { Largest, Smallest };  ///< in the order of the numbers, not of their sizes

template <RealScalar S>
struct EigenpairOptions {
  Index count = 1;  ///< pairs, from 1 to the operator's size
  SpectrumEnd end = SpectrumEnd::Largest;
  S tolerance = S(1e-5);      ///< on |C v - value v| over the largest |value| met, > 0
  Index max_products = 5000;  ///< with vectors, >= count
  /// Vectors kept (and as many products) before a restart, at least 2 count; 0: 4 count + 16.
  Index basis = 0;

  void validate(const char* where, Index size) const {
    kfac::detail::check_option(count >= 1 && count <= size, where, "count", count,
                               ">= 1 and at most the operator's size");
    kfac::detail::check_option(tolerance > 0 && std::isfinite(tolerance), where, "tolerance",
                               tolerance, "> 0 and finite");
    kfac::detail::check_option(max_products >= count, where, "max_products", max_products,
                               ">= count");
    kfac::detail::check_option(basis == 0 || basis >= 2 * count, where, "basis", basis,
                               "0 or >= 2 count");
  }
};

template <RealScalar S>
struct Eigenpairs {
  Vector<S> values;        ///< outermost first
  Matrix<S> vectors;       ///< orthonormal, one in each column
  Vector<S> residuals;     ///< |C v - value v| of each
  bool converged = false;  ///< all residuals are within the tolerance
  Index products = 0;
};

/// The largest or smallest eigenvalues of a symmetric operator with their vectors: Rayleigh-Ritz on
/// a space that grows by the residuals of the pairs that are not there yet (a block Krylov space,
/// in which an eigenvalue is found as often as it occurs, up to `count` times), and is restarted
/// with its best half when it is full. Memory: twice `basis` vectors.
/// \throws OptionError; ValueError if a product is not finite
/// \source Saad, Numerical methods for large eigenvalue problems, 2011, chapters 6 and 8; Wu and
///         Simon, Thick-restart Lanczos method for large symmetric eigenvalue problems, 2000
template <BlockLinearOperator Op>
Eigenpairs<ScalarOf<Op>> extremal_eigenpairs(Op&& op, const EigenpairOptions<ScalarOf<Op>>& options,
                                             Rng& rng) {
  using S = ScalarOf<Op>;
  static constexpr const char* kWhere = "kfac::linalg::extremal_eigenpairs";
  const Index size = op.rows();
  options.validate(kWhere, size);
  const Index room = std::min(size, options.basis == 0 ? 4 * options.count + 16 : options.basis);
  Matrix<S> basis(size, room), image(size, room);
  Matrix<double> projected = Matrix<double>::Zero(room, room);
  Matrix<double> rotation;
  Vector<double> values;
  Index filled = 0;

  // The outermost Ritz pairs first, whichever end is wanted.
  const auto outermost = [&](Index how_many) {
    const bool largest = options.end == SpectrumEnd::Largest;
    const Matrix<double> picked =
        largest ? Matrix<double>(rotation.rightCols(how_many).rowwise().reverse())
                : Matrix<double>(rotation.leftCols(how_many));
    return Matrix<S>(picked.template cast<S>());
  };
  const auto outermost_values = [&](Index how_many) {
    return Vector<double>(options.end == SpectrumEnd::Largest
                              ? Vector<double>(values.tail(how_many).reverse())
                              : Vector<double>(values.head(how_many)));
  };

  Eigenpairs<S> result;
  Matrix<S> block(size, options.count);
  rng.fill_normal(block);
  for (;;) {
    orthonormalize_against<S>(basis.leftCols(filled), block);
    const Index added = std::min(block.cols(), options.max_products - result.products);
    if (added == 0) break;
    basis.middleCols(filled, added) = block.leftCols(added);
    const Matrix<S> product = op * Matrix<S>(block.leftCols(added));
    kfac::detail::check_finite(kWhere, "op * v", product);
    image.middleCols(filled, added) = product;
    result.products += added;
    filled += added;
    const Matrix<double> columns =
        (basis.leftCols(filled).transpose() * product).template cast<double>();
    projected.block(0, filled - added, filled, added) = columns;
    projected.block(filled - added, 0, added, filled) = columns.transpose();
    if (!detail::decompose_symmetric(projected.topLeftCorner(filled, filled), rotation, values))
      break;

    const Index found = std::min(options.count, filled);
    const Matrix<S> wanted = outermost(found);
    result.values = outermost_values(found).template cast<S>();
    result.vectors = basis.leftCols(filled) * wanted;
    Matrix<S> residuals = image.leftCols(filled) * wanted;
    residuals -= result.vectors * result.values.asDiagonal();
    result.residuals = residuals.colwise().norm();
    const S bound = options.tolerance * static_cast<S>(values.cwiseAbs().maxCoeff());
    result.converged = found == options.count && (result.residuals.array() <= bound).all();
    if (result.converged || filled == size) break;

    Index missing = 0;
    block.resize(size, found);
    for (Index i = 0; i < found; ++i)
      if (result.residuals(i) > bound) block.col(missing++) = residuals.col(i);
    if (missing == 0) {  // fewer pairs than wanted in an invariant space
      block.resize(size, options.count - found);
      rng.fill_normal(block);
      missing = block.cols();
    }
    if (room < size && filled + missing > room) {
      const Index kept = room / 2;
      const Matrix<S> best = outermost(kept);
      const Matrix<S> rotated = basis.leftCols(filled) * best;
      const Matrix<S> rotated_image = image.leftCols(filled) * best;
      basis.leftCols(kept) = rotated;
      image.leftCols(kept) = rotated_image;
      projected.setZero();
      projected.diagonal().head(kept) = outermost_values(kept);
      filled = kept;
    }
    block.conservativeResize(Eigen::NoChange, std::min(missing, room - filled));
  }
  return result;
}

}  // namespace kfac::linalg
