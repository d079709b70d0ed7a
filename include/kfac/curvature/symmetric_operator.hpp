#pragma once

#include <type_traits>

#include <kfac/core/errors.hpp>

namespace kfac {
namespace detail {

/// What the product of an operator with a V is: a vector, or a matrix of as many columns.
template <RealScalar S, class V>
using ProductWith = std::conditional_t<V::ColsAtCompileTime == 1, Vector<S>, Matrix<S>>;

}  // namespace detail

/// What symmetric matrices have that are known by their products alone. `Derived` offers `rows()`,
/// `kName`, and `multiply(v, into)`, which writes the product with each column of v.
template <class Derived, RealScalar S>
class SymmetricOperator {
 public:
  using Scalar = S;

  Index cols() const { return derived().rows(); }

  /// The product with a vector, or with each column of a matrix. \throws ShapeError
  template <class V>
  detail::ProductWith<S, V> operator*(const Eigen::MatrixBase<V>& v) const {
    detail::check_size(Derived::kName, "v", v.rows(), derived().rows(), "rows");
    detail::ProductWith<S, V> result(v.rows(), v.cols());
    derived().multiply(ConstMatrixRef<S>(v.derived()), result);
    return result;
  }

  /// The product as Spectra's eigensolvers ask for it: both vectors have `rows()` entries.
  void perform_op(const S* x, S* y) const {
    derived().multiply(ConstVectorMap<S>(x, cols()), VectorMap<S>(y, cols()));
  }

  /// The matrix, for small ones: time and memory of `rows()` products.
  Matrix<S> dense() const {
    const Matrix<S> identity = Matrix<S>::Identity(cols(), cols());
    return *this * identity;
  }

 private:
  const Derived& derived() const { return static_cast<const Derived&>(*this); }
};

/// A diagonal block of a symmetric operator, which it refers to: the entries that belong to `size`
/// consecutive parameters. A product costs one with the whole.
template <class Whole>
class LayerOperator : public SymmetricOperator<LayerOperator<Whole>, typename Whole::Scalar> {
  using S = typename Whole::Scalar;

 public:
  static constexpr const char* kName = "kfac::LayerOperator";

  /// \pre 0 <= offset, 0 <= size, offset + size <= whole.rows()
  LayerOperator(const Whole& whole, Index offset, Index size)
      : whole_(&whole), offset_(offset), size_(size) {}

  /// The index of its first row in the whole.
  Index offset() const { return offset_; }
  Index rows() const { return size_; }

 private:
  friend SymmetricOperator<LayerOperator, S>;

  void multiply(const ConstMatrixRef<S>& v, MatrixRef<S> into) const {
    Matrix<S> padded = Matrix<S>::Zero(whole_->rows(), v.cols());
    padded.middleRows(offset_, size_) = v;
    into = (*whole_ * padded).middleRows(offset_, size_);
  }

  const Whole* whole_;
  Index offset_;
  Index size_;
};

}  // namespace kfac
