#pragma once

#include <kfac/nn/layer_norm.hpp>

namespace kfac {

/// Divides each token of `{tokens, features}`, or a whole vector `{features}`, by the root mean
/// square of its entries, then multiplies with a scale for each feature, as torch.nn.RMSNorm. Like
/// LayerNorm, but without mean and shift. Parameter: "weight" (scale), `features`, 1 at first.
/// \source Zhang and Sennrich, Root mean square layer normalization, 2019, arXiv 1910.07467
template <RealScalar S>
class RMSNorm : public detail::TokenNorm<RMSNorm<S>, S, false> {
 public:
  /// \throws OptionError
  explicit RMSNorm(const Shape& normalized_shape, NormOptions options = {})
      : detail::TokenNorm<RMSNorm<S>, S, false>("kfac::RMSNorm", normalized_shape, options) {}
  explicit RMSNorm(Index features, NormOptions options = {})
      : RMSNorm((detail::check_option(features >= 1, "kfac::RMSNorm", "features", features, ">= 1"),
                 Shape{features}),
                options) {}
};

}  // namespace kfac
