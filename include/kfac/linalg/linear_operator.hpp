#pragma once

#include <concepts>
#include <type_traits>

#include <kfac/core/types.hpp>

namespace kfac::linalg {

/// The scalar of an operator, whether it is a value or a reference, const or not.
template <class Op>
using ScalarOf = typename std::remove_cvref_t<Op>::Scalar;

/// A square linear map that is known by its products with vectors: the exact curvature operators,
/// a dense or sparse Eigen matrix, or any class with these members. The product may be non-const,
/// since an operator may keep a workspace. The functions on operators take them as symmetric.
template <class Op>
concept LinearOperator = RealScalar<ScalarOf<Op>> &&
    requires(std::remove_reference_t<Op>& op, const Vector<ScalarOf<Op>>& v) {
  { op.rows() } -> std::convertible_to<Index>;
  { op* v } -> std::convertible_to<Vector<ScalarOf<Op>>>;
};

/// A `LinearOperator` that also multiplies a block of columns at once.
template <class Op>
concept BlockLinearOperator = LinearOperator<Op> &&
    requires(std::remove_reference_t<Op>& op, const Matrix<ScalarOf<Op>>& columns) {
  { op* columns } -> std::convertible_to<Matrix<ScalarOf<Op>>>;
};

}  // namespace kfac::linalg
