#pragma once

#include <algorithm>
#include <cmath>
#include <string>

#include <kfac/core/errors.hpp>
#include <kfac/core/state.hpp>
#include <kfac/linalg/packed_triangle.hpp>
#include <kfac/linalg/toeplitz.hpp>

namespace kfac::linalg {

/// Sets of square matrices that contain the identity and are closed under sums and products.
enum class Structure {
  Dense,
  Diagonal,
  BlockDiagonal,    ///< blocks of a given size, the last one smaller where they do not fit
  LowerTriangular,  ///< memory of half a matrix
  UpperToeplitz,    ///< upper triangular, constant along diagonals: memory of a row
};

/// A square matrix of a structure chosen at run time, that stores the entries of the structure
/// alone. Nothing here makes a full matrix unless it is `Dense`, but for `dense()`, and nothing
/// allocates, but for that and (a quarter of a full matrix, twice) two products of lower triangles.
///
/// **Projection.** To take a product of symmetric matrices back into the structure,
/// `add_projection` and its like use the map Pi that keeps a symmetric E where the structure is
/// symmetric (dense, diagonal, block-diagonal), doubles the entries off the diagonal where it is
/// triangular, and takes means along diagonals where it is Toeplitz. Then M = Pi(E) / 2 solves M +
/// M^T = E in the least squares sense (exactly, for dense and triangular matrices), and so K (I -
/// M) makes K^T C K = I + E the identity to first order: the step of the natural gradient in the
/// structure's own coordinates. Without the factor 2 the entries off the diagonal would go only
/// half way. \source Lin et al., Structured inverse-free natural gradient descent, 2024, arXiv
/// 2312.05705,
///         section 3.3 and table 1
template <RealScalar S>
class StructuredMatrix {
 public:
  using Scalar = S;
  static constexpr Index kDefaultBlockSize = 32;

  /// Zero. \throws OptionError unless size and block size are >= 1
  StructuredMatrix(Index size, Structure structure, Index block_size = kDefaultBlockSize)
      : size_(size), structure_(structure), block_size_(std::min(block_size, size)) {
    static constexpr const char* kWhere = "kfac::linalg::StructuredMatrix";
    kfac::detail::check_option(size >= 1, kWhere, "size", size, ">= 1");
    kfac::detail::check_option(block_size >= 1, kWhere, "block_size", block_size, ">= 1");
    switch (structure_) {
      case Structure::Dense:
        values_.setZero(size, size);
        break;
      case Structure::BlockDiagonal:
        values_.setZero(block_size_, size);
        break;
      case Structure::LowerTriangular:
        values_.setZero(detail::packed_rows(size), detail::packed_columns(size));
        break;
      case Structure::Diagonal:
      case Structure::UpperToeplitz:
        values_.setZero(size, 1);
        break;
    }
  }

  Index size() const { return size_; }
  Structure structure() const { return structure_; }
  /// How many numbers it stores.
  Index entries() const { return values_.size(); }

  void set_zero() { values_.setZero(); }
  void set_identity() {
    set_zero();
    add_to_diagonal(S(1));
  }
  void add_to_diagonal(S value) {
    for_each_diagonal(values_, [&](S& entry) { entry += value; });
  }
  void scale(S factor) { values_ *= factor; }
  /// Adds weight * other. \throws ShapeError if it is of another structure or size
  void add(S weight, const StructuredMatrix& other) {
    check_same("add", other);
    values_ += weight * other.values_;
  }

  S trace() const {
    S sum = 0;
    for_each_diagonal(values_, [&](const S& entry) { sum += entry; });
    return structure_ == Structure::UpperToeplitz ? sum * static_cast<S>(size_) : sum;
  }
  /// The square of the Frobenius norm.
  S squared_norm() const {
    if (structure_ != Structure::UpperToeplitz) return values_.squaredNorm();
    S sum = 0;
    for (Index distance = 0; distance < size_; ++distance)
      sum += static_cast<S>(size_ - distance) * values_(distance, 0) * values_(distance, 0);
    return sum;
  }
  /// The largest absolute value of an entry.
  S max_abs() const { return values_.cwiseAbs().maxCoeff(); }
  bool all_finite() const { return values_.allFinite(); }
  void visit_state(StateVisitor& visitor) { visitor.visit("values", values_); }

