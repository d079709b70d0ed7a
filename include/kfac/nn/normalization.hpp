#pragma once

#include <cmath>
#include <initializer_list>
#include <type_traits>
#include <vector>

#include <kfac/core/buffer.hpp>
#include <kfac/nn/layer.hpp>
#include <kfac/nn/norm_runs.hpp>

namespace kfac {

/// Of LayerNorm, RMSNorm and GroupNorm.
struct NormOptions {
  double eps = 1e-5;   ///< added to the variance; > 0, finite
  bool affine = true;  ///< whether there are a scale and a shift to be learned

  /// \throws OptionError
  void validate(const char* where) const {
    detail::check_option(eps > 0 && std::isfinite(eps), where, "eps", eps, "> 0 and finite");
  }
};

namespace detail {

/// What the passes of a normalisation keep.
template <RealScalar S>
struct NormScratch {
  Buffer<S> statistics;   ///< of each group: mean, variance, and 1 / sqrt(variance + eps)
  Buffer<S> sums;         ///< over each group
  Buffer<S> direction;    ///< of scale and shift
  bool is_fixed = false;  ///< the statistics do not depend on the input
  // Of BatchNorm:
  Index values_each = 0;   ///< of the batch, for each channel
  bool is_unseen = false;  ///< they are a training batch's that `absorb` has not taken
};

/// Those statistics.
template <RealScalar S>
struct Statistics {
  Statistics(NormScratch<S>& scratch, Index groups)
      : mean(scratch.statistics.data()), variance(mean + groups), inverse(variance + groups) {}

  S* mean;
  S* variance;
  S* inverse;  ///< 1 / sqrt(variance + eps)
};

/// What all normalisations are: groups of entries x of a batch become
///     y = scale_c (x - mean) / sqrt(variance + eps) + shift_c
/// with the group's mean and (biased) variance, and a scale and a shift for each channel c.
/// `Centered` is false where there are no mean and no shift, and the variance is the mean square.
/// `Derived` offers `with_runs(shape, examples, body)`, which calls body(runs) with one of
/// norm_runs.hpp.
///
/// With xhat = r (x - mean), r = 1 / sqrt(variance + eps), the Jacobian of xhat is the symmetric
/// J v = r (v - mean(v) - xhat mean(xhat v)), which serves tangents and gradients; its tangent
/// along dx, where t = J dx, is -r mean(xhat dx) J v - r (t mean(v xhat) + xhat mean(v t)).
template <class Derived, RealScalar S, bool Centered>
class Normalization {
 public:
  using Scalar = S;
  using Scratch = NormScratch<S>;

  /// Scale and shift of each channel, `channels x 2`, and of RMSNorm `channels x 1`; else empty.
  VectorMap<S> parameters() { return {affine_.data(), parameter_count()}; }
  Index parameter_count() const { return has_affine_ ? channels_ * kAffine : 0; }
  std::vector<ParameterInfo> parameter_info() const {
    if (!has_affine_) return {};
    std::vector<ParameterInfo> info{{"weight", 0, channels_, 1}};
    if (Centered) info.push_back({"bias", channels_, channels_, 1});
    return info;
  }
  /// One for each channel: a row of the parameters, scale and shift.
  Index units() const { return has_affine_ ? channels_ : 0; }
  bool has_affine() const { return has_affine_; }
  double eps() const { return eps_; }

  static constexpr MemoryUse memory_use() { return {InPlace::Never, false}; }
  static constexpr BlockNeeds block_needs() { return {.unitwise = true, .diagonal_input = false}; }

  Index scratch_size(const Shape& shape, Index examples) const {
    Index groups = 0;
    derived().with_runs(shape, examples, [&](const auto& runs) { groups = runs.groups(); });
    return (kStatistics + 2) * groups;
  }

  void forward(const ConstBatchView<S>& x, BatchView<S> y, Scratch& scratch, const Mode&) const {
    normalize(x, y, nullptr, nullptr, scratch);
  }

