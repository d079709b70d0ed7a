#pragma once

#include <string>

#include <kfac/nn/normalization.hpp>

namespace kfac {
namespace detail {

/// What LayerNorm and RMSNorm share: each example, or each of its tokens, is normalised by itself
/// over its fastest axes.
template <class Derived, RealScalar S, bool Centered>
class TokenNorm : public Normalization<Derived, S, Centered> {
  using Base = Normalization<Derived, S, Centered>;

 public:
  static const char* kind() { return Centered ? "LayerNorm" : "RMSNorm"; }

  const Shape& normalized_shape() const { return normalized_shape_; }

  Shape output_shape(const Shape& shape) const {
    const int before = shape.rank() - normalized_shape_.rank();
    bool fits = before >= 0;
    for (int axis = 0; fits && axis < normalized_shape_.rank(); ++axis)
      fits = shape[before + axis] == normalized_shape_[axis];
    if (!fits)
      raise<ShapeError>(std::string("kfac::") + kind() + ": 'input' has shape " +
                        shape.to_string() + ", expected " + normalized_shape_.to_string() +
                        " on the last axes");
    return shape;
  }

  template <class Body>
  void with_runs(const Shape& shape, Index examples, Body&& body) const {
    const Index features = normalized_shape_.size();
    const Index tokens = shape.size() / features;
    body(TokenRuns{features, tokens * examples, tokens});
  }

 protected:
  TokenNorm(const char* where, const Shape& normalized_shape, NormOptions options)
      : Base((options.validate(where), checked(where, normalized_shape).size()), options.eps,
             options.affine),
        normalized_shape_(normalized_shape) {}

 private:
  static const Shape& checked(const char* where, const Shape& shape) {
    detail::check_option(shape.rank() > 0, where, "normalized_shape", shape.size(), ">= 1");
    return shape;
  }

  Shape normalized_shape_;
};

}  // namespace detail

/// Normalises each token of `{tokens, features}`, or a whole vector `{features}`, to mean 0 and
/// variance 1, then multiplies with a scale and adds a shift for each feature, as
/// torch.nn.LayerNorm:
///
///     kfac::LayerNorm<float> norm(64);           // over the fastest axis
///     kfac::LayerNorm<float> all({3, 28, 28});   // over the last three
///
/// Parameters: "weight" (scale) and "bias" (shift), `features` each, 1 and 0 at first.
/// \source Ba, Kiros and Hinton, Layer normalization, 2016, arXiv 1607.06450
template <RealScalar S>
class LayerNorm : public detail::TokenNorm<LayerNorm<S>, S, true> {
 public:
  /// \throws OptionError
  explicit LayerNorm(const Shape& normalized_shape, NormOptions options = {})
      : detail::TokenNorm<LayerNorm<S>, S, true>("kfac::LayerNorm", normalized_shape, options) {}
  explicit LayerNorm(Index features, NormOptions options = {})
      : LayerNorm(
            (detail::check_option(features >= 1, "kfac::LayerNorm", "features", features, ">= 1"),
             Shape{features}),
            options) {}
};

}  // namespace kfac
