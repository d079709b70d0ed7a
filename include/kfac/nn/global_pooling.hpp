#pragma once

#include <string>

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

/// `{..., features}` to `{features}`.
template <RealScalar S, Pooled How>
class TokenPool : public LinearMap<TokenPool<S, How>, S> {
 public:
  static const char* kind() { return How == Pooled::Mean ? "MeanTokens" : "SumTokens"; }

  Shape output_shape(const Shape& shape) const {
    if (shape.rank() < 2)
      raise<ShapeError>(std::string("kfac::") + kind() + ": 'input' has shape " +
                        shape.to_string() + ", expected tokens x features");
    return {shape.back()};
  }

  void apply(const ConstBatchView<S>& x, BatchView<S> y) const {
    const Index tokens = x.values.rows() / y.values.rows();
    for (Index example = 0; example < x.examples(); ++example)
      y.values.col(example) =
          pooled_weight<S>(How, tokens) *
          ConstMatrixMap<S>(x.values.col(example).data(), y.values.rows(), tokens).rowwise().sum();
  }
  void apply_adjoint(const ConstBatchView<S>& gradient, BatchView<S> into) const {
    const Index features = gradient.values.rows();
    const Index tokens = into.values.rows() / features;
    const S weight = pooled_weight<S>(How, tokens);
    for (Index example = 0; example < gradient.examples(); ++example) {
      MatrixMap<S> to(into.values.col(example).data(), features, tokens);
      for (Index token = 0; token < tokens; ++token)
        to.col(token) = weight * gradient.values.col(example);
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

/// The mean of the tokens: `{tokens, features}` (or several slower axes) to `{features}`.
template <RealScalar S>
using MeanTokens = detail::TokenPool<S, detail::Pooled::Mean>;
/// The sum instead.
template <RealScalar S>
using SumTokens = detail::TokenPool<S, detail::Pooled::Sum>;

}  // namespace kfac