  void backward(const ConstBatchView<S>& x, const ConstBatchView<S>&,
                const ConstBatchView<S>& grad_output, BatchView<S>* grad_input,
                VectorMap<S>* grad_parameters, Scratch& scratch, const Mode&) const {
    const S* const in = x.values.data();
    const S* const gradient = grad_output.values.data();
    derived().with_runs(x.shape, x.examples(), [&](const auto& runs) {
      const Statistics<S> of(scratch, runs.groups());
      if (grad_input) pull_back(runs, of, in, gradient, grad_input->values.data(), scratch);
      if (!grad_parameters || !has_affine_) return;
      grad_parameters->setZero();
      for_each_piece(runs.channels(), runs.channels_at_once(), [&](Index first, Index count) {
        add_parameter_gradients(runs, of, in, gradient, first, count, grad_parameters->data(), 0);
      });
    });
  }

  void tangent(const ConstBatchView<S>& x, const ConstBatchView<S>&,
               const ConstBatchView<S>* x_tangent, const ConstVectorMap<S>* parameter_tangent,
               BatchView<S> y_tangent, Scratch& scratch) const {
    const S* const in = x.values.data();
    const S* const along = direction(parameter_tangent, scratch);
    derived().with_runs(x.shape, x.examples(), [&](const auto& runs) {
      using Runs = std::decay_t<decltype(runs)>;
      const Statistics<S> of(scratch, runs.groups());
      const Sums<Runs> sums(runs, 2, scratch);
      for_each_piece(runs.groups(), runs.groups_at_once(), [&](Index first, Index count) {
        sums.clear(first, count);
        if (x_tangent && !scratch.is_fixed) {
          runs.for_groups(first, count, [&](const NormRun& run) {
            const Entries dx = entries(x_tangent->values.data(), run);
            if (Centered) sums.add(0, run, dx);
            sums.add(1, run, dx * (entries(in, run) - group<Runs>(of.mean, run)));
          });
          sums.average(first, count, of.inverse, {1});
        }
        runs.for_groups(first, count, [&](const NormRun& run) {
          WritableEntries to = writable(y_tangent.values.data(), run);
          const auto mean = group<Runs>(of.mean, run);
          const auto r = group<Runs>(of.inverse, run);
          to = (entries(in, run) - mean) * r * channel<Runs>(along, run) +
               channel<Runs>(along + channels_, run);
          if (!x_tangent) return;
          const Entries dx = entries(x_tangent->values.data(), run);
          to += (dx - sums.of(0, run) - (entries(in, run) - mean) * (r * sums.of(1, run))) *
                (r * channel<Runs>(affine_.data(), run));
        });
      });
    });
  }

  void backward_tangent(const ConstBatchView<S>& x, const ConstBatchView<S>&,
                        const ConstBatchView<S>& grad_output, const ConstBatchView<S>* x_tangent,
                        const ConstVectorMap<S>* parameter_tangent,
                        const ConstBatchView<S>& grad_output_tangent,
                        BatchView<S>* grad_input_tangent, VectorMap<S>* grad_parameters_tangent,
                        Scratch& scratch) const {
    const TangentPass pass{x.values.data(), x_tangent ? x_tangent->values.data() : nullptr,
                           grad_output.values.data(), grad_output_tangent.values.data(),
                           direction(parameter_tangent, scratch)};
    derived().with_runs(x.shape, x.examples(), [&](const auto& runs) {
      using Runs = std::decay_t<decltype(runs)>;
      const Statistics<S> of(scratch, runs.groups());
      const Sums<Runs> sums(runs, kSums, scratch);
      for_each_piece(runs.groups(), runs.groups_at_once(), [&](Index first, Index count) {
        sums.clear(first, count);
        if (!scratch.is_fixed) sum_tangents(runs, of, pass, sums, first, count);
        if (grad_input_tangent)
          runs.for_groups(first, count, [&](const NormRun& run) {
            pull_tangent_back(of, pass, sums, run, grad_input_tangent->values.data());
          });
      });
      if (!grad_parameters_tangent || !has_affine_) return;
      S* const into = grad_parameters_tangent->data();
      grad_parameters_tangent->setZero();
      for_each_piece(runs.channels(), runs.channels_at_once(), [&](Index first, Index count) {
        add_parameter_gradients(runs, of, pass.x, pass.gradient_tangent, first, count, into, 0);
        if (!pass.dx) return;
        runs.for_channels(first, count, [&](const NormRun& run) {
          const auto mean = group<Runs>(of.mean, run);
          const auto r = group<Runs>(of.inverse, run);
          add_run<Runs::kChannelEach>(
              into, run.channel,
              entries(pass.gradient, run) * r *
                  (entries(pass.dx, run) - sums.of(kTangent, run) -
                   (entries(pass.x, run) - mean) * (r * sums.of(kTangentOfNormal, run))));
        });
      });
    });
  }

