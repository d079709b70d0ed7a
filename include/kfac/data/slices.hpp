#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include <kfac/core/shape.hpp>
#include <kfac/data/dataset.hpp>

namespace kfac {
namespace detail {

/// The targets of the examples `first, ..., first + count - 1` of `examples`, of labels or a
/// matrix; labels are one or, of several positions, more for each.
template <class Targets>
auto targets_of(const Targets& targets, Index examples, Index first, Index count) {
  using Plain = typename Targets::PlainObject;
  if constexpr (std::same_as<Plain, Labels>) {
    const Index positions = targets.size() / examples;
    return Eigen::Map<const Plain>(targets.data() + first * positions, count * positions);
  } else {
    return Eigen::Map<const Plain>(targets.data() + first * targets.rows(), targets.rows(), count);
  }
}

}  // namespace detail

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

  Index size() const { return inputs.cols(); }
  /// A part of it. \pre 0 <= first, first + count <= size()
  Slice examples(Index first, Index count) const {
    return {ConstMatrixMap<S>(inputs.data() + first * inputs.rows(), inputs.rows(), count),
            detail::targets_of(targets, size(), first, count), shape};
  }
};

/// How many examples there are in all.
template <RealScalar S, class Targets>
Index example_count(const std::vector<Slice<S, Targets>>& slices) {
  Index count = 0;
  for (const Slice<S, Targets>& slice : slices) count += slice.size();
  return count;
}

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
