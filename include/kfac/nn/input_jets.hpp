#pragma once

#include <concepts>
#include <cstddef>
#include <type_traits>
#include <utility>
#include <vector>

#include <kfac/nn/jet.hpp>

namespace kfac {

/// Of a `JetNetwork` whose network takes the coordinates themselves.
struct NoFeatures {};
namespace detail {

/// What a function of a point gives: one number, or a container of several.
template <class T, class Result>
constexpr Index count_of(const Result& result) {
  if constexpr (std::is_convertible_v<Result, T>)
    return 1;
  else
    return static_cast<Index>(result.size());
}
template <class T, class Result>
T entry_of(const Result& result, Index i) {
  if constexpr (std::is_convertible_v<Result, T>)
    return static_cast<T>(result);
  else
    return result[static_cast<std::size_t>(i)];
}

}  // namespace detail

/// Writes the jets of functions of points: of the coordinates themselves, or of `features(x)`, a
/// function of a vector of numbers or jets. `x` is `inputs x points`; the result holds the slots of
/// a point in each column, `slots * features` entries. \throws ShapeError
template <RealScalar S, class Features = NoFeatures>
Matrix<S> input_jets(const JetSlots<S>& slots, const ConstMatrixRef<S>& x,
                     const Features& features = {}) {
  detail::check_size("kfac::input_jets", "x", x.rows(), slots.inputs(), "rows");
  Matrix<S> result;
  std::vector<Jet<S>> point(static_cast<std::size_t>(x.rows()));
  for (Index n = 0; n < x.cols(); ++n) {
    for (Index i = 0; i < x.rows(); ++i)
      point[static_cast<std::size_t>(i)] = Jet<S>(x(i, n), slots, i);
    const auto jets = [&] {
      if constexpr (std::same_as<Features, NoFeatures>)
        return point;
      else
        return features(std::as_const(point));
    }();
    const Index count = detail::count_of<Jet<S>>(jets);
    if (n == 0) result.setZero(slots.count() * count, x.cols());
    MatrixMap<S> table(result.col(n).data(), count, slots.count());
    for (Index k = 0; k < count; ++k) {
      const Jet<S> jet = detail::entry_of<Jet<S>>(jets, k);
      table(k, 0) = jet.value();
      if (jet.firsts().size() == 0) continue;
      table.row(k).segment(1, slots.firsts()) = jet.firsts().matrix().transpose();
      table.row(k).tail(slots.seconds()) = jet.seconds().matrix().transpose();
    }
  }
  return result;
}

/// The values of `features(x)` alone, `features x points`. \throws ShapeError if there is no point
template <RealScalar S, class Features>
Matrix<S> feature_values(const ConstMatrixRef<S>& x, const Features& features) {
  if (x.cols() == 0)
    raise<ShapeError>("kfac::feature_values: 'x' has 0 points, expected at least 1");
  Matrix<S> result;
  std::vector<S> point(static_cast<std::size_t>(x.rows()));
  for (Index n = 0; n < x.cols(); ++n) {
    for (Index i = 0; i < x.rows(); ++i) point[static_cast<std::size_t>(i)] = x(i, n);
    const auto values = features(std::as_const(point));
    const Index count = detail::count_of<S>(values);
    if (n == 0) result.resize(count, x.cols());
    for (Index k = 0; k < count; ++k) result(k, n) = detail::entry_of<S>(values, k);
  }
  return result;
}

}  // namespace kfac