  /// The gradient of scale and shift for each example, `parameters x examples`: of an example's own
  /// entries, as they were normalised.
  void example_gradients(const ConstBatchView<S>& x, const ConstBatchView<S>&,
                         const ConstBatchView<S>& grad_output, MatrixMap<S> into,
                         Scratch& scratch) const {
    into.setZero();
    if (!has_affine_) return;
    derived().with_runs(x.shape, x.examples(), [&](const auto& runs) {
      const Statistics<S> of(scratch, runs.groups());
      for_each_piece(runs.channels(), runs.channels_at_once(), [&](Index first, Index count) {
        add_parameter_gradients(runs, of, x.values.data(), grad_output.values.data(), first, count,
                                into.data(), into.rows());
      });
    });
  }

 protected:
  /// \pre channels >= 1, eps > 0
  Normalization(Index channels, double eps, bool affine)
      : channels_(channels), has_affine_(affine), eps_(eps), affine_(2 * channels) {
    affine_.head(channels).setOnes();
    affine_.tail(channels).setZero();
  }

  /// y, with given mean and variance of each group, or, where these are null, with those of x.
  void normalize(const ConstBatchView<S>& x, BatchView<S> y, const S* mean, const S* variance,
                 Scratch& scratch) const {
    const S* const in = x.values.data();
    scratch.is_fixed = mean != nullptr;
    derived().with_runs(x.shape, x.examples(), [&](const auto& runs) {
      using Runs = std::decay_t<decltype(runs)>;
      scratch.statistics.map(runs.groups(), kStatistics);
      const Statistics<S> of(scratch, runs.groups());
      for_each_piece(runs.groups(), runs.groups_at_once(), [&](Index first, Index count) {
        WritableEntries variances(of.variance + first, count);
        if (mean) {
          WritableEntries(of.mean + first, count) = Entries(mean + first, count);
          variances = Entries(variance + first, count);
        } else {
          take_statistics(runs, of, in, first, count);
        }
        WritableEntries(of.inverse + first, count) =
            (variances + static_cast<S>(eps_)).sqrt().inverse();
        runs.for_groups(first, count, [&](const NormRun& run) {
          writable(y.values.data(), run) =
              (entries(in, run) - group<Runs>(of.mean, run)) *
                  (group<Runs>(of.inverse, run) * channel<Runs>(affine_.data(), run)) +
              channel<Runs>(affine_.data() + channels_, run);
        });
      });
    });
  }

 private:
  using Entries = Eigen::Map<const Eigen::Array<S, Eigen::Dynamic, 1>>;
  using WritableEntries = Eigen::Map<Eigen::Array<S, Eigen::Dynamic, 1>>;
  static constexpr Index kAffine = Centered ? 2 : 1;
  static constexpr Index kStatistics = 3;

  // Means over each group, which `backward_tangent` takes: with v = scale gradient, how v changes,
  // and the tangent of x; each by itself (0 unless `Centered`) and times xhat; and v times the
  // tangent.
  static constexpr Index kGradient = 0;
  static constexpr Index kGradientOfNormal = 1;
  static constexpr Index kChange = 2;
  static constexpr Index kChangeOfNormal = 3;
  static constexpr Index kTangent = 4;
  static constexpr Index kTangentOfNormal = 5;
  static constexpr Index kGradientOfTangent = 6;
  static constexpr Index kSums = 7;

  /// What `backward_tangent` reads; dx may be null.
  struct TangentPass {
    const S* x;
    const S* dx;
    const S* gradient;
    const S* gradient_tangent;
    const S* along;  ///< of scale and shift
  };

