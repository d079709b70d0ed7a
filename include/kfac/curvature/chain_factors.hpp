#pragma once

#include <algorithm>

#include <kfac/curvature/block_options.hpp>
#include <kfac/curvature/chain_inverse.hpp>
#include <kfac/curvature/running_covariance.hpp>
#include <kfac/curvature/running_mean.hpp>

namespace kfac {

/// Running averages of what a chain-structured block is made of: the second moments of a layer's
/// inputs a_t (with a 1 appended) and output gradients g_t at the same step and one step apart, and
/// how many pairs of steps there are at each distance. Positions are steps in time, in order; those
/// that a mask calls padding, and pairs with these, are left out.
template <RealScalar S>
class ChainFactors {
 public:
  explicit ChainFactors(const BlockOptions<S>& options)
      : bias_(options.bias),
        input_(options.columns(), false),
        input_lag_(options.columns(), options.columns()),
        gradient_(options.outputs, false),
        gradient_lag_(options.outputs, options.outputs) {}

  /// As those of `KroneckerFactors`.
  void add_input(const SharedBatch<S>& input, const PositionMask* mask) {
    input.for_each_block([&](const SharedBatch<S>& block, Index first) {
      MatrixMap<S> columns = copied(block, bias_);
      if (mask)
        for (Index n = 0; n < columns.cols(); ++n)
          if (!mask->data()[first * block.positions() + n]) columns.col(n).setZero();
      add(columns, block.positions(), S(1), input_, input_lag_);
    });
    count_pairs(input.positions(), input.batch(), mask);
  }
  void add_output_gradient(const SharedBatch<S>& gradient, S weight) {
    gradient.for_each_block([&](const SharedBatch<S>& block, Index) {
      add(copied(block, false), block.positions(), weight, gradient_, gradient_lag_);
    });
  }

  bool fresh_is_finite() const {
    return input_.fresh_is_finite() && gradient_.fresh_is_finite() &&
           input_lag_.fresh_is_finite() && gradient_lag_.fresh_is_finite();
  }
  void commit(S scale, Index examples, S decay) {
    const auto count = [&](Index d) {
      return d < fresh_pairs_.size() ? static_cast<Index>(fresh_pairs_(d)) : Index{0};
    };
    const auto number = static_cast<S>(examples);
    input_.commit(std::max<Index>(count(0), 1), decay);
    input_lag_.commit(std::max<Index>(count(1), 1), decay);
    gradient_.commit(examples, decay);
    gradient_lag_.commit(examples, decay);
    const S keep = running_weight(input_.commits(), decay);
    grow(pairs_, fresh_pairs_.size());
    pairs_ *= keep;
    pairs_.head(fresh_pairs_.size()) += ((S(1) - keep) / number) * fresh_pairs_;
    scale_ = scale;
    fresh_pairs_.setZero();
  }
  void discard() {
    input_.discard();
    input_lag_.discard();
    gradient_.discard();
    gradient_lag_.discard();
    fresh_pairs_.setZero();
  }
  void reset() {
    input_.reset();
    input_lag_.reset();
    gradient_.reset();
    gradient_lag_.reset();
    fresh_pairs_.resize(0);
    pairs_.resize(0);
  }

  ChainMoments moments() const {
    ChainMoments moments;
    const auto scale = static_cast<double>(scale_);
    moments.a = input_.value().template cast<double>();
    moments.a_lag = input_lag_.value().template cast<double>();
    moments.g = scale * gradient_.value().template cast<double>();
    moments.pairs = pairs_.template cast<double>();
    const bool has_pairs = pairs_.size() > 1 && pairs_(1) > 0;
    moments.g_lag = (has_pairs ? scale * moments.pairs(0) / moments.pairs(1) : 0.0) *
                    gradient_lag_.value().template cast<double>();
    return moments;
  }

  void visit_state(StateVisitor& visitor) {
    visitor.in("a", input_);
    visitor.in("a_lag", input_lag_);
    visitor.in("g", gradient_);
    visitor.in("g_lag", gradient_lag_);
    Index steps = pairs_.size();
    visitor.visit("steps", steps);
    visitor.visit_optional("pairs", pairs_, steps);
    visitor.visit("scale", scale_);
  }

 private:
  using Steps = Eigen::Map<const Matrix<S>, 0, Eigen::OuterStride<>>;

  /// The columns one after another, with a 1 appended to each or not.
  MatrixMap<S> copied(const SharedBatch<S>& block, bool ones) {
    MatrixMap<S> columns = copy_.map(block.features() + (ones ? 1 : 0), block.columns());
    block.visit([&](const auto& values) { columns.topRows(block.features()) = values; });
    if (ones) columns.row(block.features()).setOnes();
    return columns;
  }
  /// The moments of columns that are 0 in the padding.
  static void add(const MatrixMap<S>& columns, Index steps, S weight, RunningCovariance<S>& moment,
                  RunningMean<S>& lag) {
    moment.add(SharedBatch<S>(columns.data(), columns.rows(), columns.cols(), steps,
                              SharedBatch<S>::Order::ColumnMajor),
               weight);
    const Eigen::OuterStride<> stride(columns.rows() * steps);
    const Index examples = columns.cols() / steps;
    for (Index t = 0; t + 1 < steps; ++t) {
      const Steps now(columns.col(t).data(), columns.rows(), examples, stride);
      const Steps next(columns.col(t + 1).data(), columns.rows(), examples, stride);
      linalg::multiply_add(weight, next, now.transpose(), lag.fresh());
    }
  }

  void count_pairs(Index steps, Index examples, const PositionMask* mask) {
    grow(fresh_pairs_, steps);
    if (!mask) {
      for (Index d = 0; d < steps; ++d) fresh_pairs_(d) += static_cast<S>((steps - d) * examples);
      return;
    }
    for (Index n = 0; n < examples; ++n)
      for (Index t = 0; t < steps; ++t)
        for (Index d = 0; (*mask)(t, n) && t + d < steps; ++d)
          if ((*mask)(t + d, n)) fresh_pairs_(d) += 1;
  }
  static void grow(Vector<S>& counts, Index size) {
    const Index before = counts.size();
    if (size <= before) return;
    counts.conservativeResize(size);
    counts.tail(size - before).setZero();
  }

  bool bias_;
  RunningCovariance<S> input_;
  RunningMean<S> input_lag_;
  RunningCovariance<S> gradient_;  // of the criterion of one example, summed over its steps
  RunningMean<S> gradient_lag_;    // likewise
  Vector<S> fresh_pairs_, pairs_;
  S scale_ = 0;  // of the loss
  Buffer<S> copy_;
};

}  // namespace kfac
