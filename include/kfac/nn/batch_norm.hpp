#pragma once

#include <array>
#include <cmath>
#include <optional>
#include <string>

#include <kfac/core/state.hpp>
#include <kfac/nn/image_axes.hpp>
#include <kfac/nn/normalization.hpp>

namespace kfac {

struct BatchNormOptions {
  double eps = 1e-5;  ///< added to the variance; > 0, finite
  /// The weight of a batch in the running statistics, in [0, 1]; null: they are the plain average
  /// over all batches.
  std::optional<double> momentum = 0.1;
  bool affine = true;  ///< whether there are a scale and a shift to be learned
  /// Whether there are running statistics, for evaluation; else the batch's are used there too.
  bool track_running_stats = true;

  /// \throws OptionError
  void validate(const char* where) const {
    detail::check_option(eps > 0 && std::isfinite(eps), where, "eps", eps, "> 0 and finite");
    const double weight = momentum.value_or(0);
    detail::check_option(weight >= 0 && weight <= 1, where, "momentum", weight, "in [0, 1]");
  }
};

/// Normalises each channel over all examples and positions of a batch to mean 0 and variance 1,
/// then multiplies with a scale and adds a shift for each channel, as torch.nn.BatchNorm1d, 2d and
/// 3d.
///
///     kfac::BatchNorm2d<float> norm(16);  // on {16, height, width}
///
/// In training (`Mode::training`, `model.train()`) by the batch's own statistics (biased variance),
/// which derivatives go through; every training step moves the running ones (unbiased variance)
/// towards them. In evaluation (`model.eval()`) by the running ones, where the layer is linear. A
/// forward pass itself changes nothing in the layer, which threads may share: `absorb` does, which
/// `Network::backward` calls.
///
/// Parameters: "weight" (scale) and "bias" (shift), `channels` each, 1 and 0 at first. State:
/// "running_mean", "running_var", 0 and 1 at first, and "num_batches_tracked".
///
/// What curvature makes of it. In training the examples of a batch mix, so that no example has a
/// gradient of its own: K-FAC, like all that is made of single examples' gradients, takes the
/// statistics as constants for those of scale and shift, while the vectors of the layers below come
/// back through the statistics. Blocks of a network in training are thus not those of independent
/// examples, only close to them for large batches. In evaluation, as `CurvatureEstimator`,
/// `Ggn` and all exact operators pass it, examples are independent and nothing is assumed.
/// \source Ioffe and Szegedy, Batch normalization, 2015, arXiv 1502.03167
template <RealScalar S, std::size_t Axes>
class BatchNorm : public detail::Normalization<BatchNorm<S, Axes>, S, true> {
  using Base = detail::Normalization<BatchNorm, S, true>;
  static constexpr std::array<const char*, 3> kNames{"kfac::BatchNorm1d", "kfac::BatchNorm2d",
                                                     "kfac::BatchNorm3d"};
  static constexpr const char* kWhere = kNames[Axes - 1];

 public:
  using Scratch = typename Base::Scratch;
  static const char* kind() { return kWhere + 6; }

  /// \throws OptionError
  explicit BatchNorm(Index channels, BatchNormOptions options = {})
      : Base((check(channels, options), channels), options.eps, options.affine),
        options_(options),
        running_mean_(Vector<S>::Zero(channels)),
        running_var_(Vector<S>::Ones(channels)) {}

  const BatchNormOptions& options() const { return options_; }
  Index channels() const { return running_mean_.size(); }
  const Vector<S>& running_mean() const { return running_mean_; }
  const Vector<S>& running_var() const { return running_var_; }
  Index num_batches_tracked() const { return num_batches_tracked_; }

  Shape output_shape(const Shape& shape) const {
    const bool fits =
        shape.rank() == 1 + static_cast<int>(Axes) || (Axes == 1 && shape.rank() == 1);
    if (!fits || shape[0] != channels())
      raise<ShapeError>(std::string(kWhere) + ": 'input' has shape " + shape.to_string() +
                        ", expected " + std::to_string(channels()) + " channels" +
                        (Axes == 1 ? ", or these x " : " x ") + detail::axes_names<Axes>());
    return shape;
  }

  /// \throws ShapeError in training with one value for each channel
  void forward(const ConstBatchView<S>& x, BatchView<S> y, Scratch& scratch,
               const Mode& mode) const {
    scratch.is_unseen = false;
    if (!mode.training && options_.track_running_stats)
      return Base::normalize(x, y, running_mean_.data(), running_var_.data(), scratch);
    scratch.values_each = x.values.size() / channels();
    if (mode.training && scratch.values_each < 2)
      raise<ShapeError>(std::string(kWhere) +
                        ": 'input' has 1 value for each channel in training, expected at least 2");
    Base::normalize(x, y, nullptr, nullptr, scratch);
    scratch.is_unseen = mode.training && options_.track_running_stats;
  }

  /// Takes the statistics of the last forward pass, if that was in training, into the running ones,
  /// once.
  void absorb(Scratch& scratch) {
    if (!std::exchange(scratch.is_unseen, false)) return;
    ++num_batches_tracked_;
    const S weight = options_.momentum ? static_cast<S>(*options_.momentum)
                                       : S(1) / static_cast<S>(num_batches_tracked_);
    const detail::Statistics<S> of(scratch, channels());
    const auto count = static_cast<S>(scratch.values_each);
    running_mean_ += weight * (ConstVectorMap<S>(of.mean, channels()) - running_mean_);
    running_var_ += weight * (count / (count - S(1)) * ConstVectorMap<S>(of.variance, channels()) -
                              running_var_);
  }
  void visit_state(StateVisitor& visitor) {
    if (!options_.track_running_stats) return;
    visitor.visit("running_mean", running_mean_);
    visitor.visit("running_var", running_var_);
    visitor.visit("num_batches_tracked", num_batches_tracked_);
  }

  template <class Body>
  void with_runs(const Shape& shape, Index examples, Body&& body) const {
    if constexpr (Axes == 1)
      if (shape.rank() == 1) return body(detail::FeatureRuns{examples, channels()});
    body(detail::PlaneRuns{examples, channels(), shape.size() / channels(), 0});
  }

 private:
  static void check(Index channels, const BatchNormOptions& options) {
    options.validate(kWhere);
    detail::check_option(channels >= 1, kWhere, "channels", channels, ">= 1");
  }

  BatchNormOptions options_;
  Vector<S> running_mean_, running_var_;
  Index num_batches_tracked_ = 0;
};

/// On vectors `{features}` and sequences `{channels, length}`.
template <RealScalar S>
using BatchNorm1d = BatchNorm<S, 1>;
/// On images `{channels, height, width}`.
template <RealScalar S>
using BatchNorm2d = BatchNorm<S, 2>;
/// On volumes `{channels, depth, height, width}`.
template <RealScalar S>
using BatchNorm3d = BatchNorm<S, 3>;

}  // namespace kfac