  /// Sums over groups that become means.
  template <class Runs>
  class Sums {
   public:
    Sums(const Runs& runs, Index count, Scratch& scratch)
        : data_(scratch.sums.map(runs.groups(), count).data()),
          groups_(runs.groups()),
          group_size_(static_cast<S>(runs.group_size())),
          count_(count) {}

    void clear(Index first, Index count) const {
      for (Index i = 0; i < count_; ++i) at(i, first, count).setZero();
    }
    template <class Values>
    void add(Index i, const NormRun& run, const Eigen::ArrayBase<Values>& values) const {
      add_run<Runs::kGroupEach>(data_ + i * groups_, run.group, values);
    }
    /// Divides by the number of entries; those that were summed with x - mean in place of xhat are
    /// also multiplied with r.
    void average(Index first, Index count, const S* r, std::initializer_list<Index> normal) const {
      for (Index i = 0; i < count_; ++i) at(i, first, count) /= group_size_;
      for (const Index i : normal) at(i, first, count) *= Entries(r + first, count);
    }
    decltype(auto) of(Index i, const NormRun& run) const {
      return group<Runs>(data_ + i * groups_, run);
    }

   private:
    WritableEntries at(Index i, Index first, Index count) const {
      return {data_ + i * groups_ + first, count};
    }

    S* data_;
    Index groups_;
    S group_size_;
    Index count_;
  };

  static Entries entries(const S* data, const NormRun& run) { return {data + run.first, run.size}; }
  static WritableEntries writable(S* data, const NormRun& run) {
    return {data + run.first, run.size};
  }
  template <class Runs>
  static decltype(auto) group(const S* values, const NormRun& run) {
    return run_values<Runs::kGroupEach>(values, run.group, run.size);
  }
  template <class Runs>
  static decltype(auto) channel(const S* values, const NormRun& run) {
    return run_values<Runs::kChannelEach>(values, run.channel, run.size);
  }

  /// In two passes, not to take the difference of large numbers.
  template <class Runs>
  static void take_statistics(const Runs& runs, const Statistics<S>& of, const S* in, Index first,
                              Index count) {
    const auto size = static_cast<S>(runs.group_size());
    WritableEntries means(of.mean + first, count);
    WritableEntries variances(of.variance + first, count);
    means.setZero();
    variances.setZero();
    if (Centered) {
      runs.for_groups(first, count, [&](const NormRun& run) {
        add_run<Runs::kGroupEach>(of.mean, run.group, entries(in, run));
      });
      means /= size;
    }
    runs.for_groups(first, count, [&](const NormRun& run) {
      add_run<Runs::kGroupEach>(of.variance, run.group,
                                (entries(in, run) - group<Runs>(of.mean, run)).square());
    });
    variances /= size;
  }

  /// The gradient with respect to the input.
  template <class Runs>
  void pull_back(const Runs& runs, const Statistics<S>& of, const S* in, const S* gradient, S* into,
                 Scratch& scratch) const {
    const Sums<Runs> sums(runs, 2, scratch);
    for_each_piece(runs.groups(), runs.groups_at_once(), [&](Index first, Index count) {
      sums.clear(first, count);
      if (!scratch.is_fixed) {
        runs.for_groups(first, count, [&](const NormRun& run) {
          const auto scale = channel<Runs>(affine_.data(), run);
          if (Centered) sums.add(0, run, entries(gradient, run) * scale);
          sums.add(1, run,
                   entries(gradient, run) * scale * (entries(in, run) - group<Runs>(of.mean, run)));
        });
        sums.average(first, count, of.inverse, {1});
      }
      runs.for_groups(first, count, [&](const NormRun& run) {
        const auto r = group<Runs>(of.inverse, run);
        writable(into, run) =
            (entries(gradient, run) * channel<Runs>(affine_.data(), run) - sums.of(0, run) -
             (entries(in, run) - group<Runs>(of.mean, run)) * (r * sums.of(1, run))) *
            r;
      });
    });
  }

