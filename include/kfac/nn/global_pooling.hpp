#pragma once

#include <algorithm>
#include <string>

#include <kfac/core/buffer.hpp>
#include <kfac/nn/linear_map.hpp>

namespace kfac {
namespace detail {

enum class Pooled { Mean, Sum };

template <RealScalar S>
S pooled_weight(Pooled pooled, Index entries) {
  return pooled == Pooled::Mean ? S(1) / static_cast<S>(entries) : S(1);
}

/// `{channels, ...}` to `{channels}`.
template <RealScalar S, Pooled How>
class SpatialPool : public LinearMap<SpatialPool<S, How>, S> {
 public:
  static const char* kind() { return How == Pooled::Mean ? "SpatialMean" : "SpatialSum"; }

  Shape output_shape(const Shape& shape) const {
    if (shape.rank() < 2)
      raise<ShapeError>(std::string("kfac::") + kind() + ": 'input' has shape " +
                        shape.to_string() + ", expected channels x positions");
    return {shape[0]};
  }

  void apply(const ConstBatchView<S>& x, BatchView<S> y) const {
    const Index planes = y.values.size();
    const ConstMatrixMap<S> from(x.values.data(), x.values.size() / planes, planes);
    VectorMap<S>(y.values.data(), planes) =
        pooled_weight<S>(How, from.rows()) * from.colwise().sum().transpose();
  }
  void apply_adjoint(const ConstBatchView<S>& gradient, BatchView<S> into) const {
    const Index planes = gradient.values.size();
    MatrixMap<S> to(into.values.data(), into.values.size() / planes, planes);
    const S weight = pooled_weight<S>(How, to.rows());
    for (Index plane = 0; plane < planes; ++plane)
      to.col(plane).setConstant(weight * gradient.values.data()[plane]);
  }
};

/// `{..., features}` to `{features}`, of the real tokens where the pass has a mask of them.
template <RealScalar S, Pooled How>
class TokenPool : public ParameterFree<S>, public LocallyLinear<TokenPool<S, How>, S> {
 public:
  struct Scratch {
    Buffer<S> weights;  ///< of the tokens of each example, where there is a mask
    bool masked = false;
  };
  static const char* kind() { return How == Pooled::Mean ? "MeanTokens" : "SumTokens"; }

  static constexpr MemoryUse memory_use() { return {InPlace::Never, false}; }

  Shape output_shape(const Shape& shape) const {
    if (shape.rank() < 2)
      raise<ShapeError>(std::string("kfac::") + kind() + ": 'input' has shape " +
                        shape.to_string() + ", expected tokens x features");
    return {shape.back()};
  }
  WorkspaceSize scratch_size(const Shape& shape, Index examples, const Mode& mode) const {
    const Index tokens = shape.size() / shape.back();
    return {.activations = 0,
            .gradients = 0,
            .scratch = fits(mode, tokens) ? tokens * examples : Index{0}};
  }

  /// \throws ShapeError if a mask of the input's tokens has not as many examples
  void forward(const ConstBatchView<S>& x, BatchView<S> y, Scratch& scratch,
               const Mode& mode) const {
    const Index tokens = x.values.rows() / y.values.rows();
    scratch.masked = fits(mode, tokens);
    if (scratch.masked) weigh(*mode.mask, mode.joined, scratch.weights.map(tokens, x.examples()));
    apply(x, y, scratch);
  }
  void backward(const ConstBatchView<S>&, const ConstBatchView<S>&,
                const ConstBatchView<S>& grad_output, BatchView<S>* grad_input, VectorMap<S>*,
                Scratch& scratch, const Mode&) const {
    if (!grad_input) return;
    const Index features = grad_output.values.rows();
    const Index tokens = grad_input->values.rows() / features;
    const S weight = pooled_weight<S>(How, tokens);
    for (Index example = 0; example < grad_output.examples(); ++example) {
      MatrixMap<S> to(grad_input->values.col(example).data(), features, tokens);
      for (Index token = 0; token < tokens; ++token)
        to.col(token) = (scratch.masked ? weight_of(scratch, token + tokens * example) : weight) *
                        grad_output.values.col(example);
    }
  }
  void tangent(const ConstBatchView<S>&, const ConstBatchView<S>&,
               const ConstBatchView<S>* x_tangent, const ConstVectorMap<S>*, BatchView<S> y_tangent,
               Scratch& scratch) const {
    if (x_tangent)
      apply(*x_tangent, y_tangent, scratch);
    else
      y_tangent.values.setZero();
  }

 private:
  /// A mask of other positions than the input's tokens is for other layers.
  static bool fits(const Mode& mode, Index tokens) {
    return mode.mask && mode.mask->rows() == tokens * mode.joined;
  }
  static S weight_of(const Scratch& scratch, Index token) { return scratch.weights.data()[token]; }

  /// Weights of real tokens as their number in each example has it; those of others are 0.
  static void weigh(const PositionMask& mask, Index joined, MatrixMap<S> weights) {
    check_size((std::string("kfac::") + kind()).c_str(), "mask", mask.cols() * joined,
               weights.cols(), "examples");
    using Reals = Eigen::Map<const PositionMask>;
    const Reals real(mask.data(), weights.rows(), weights.cols());
    for (Index example = 0; example < weights.cols(); ++example) {
      const Index count = std::max<Index>(real.col(example).count(), 1);
      weights.col(example) =
          pooled_weight<S>(How, count) * real.col(example).template cast<S>().matrix();
    }
  }
  static void apply(const ConstBatchView<S>& x, BatchView<S> y, const Scratch& scratch) {
    const Index features = y.values.rows();
    const Index tokens = x.values.rows() / features;
    for (Index example = 0; example < x.examples(); ++example) {
      const ConstMatrixMap<S> from(x.values.col(example).data(), features, tokens);
      if (scratch.masked) {
        y.values.col(example).setZero();
        for (Index token = 0; token < tokens; ++token)
          y.values.col(example) += weight_of(scratch, token + tokens * example) * from.col(token);
      } else {
        y.values.col(example) = pooled_weight<S>(How, tokens) * from.rowwise().sum();
      }
    }
  }
};

}  // namespace detail

/// The mean of each channel over all positions: `{channels, ...}` to `{channels}`; in PyTorch
/// AdaptiveAvgPool1d(1), 2d or 3d and Flatten.
template <RealScalar S>
using SpatialMean = detail::SpatialPool<S, detail::Pooled::Mean>;
/// The sum instead.
template <RealScalar S>
using SpatialSum = detail::SpatialPool<S, detail::Pooled::Sum>;
/// SpatialMean by the name it has where images have two axes.
template <RealScalar S>
using GlobalAvgPool2d = SpatialMean<S>;

/// The mean of the tokens: `{tokens, features}` (or several slower axes) to `{features}`. Where the
/// network has a mask of them (`Network::set_mask`), that of the real ones; 0 if there is none.
template <RealScalar S>
using MeanTokens = detail::TokenPool<S, detail::Pooled::Mean>;
/// The sum instead.
template <RealScalar S>
using SumTokens = detail::TokenPool<S, detail::Pooled::Sum>;

}  // namespace kfac
