#pragma once

#include <kfac/core/random.hpp>

/// What the tests draw their data with.
namespace kfac::test {

/// A matrix of standard normal numbers.
template <RealScalar S>
Matrix<S> normal(Index rows, Index columns, Rng& rng) {
  Matrix<S> values(rows, columns);
  rng.fill_normal(values);
  return values;
}

}  // namespace kfac::test