  /// Adds those of scale and shift for some channels; the examples' results are `stride` apart.
  template <class Runs>
  void add_parameter_gradients(const Runs& runs, const Statistics<S>& of, const S* in,
                               const S* gradient, Index first, Index count, S* into,
                               Index stride) const {
    runs.for_channels(first, count, [&](const NormRun& run) {
      S* const to = into + run.example * stride;
      const Entries g = entries(gradient, run);
      add_run<Runs::kChannelEach>(
          to, run.channel,
          g * (entries(in, run) - group<Runs>(of.mean, run)) * group<Runs>(of.inverse, run));
      if (Centered) add_run<Runs::kChannelEach>(to + channels_, run.channel, g);
    });
  }

  template <class Runs>
  void sum_tangents(const Runs& runs, const Statistics<S>& of, const TangentPass& pass,
                    const Sums<Runs>& sums, Index first, Index count) const {
    runs.for_groups(first, count, [&](const NormRun& run) {
      const auto mean = group<Runs>(of.mean, run);
      const auto scale = channel<Runs>(affine_.data(), run);
      const auto dscale = channel<Runs>(pass.along, run);
      const Entries in = entries(pass.x, run);
      const Entries g = entries(pass.gradient, run);
      const Entries dg = entries(pass.gradient_tangent, run);
      if (Centered) {
        sums.add(kGradient, run, g * scale);
        sums.add(kChange, run, dg * scale + g * dscale);
      }
      sums.add(kGradientOfNormal, run, g * scale * (in - mean));
      sums.add(kChangeOfNormal, run, (dg * scale + g * dscale) * (in - mean));
      if (!pass.dx) return;
      const Entries dx = entries(pass.dx, run);
      if (Centered) sums.add(kTangent, run, dx * S(1));
      sums.add(kTangentOfNormal, run, dx * (in - mean));
      sums.add(kGradientOfTangent, run, g * scale * dx);
    });
    sums.average(first, count, of.inverse, {kGradientOfNormal, kChangeOfNormal, kTangentOfNormal});
  }

  /// How the gradient with respect to the input changes.
  template <class Runs>
  void pull_tangent_back(const Statistics<S>& of, const TangentPass& pass, const Sums<Runs>& sums,
                         const NormRun& run, S* into) const {
    const auto mean = group<Runs>(of.mean, run);
    const auto r = group<Runs>(of.inverse, run);
    const auto scale = channel<Runs>(affine_.data(), run);
    const Entries in = entries(pass.x, run);
    const Entries g = entries(pass.gradient, run);
    WritableEntries to = writable(into, run);
    to = (entries(pass.gradient_tangent, run) * scale + g * channel<Runs>(pass.along, run) -
          sums.of(kChange, run) - (in - mean) * (r * sums.of(kChangeOfNormal, run))) *
         r;
    if (!pass.dx) return;
    const auto g_mean = sums.of(kGradient, run);
    const auto g_normal = sums.of(kGradientOfNormal, run);
    const auto dx_mean = sums.of(kTangent, run);
    const auto dx_normal = sums.of(kTangentOfNormal, run);
    // r mean(xhat dx) J v, r t mean(v xhat), and r xhat mean(v t).
    to -= (g * scale - g_mean - (in - mean) * (r * g_normal)) * (r * r * dx_normal);
    to -= (entries(pass.dx, run) - dx_mean - (in - mean) * (r * dx_normal)) * (r * r * g_normal);
    to -=
        (in - mean) *
        (r * r * r * (sums.of(kGradientOfTangent, run) - dx_mean * g_mean - dx_normal * g_normal));
  }

  /// A tangent of scale and shift, zero where there is none.
  const S* direction(const ConstVectorMap<S>* parameter_tangent, Scratch& scratch) const {
    VectorMap<S> along(scratch.direction.map(2 * channels_, 1).data(), 2 * channels_);
    along.setZero();
    if (parameter_tangent) along.head(parameter_count()) = *parameter_tangent;
    return along.data();
  }

  const Derived& derived() const { return static_cast<const Derived&>(*this); }

  Index channels_;
  bool has_affine_;
  double eps_;
  Vector<S> affine_;  // scales, then shifts, learned or not
};

}  // namespace detail
}  // namespace kfac
