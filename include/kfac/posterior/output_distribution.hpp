#pragma once

#include <string>

#include <kfac/core/errors.hpp>

namespace kfac {

/// What is wanted of the covariance of a network's outputs.
enum class OutputCovariance {
  Variances,   ///< the diagonal alone
  PerExample,  ///< of the outputs of each example
  Joint,       ///< of all outputs of all examples
};

/// Outputs of a network that are normally distributed: f_n ~ N(mean_n, S_n) of each example.
template <RealScalar S>
struct OutputDistribution {
  Matrix<S> mean;       ///< `outputs x examples`
  Matrix<S> variances;  ///< likewise: the diagonals of the S_n
  /// The S_n side by side, `outputs x (outputs * examples)`; empty for `Variances`.
  Matrix<S> covariances;
  /// Of all outputs of the first example, then of the second, ...; empty unless `Joint`.
  Matrix<S> joint;

  Index outputs() const { return mean.rows(); }
  Index examples() const { return mean.cols(); }
  /// S_n; diagonal where only variances are known.
  Matrix<S> covariance(Index example) const {
    if (covariances.size() == 0) return variances.col(example).asDiagonal();
    return covariances.middleCols(example * outputs(), outputs());
  }
};

namespace detail {

/// The same with each of an example's positions of `classes` outputs as an example of its own; 0
/// for all outputs. What is between positions, and the joint covariance, are left out.
/// \throws OptionError, ShapeError
template <RealScalar S>
OutputDistribution<S> by_position(const char* where, const OutputDistribution<S>& f,
                                  Index classes) {
  check_option(classes >= 0, where, "classes", classes, ">= 0");
  const Index size = classes == 0 ? f.outputs() : classes;
  if (size == 0 || f.outputs() % size != 0)
    raise<ShapeError>(std::string(where) + ": the network has " + std::to_string(f.outputs()) +
                      " outputs, expected a multiple of 'classes', " + std::to_string(size));
  const Index positions = f.outputs() / size;
  if (positions == 1) return {f.mean, f.variances, f.covariances, {}};
  OutputDistribution<S> result{f.mean.reshaped(size, positions * f.examples()),
                               f.variances.reshaped(size, positions * f.examples()),
                               {},
                               {}};
  if (f.covariances.size() == 0) return result;
  result.covariances.resize(size, size * result.examples());
  for (Index n = 0; n < f.examples(); ++n)
    for (Index p = 0; p < positions; ++p)
      result.covariances.middleCols((n * positions + p) * size, size) =
          f.covariances.block(p * size, n * f.outputs() + p * size, size, size);
  return result;
}

}  // namespace detail
}  // namespace kfac
