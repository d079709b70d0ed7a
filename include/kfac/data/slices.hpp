#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include <kfac/core/shape.hpp>
#include <kfac/data/dataset.hpp>

namespace kfac {

/// Some examples and what they should give, which it refers to: they must outlive it. `inputs` is
/// `shape.size() x examples`; `shape` is that of one example, `{features}` where it is not given.
template <RealScalar S, class Targets>
struct Slice {
  ConstMatrixMap<S> inputs;
  Eigen::Map<const Targets> targets;
  Shape shape;

  Slice(const Matrix<S>& inputs_, const Targets& targets_)
      : Slice(inputs_, targets_, Shape{inputs_.rows()}) {}
  Slice(const Matrix<S>& inputs_, const Targets& targets_, const Shape& shape_)
      : Slice(ConstMatrixMap<S>(inputs_.data(), inputs_.rows(), inputs_.cols()),
              Eigen::Map<const Targets>(targets_.data(), targets_.rows(), targets_.cols()),
              shape_) {}
  Slice(const ConstMatrixMap<S>& inputs_, const Eigen::Map<const Targets>& targets_,
        const Shape& shape_)
      : inputs(inputs_), targets(targets_), shape(shape_) {}
};

namespace detail {

/// The targets of the examples `first, ..., first + count - 1` of `examples`; labels are one or, of
/// several positions, more for each.
inline Eigen::Map<const Labels> targets_of(const Labels& targets, Index examples, Index first,
                                           Index count) {
  const Index positions = targets.size() / examples;
  return {targets.data() + first * positions, count * positions};
}
template <RealScalar S>
ConstMatrixMap<S> targets_of(const Matrix<S>& targets, Index, Index first, Index count) {
  return {targets.data() + first * targets.rows(), targets.rows(), count};
}

}  // namespace detail

/// The data in order, in slices of `size` examples (the last may have fewer), without a copy:
///
///     kfac::Ggn ggn(model, loss, kfac::slices(train, 256));
///
/// The data must outlive the slices.
/// \throws OptionError if size < 1; ShapeError if there are no examples or shape does not fit them
template <RealScalar S, class Targets>
std::vector<Slice<S, Targets>> slices(const Dataset<S, Targets>& data, Index size,
                                      const Shape& shape) {
  static constexpr const char* kWhere = "kfac::slices";
  detail::check_dataset(kWhere, data);
  detail::check_option(size >= 1, kWhere, "size", size, ">= 1");
  detail::check_size(kWhere, "data", data.inputs.rows(), shape.size(), "features");
  std::vector<Slice<S, Targets>> result;
  for (Index first = 0; first < data.examples(); first += size) {
    const Index count = std::min(size, data.examples() - first);
    result.emplace_back(ConstMatrixMap<S>(data.inputs.col(first).data(), data.inputs.rows(), count),
                        detail::targets_of(data.targets, data.examples(), first, count), shape);
  }
  return result;
}
template <RealScalar S, class Targets>
std::vector<Slice<S, Targets>> slices(const Dataset<S, Targets>& data, Index size) {
  detail::check_dataset("kfac::slices", data);
  return slices(data, size, Shape{data.inputs.rows()});
}
template <RealScalar S, class Targets>
void slices(const Dataset<S, Targets>&& data, Index size) = delete;
template <RealScalar S, class Targets>
void slices(const Dataset<S, Targets>&& data, Index size, const Shape& shape) = delete;

}  // namespace kfac