  Matrix<S> dense() const {
    Matrix<S> result(size_, size_);
    multiply(Matrix<S>::Identity(size_, size_), result);
    return result;
  }

  /// y = M x, of any number of columns. `y` must not overlap `x`. \throws ShapeError
  void multiply(const ConstMatrixRef<S>& x, MatrixRef<S> y) const {
    check_columns("multiply", x, y);
    switch (structure_) {
      case Structure::Dense:
        y.noalias() = values_ * x;
        break;
      case Structure::Diagonal:
        y = values_.col(0).asDiagonal() * x;
        break;
      case Structure::BlockDiagonal:
        for_each_block([&](Index first, Index count) {
          y.middleRows(first, count).noalias() =
              block(values_, first, count) * x.middleRows(first, count);
        });
        break;
      case Structure::LowerTriangular:
        detail::packed_multiply<S>(values_, x, y);
        break;
      case Structure::UpperToeplitz:
        detail::toeplitz_multiply<S>(values_.col(0), false, x, y);
        break;
    }
  }

  /// y = M^T x, likewise. \throws ShapeError
  void multiply_transposed(const ConstMatrixRef<S>& x, MatrixRef<S> y) const {
    check_columns("multiply_transposed", x, y);
    switch (structure_) {
      case Structure::Dense:
        y.noalias() = values_.transpose() * x;
        break;
      case Structure::Diagonal:
        y = values_.col(0).asDiagonal() * x;
        break;
      case Structure::BlockDiagonal:
        for_each_block([&](Index first, Index count) {
          y.middleRows(first, count).noalias() =
              block(values_, first, count).transpose() * x.middleRows(first, count);
        });
        break;
      case Structure::LowerTriangular:
        detail::packed_multiply_transposed<S>(values_, x, y);
        break;
      case Structure::UpperToeplitz:
        detail::toeplitz_multiply<S>(values_.col(0), true, x, y);
        break;
    }
  }

  /// product = M right, where all three are different objects of the same structure and size.
  /// \throws ShapeError
  void multiply(const StructuredMatrix& right, StructuredMatrix& product) const {
    check_same("multiply", right);
    check_same("multiply", product);
    switch (structure_) {
      case Structure::Dense:
        product.values_.noalias() = values_ * right.values_;
        break;
      case Structure::Diagonal:
        product.values_ = values_.cwiseProduct(right.values_);
        break;
      case Structure::BlockDiagonal:
        for_each_block([&](Index first, Index count) {
          block(product.values_, first, count).noalias() =
              block(values_, first, count) * block(right.values_, first, count);
        });
        break;
      case Structure::LowerTriangular:
        detail::packed_product<S>(values_, right.values_, product.values_);
        break;
      case Structure::UpperToeplitz:
        detail::toeplitz_product<S>(values_.col(0), right.values_.col(0), product.values_.col(0));
        break;
    }
  }

  /// Adds weight * Pi(E) for a symmetric E. \throws ShapeError
  void add_projection(S weight, const ConstMatrixRef<S>& symmetric) {
    kfac::detail::check_shape("kfac::linalg::StructuredMatrix::add_projection", "symmetric",
                              symmetric.rows(), symmetric.cols(), size_, size_);
    switch (structure_) {
      case Structure::Dense:
        values_ += weight * symmetric;
        break;
      case Structure::Diagonal:
        values_ += weight * symmetric.diagonal();
        break;
      case Structure::BlockDiagonal:
        for_each_block([&](Index first, Index count) {
          block(values_, first, count) += weight * symmetric.block(first, first, count, count);
        });
        break;
      case Structure::LowerTriangular:
        detail::packed_add_symmetric<S>(values_, symmetric, weight);
        break;
      case Structure::UpperToeplitz:
        for (Index distance = 0; distance < size_; ++distance)
          values_(distance, 0) += weight * detail::toeplitz_share<S>(size_, distance) *
                                  symmetric.diagonal(distance).sum();
        break;
    }
  }

