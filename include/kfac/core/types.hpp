#pragma once

#include <concepts>

#include <Eigen/Core>

namespace kfac {

/// The scalars the library is instantiated and tested with.
template <class S>
concept RealScalar = std::same_as<S, float> || std::same_as<S, double>;

using Index = Eigen::Index;

/// A batch is a column-major `features x examples` matrix: one contiguous column per example, the
/// same bytes as a row-major `[examples, features]` array of NumPy or PyTorch.
template <RealScalar S>
using Matrix = Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic>;
template <RealScalar S>
using Vector = Eigen::Matrix<S, Eigen::Dynamic, 1>;

/// Class labels, one per example (or per shared position), from 0.
using Labels = Eigen::Matrix<int, Eigen::Dynamic, 1>;

template <RealScalar S>
using MatrixMap = Eigen::Map<Matrix<S>>;
template <RealScalar S>
using ConstMatrixMap = Eigen::Map<const Matrix<S>>;
template <RealScalar S>
using VectorMap = Eigen::Map<Vector<S>>;
template <RealScalar S>
using ConstVectorMap = Eigen::Map<const Vector<S>>;

/// What public functions read: any column-major matrix, block or map without a copy; a row-major or
/// computed argument is copied once.
template <RealScalar S>
using ConstMatrixRef = Eigen::Ref<const Matrix<S>>;
template <RealScalar S>
using MatrixRef = Eigen::Ref<Matrix<S>>;
template <RealScalar S>
using ConstVectorRef = Eigen::Ref<const Vector<S>>;
template <RealScalar S>
using VectorRef = Eigen::Ref<Vector<S>>;

}  // namespace kfac
