#pragma once

#include <array>
#include <cstddef>

#include <kfac/core/types.hpp>

namespace kfac {

/// One number of each of K rows of units, such as the gates of one unit of a recurrent layer.
template <class N, std::size_t K>
using Units = std::array<N, K>;

/// A number and its tangent: what carries the backward pass of a cell to its second derivatives.
template <RealScalar S>
struct Dual {
  S value = 0;
  S tangent = 0;

  Dual() = default;
  Dual(S value_, S tangent_ = S(0))  // NOLINT(google-explicit-constructor)
      : value(value_), tangent(tangent_) {}

  friend Dual operator+(const Dual& x, const Dual& y) {
    return {x.value + y.value, x.tangent + y.tangent};
  }
  friend Dual operator-(const Dual& x, const Dual& y) {
    return {x.value - y.value, x.tangent - y.tangent};
  }
  friend Dual operator*(const Dual& x, const Dual& y) {
    return {x.value * y.value, x.tangent * y.value + x.value * y.tangent};
  }
};

/// 1 and 0 of the numbers that a backward pass is made in: scalars, arrays of them, duals.
template <class N>
N one() {
  if constexpr (requires { N::Ones(); })
    return N::Ones();
  else
    return N(1);
}
template <class N>
N zero() {
  if constexpr (requires { N::Zero(); })
    return N::Zero();
  else
    return N(0);
}

/// One example at one step, as the forward pass of a cell sees it: columns of `hidden` units.
template <RealScalar S>
struct CellColumns {
  using Column = Eigen::Map<Eigen::Array<S, Eigen::Dynamic, 1>>;
  using ConstColumn = Eigen::Map<const Eigen::Array<S, Eigen::Dynamic, 1>>;

  Index hidden = 0;
  const S* inputs = nullptr;  ///< gates: what comes from the input
  S* kept = nullptr;          ///< first the gates' part from the state; then what is kept
  std::array<const S*, 2> states_before;  ///< h, and where there is one, c
  std::array<S*, 2> states_after;

  /// Row k of each.
  ConstColumn input(Index k) const { return {inputs + k * hidden, hidden}; }
  Column keep(Index k) const { return {kept + k * hidden, hidden}; }
  ConstColumn before(std::size_t k) const { return {states_before[k], hidden}; }
  Column after(std::size_t k) const { return {states_after[k], hidden}; }
};

}  // namespace kfac
