#pragma once

#include <string>

#include <kfac/nn/normalization.hpp>

namespace kfac {

/// Normalises groups of consecutive channels of `{channels, ...}`, with all their positions, to
/// mean 0 and variance 1 in each example, then multiplies with a scale and adds a shift for each
/// channel, as torch.nn.GroupNorm. One group is a normalisation of the whole example; as many as
/// channels, one of each channel (InstanceNorm).
///
///     kfac::GroupNorm<float> norm(4, 32);  // 4 groups of 8 channels
///
/// Parameters: "weight" (scale) and "bias" (shift), `channels` each, 1 and 0 at first.
/// \source Wu and He, Group normalization, 2018, arXiv 1803.08494
template <RealScalar S>
class GroupNorm : public detail::Normalization<GroupNorm<S>, S, true> {
  using Base = detail::Normalization<GroupNorm<S>, S, true>;
  static constexpr const char* kWhere = "kfac::GroupNorm";

 public:
  static const char* kind() { return "GroupNorm"; }

  /// \throws OptionError, also if the channels are no multiple of the groups
  GroupNorm(Index groups, Index channels, NormOptions options = {})
      : Base((check(groups, channels, options), channels), options.eps, options.affine),
        groups_(groups),
        channel_count_(channels) {}

  Index groups() const { return groups_; }
  Index channels() const { return channel_count_; }

  Shape output_shape(const Shape& shape) const {
    if (shape.rank() == 0 || shape[0] != channel_count_)
      raise<ShapeError>(std::string(kWhere) + ": 'input' has shape " + shape.to_string() +
                        ", expected " + std::to_string(channel_count_) +
                        " channels on the first axis");
    return shape;
  }

  template <class Body>
  void with_runs(const Shape& shape, Index examples, Body&& body) const {
    body(detail::PlaneRuns{examples, channel_count_, shape.size() / channel_count_, groups_});
  }

 private:
  static void check(Index groups, Index channels, const NormOptions& options) {
    options.validate(kWhere);
    detail::check_option(groups >= 1, kWhere, "groups", groups, ">= 1");
    detail::check_option(channels >= 1, kWhere, "channels", channels, ">= 1");
    detail::check_option(channels % groups == 0, kWhere, "channels", channels,
                         "a multiple of the groups");
  }

  Index groups_, channel_count_;
};

}  // namespace kfac