  /// Adds weight * Pi(x x^T) for an x with any number of columns. \throws ShapeError
  void add_projected_gram(S weight, const ConstMatrixRef<S>& x) {
    kfac::detail::check_size("kfac::linalg::StructuredMatrix::add_projected_gram", "x", x.rows(),
                             size_, "rows");
    if (x.cols() == 0) return;  // Eigen's rank updates divide by it
    switch (structure_) {
      case Structure::Dense:
        values_.noalias() += weight * x * x.transpose();
        break;
      case Structure::Diagonal:
        values_ += weight * x.rowwise().squaredNorm();
        break;
      case Structure::BlockDiagonal:
        for_each_block([&](Index first, Index count) {
          block(values_, first, count).noalias() +=
              weight * x.middleRows(first, count) * x.middleRows(first, count).transpose();
        });
        break;
      case Structure::LowerTriangular:
        detail::packed_add_gram<S>(values_, x, weight);
        break;
      case Structure::UpperToeplitz:
        detail::toeplitz_add_gram<S>(x, weight, values_.col(0));
        break;
    }
  }

  /// gram = Pi(M^T M), another object of the same structure and size. \throws ShapeError
  void projected_gram(StructuredMatrix& gram) const {
    check_same("projected_gram", gram);
    switch (structure_) {
      case Structure::Dense:
        gram.values_.noalias() = values_.transpose() * values_;
        break;
      case Structure::Diagonal:
        gram.values_ = values_.cwiseAbs2();
        break;
      case Structure::BlockDiagonal:
        for_each_block([&](Index first, Index count) {
          block(gram.values_, first, count).noalias() =
              block(values_, first, count).transpose() * block(values_, first, count);
        });
        break;
      case Structure::LowerTriangular:
        detail::packed_gram<S>(values_, gram.values_);
        break;
      case Structure::UpperToeplitz:
        detail::toeplitz_gram<S>(values_.col(0), gram.values_.col(0));
        break;
    }
  }

 private:
  /// The diagonal block whose first column is `first`; it is stored at the top of its columns.
  template <class Values>
  static Eigen::Block<Values> block(Values& values, Index first, Index count) {
    return values.block(0, first, count, count);
  }
  template <class Body>
  void for_each_block(Body&& body) const {
    for (Index first = 0; first < size_; first += block_size_)
      body(first, std::min(block_size_, size_ - first));
  }
  template <class Values, class Body>
  void for_each_diagonal(Values& values, Body&& body) const {
    switch (structure_) {
      case Structure::Dense:
        for (Index i = 0; i < size_; ++i) body(values(i, i));
        break;
      case Structure::Diagonal:
        for (Index i = 0; i < size_; ++i) body(values(i, 0));
        break;
      case Structure::BlockDiagonal:
        for (Index i = 0; i < size_; ++i) body(values(i % block_size_, i));
        break;
      case Structure::LowerTriangular: {
        const detail::PackedTriangle<Values> lower(values);
        Eigen::Block<Values> upper_left = lower.upper_left();
        Eigen::Block<Values> lower_right = lower.lower_right();
        for (Index i = 0; i < lower.first(); ++i) body(upper_left.coeffRef(i, i));
        for (Index i = 0; i < lower.second(); ++i) body(lower_right.coeffRef(i, i));
        break;
      }
      case Structure::UpperToeplitz:
        body(values(0, 0));
        break;
    }
  }

  void check_same(const char* function, const StructuredMatrix& other) const {
    if (structure_ == other.structure_ && size_ == other.size_ &&
        values_.rows() == other.values_.rows())
      return;
    raise<ShapeError>(std::string("kfac::linalg::StructuredMatrix::") + function +
                      ": 'other' has " + std::to_string(other.size_) +
                      " rows or another structure, expected " + std::to_string(size_) +
                      " of the same");
  }
  void check_columns(const char* function, const ConstMatrixRef<S>& x,
                     const MatrixRef<S>& y) const {
    if (x.rows() == size_ && y.rows() == size_ && y.cols() == x.cols()) return;
    const std::string where = std::string("kfac::linalg::StructuredMatrix::") + function;
    kfac::detail::check_size(where.c_str(), "x", x.rows(), size_, "rows");
    kfac::detail::check_shape(where.c_str(), "y", y.rows(), y.cols(), size_, x.cols());
  }

  Index size_;
  Structure structure_;
  Index block_size_;
  Matrix<S> values_;
};

}  // namespace kfac::linalg
