#pragma once

#include <utility>
#include <vector>

#include <kfac/core/errors.hpp>
#include <kfac/core/random.hpp>

namespace kfac {

/// Examples and what they should give, in memory: `inputs` is `features x examples`; `targets` is
/// `Labels` (one per example) or a matrix with one column per example.
template <RealScalar S, class TargetsType = Labels>
struct Dataset {
  using Scalar = S;
  using Targets = TargetsType;

  Matrix<S> inputs;
  Targets targets;

  Index examples() const { return inputs.cols(); }
};

namespace detail {

inline Index target_count(const Labels& targets) {
  return targets.size();
}
template <RealScalar S>
Index target_count(const Matrix<S>& targets) {
  return targets.cols();
}

/// Copies the targets of the examples `order[first], ..., order[first + into.size() - 1]`.
inline void gather(const Labels& from, const std::vector<Index>& order, std::size_t first,
                   Eigen::Map<Labels> into) {
  for (Index i = 0; i < into.size(); ++i)
    into(i) = from(order[first + static_cast<std::size_t>(i)]);
}
template <RealScalar S>
void gather(const Matrix<S>& from, const std::vector<Index>& order, std::size_t first,
            MatrixMap<S> into) {
  for (Index i = 0; i < into.cols(); ++i)
    into.col(i) = from.col(order[first + static_cast<std::size_t>(i)]);
}

/// 0, ..., count - 1 in random order.
inline std::vector<Index> permutation(Index count, Rng& rng) {
  std::vector<Index> order(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<Index>(i);
  rng.shuffle(order);
  return order;
}

template <RealScalar S, class Targets>
void check_dataset(const char* where, const Dataset<S, Targets>& data) {
  if (data.examples() == 0) raise<ShapeError>(std::string(where) + ": 'data' has no examples");
  check_size(where, "data", target_count(data.targets), data.examples(), "targets");
}

}  // namespace detail

/// A random part of the data, rounded to the nearest number of examples, and the rest.
/// \throws OptionError unless 0 < fraction < 1; ShapeError if either part would be empty
template <RealScalar S, class Targets>
std::pair<Dataset<S, Targets>, Dataset<S, Targets>> split(const Dataset<S, Targets>& data,
                                                          double fraction, Rng& rng) {
  static constexpr const char* kWhere = "kfac::split";
  detail::check_dataset(kWhere, data);
  detail::check_option(fraction > 0 && fraction < 1, kWhere, "fraction", fraction,
                       "0 < fraction < 1");
  const auto first =
      static_cast<Index>(std::lround(fraction * static_cast<double>(data.examples())));
  if (first == 0 || first == data.examples())
    raise<ShapeError>("kfac::split: 'data' has " + std::to_string(data.examples()) +
                      " examples, too few for two parts");
  const std::vector<Index> order = detail::permutation(data.examples(), rng);
  const auto part = [&](Index begin, Index count) {
    Dataset<S, Targets> result;
    result.inputs.resize(data.inputs.rows(), count);
    if constexpr (std::same_as<Targets, Labels>)
      result.targets.resize(count);
    else
      result.targets.resize(data.targets.rows(), count);
    const auto offset = static_cast<std::size_t>(begin);
    detail::gather(data.inputs, order, offset, {result.inputs.data(), data.inputs.rows(), count});
    if constexpr (std::same_as<Targets, Labels>)
      detail::gather(data.targets, order, offset, {result.targets.data(), count});
    else
      detail::gather(data.targets, order, offset,
                     {result.targets.data(), data.targets.rows(), count});
    return result;
  };
  return {part(0, first), part(first, data.examples() - first)};
}

}  // namespace kfac
