#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <kfac/attribution/measurements.hpp>
#include <kfac/curvature/block_passes.hpp>
#include <kfac/curvature/example_gradients.hpp>
#include <kfac/data/slices.hpp>

namespace kfac::detail {

/// Passes of data through a network that show what the gradients of their measurements are made of,
/// in the blocks that count.
template <class Model, Loss LossType>
class MeasuredPasses {
  using S = typename LossType::Scalar;
  using Targets = Eigen::Map<const typename LossType::Targets>;
  static constexpr const char* kWhere = "kfac::Influence";

 public:
  using Batch = SharedBatch<S>;
  using SliceType = Slice<S, typename LossType::Targets>;
  using Slices = std::vector<SliceType>;
  // One type for all measurements, so that what takes them is compiled once.
  using Gradient = std::function<void(const ConstMatrixMap<S>&, const Targets&, MatrixRef<S>)>;
  using Body = std::function<void(std::size_t, const Batch&, const Batch&)>;

  /// \pre `measurement` outlives what is returned
  template <class M>
  static Gradient gradient_of(const M& measurement) {
    return [&measurement](const ConstMatrixMap<S>& outputs, const Targets& targets,
                          MatrixRef<S> into) { measurement(outputs, targets, into); };
  }

  MeasuredPasses(Model& model, const LossType& loss, std::vector<bool> counts)
      : passes_(model), loss_(loss), counts_(std::move(counts)) {}

  Gradient loss_gradient() const { return LossMeasurement<LossType>{loss_}; }

  /// Calls `body(block, inputs, gradients)` with what the gradients of each measurement in turn are
  /// made of. `argument` is what the slice is of, in messages.
  /// \throws ShapeError, ValueError if the slice does not fit, or a measurement's gradient is not
  ///         finite
  void run(const char* argument, const SliceType& slice, const Gradient& measurement,
           const Body& body) {
    forward(slice);
    backward(argument, slice, measurement, body);
  }
  /// The passes of `run`: the second may follow the first any number of times, with the same slice.
  void forward(const SliceType& slice) {
    outputs_ = passes_.forward(slice.inputs, slice.shape);
    loss_.check(outputs_, slice.targets);
  }
  void backward(const char* argument, const SliceType& slice, const Gradient& measurement,
                const Body& body) {
    vectors_.resize(outputs_.rows(), outputs_.cols());
    measurement({outputs_.data(), outputs_.rows(), outputs_.cols()}, slice.targets, vectors_);
    if (!vectors_.allFinite())
      raise<ValueError>(std::string(kWhere) + ": the measurement's gradient of '" + argument +
                        "' is not finite, expected finite numbers");
    passes_.backward(vectors_, [&](std::size_t b, const Batch& inputs, const Batch& gradients) {
      if (counts_[b]) body(b, inputs, gradients);
    });
  }

  /// The sum over all examples of their gradients, for each block that counts.
  std::vector<Matrix<S>> summed(const char* argument, const Slices& slices,
                                const Gradient& measurement) {
    const std::vector<ParameterBlock>& blocks = passes_.blocks();
    std::vector<Matrix<S>> sums(blocks.size());
    for (std::size_t b = 0; b < sums.size(); ++b)
      if (counts_[b]) sums[b].setZero(blocks[b].outputs, blocks[b].columns());
    for (const SliceType& slice : slices)
      run(argument, slice, measurement, [&](std::size_t b, const Batch& x, const Batch& g) {
        ExampleGradients<S> examples(blocks[b].bias);
        examples.for_each_block(
            x, g, nullptr, nullptr,
            [&](const MatrixMap<S>& inputs, const MatrixMap<S>& gradients, Index) {
              sums[b].noalias() += gradients * inputs.transpose();
            });
        check_gradient(argument, blocks[b].name(), sums[b]);
      });
    return sums;
  }

  static void check_slices(const char* argument, const Slices& slices) {
    if (example_count(slices) == 0)
      raise<ShapeError>(std::string(kWhere) + ": '" + argument +
                        "' has no examples, expected at least one");
  }
  /// Of a gradient, or of what was made of it.
  template <class Values>
  static void check_gradient(const char* argument, const std::string& layer, const Values& values) {
    if (values.allFinite()) return;
    raise<ValueError>(std::string(kWhere) + ": '" + argument +
                      "' has a gradient that is not finite, expected finite numbers (layer '" +
                      layer + "')");
  }

  /// Calls `body(slice, begin)` for the slices' examples first, ..., first + count - 1, which begin
  /// at `begin` of these.
  template <class RangeBody>
  static void for_range(const Slices& slices, Index first, Index count, RangeBody&& body) {
    Index begin = 0;
    for (const SliceType& slice : slices) {
      const Index from = std::max(first, begin);
      const Index to = std::min(first + count, begin + slice.size());
      if (from < to) body(slice.examples(from - begin, to - from), from - first);
      begin += slice.size();
    }
  }

 private:
  BlockPasses<Model> passes_;
  const LossType& loss_;
  std::vector<bool> counts_;
  Matrix<S> outputs_, vectors_;
};

}  // namespace kfac::detail
