#pragma once

#include <algorithm>
#include <initializer_list>

#include <kfac/core/buffer.hpp>
#include <kfac/core/parallel.hpp>
#include <kfac/linalg/channel_product.hpp>

namespace kfac::detail {

/// Convolutions of the images of a batch, or the adjoint, a few images at a time. Threads take
/// different images, so that results do not depend on their number.
template <RealScalar S, std::size_t Axes>
class ConvPass {
  using Product = linalg::detail::WindowProduct<S, Axes>;
  using ByChannels = linalg::detail::ChannelProduct<S, Axes>;

 public:
  using Direction = linalg::detail::WindowDirection;

  /// What is convolved with what; images lie one after another.
  struct Term {
    const S* images;
    linalg::detail::WindowWeights<S> weights;
  };
  /// What is added to each channel of a result, or null: those of a group together, `group_step`
  /// from a group's to the next.
  struct Bias {
    const S* data = nullptr;
    Index out = 1, group_step = 0;

    S operator()(Index channel) const {
      return data ? data[channel / out * group_step + channel % out] : S(0);
    }
  };

  void begin(Direction direction, const PatchGeometry<Axes>& geometry,
             const linalg::detail::WindowChannels& channels) {
    product_.begin(direction, geometry, channels);
    by_channels_.begin(direction, geometry, channels);
    uses_channels_ = by_channels_.work() <= kMore * product_.work();
    groups_ = channels.groups;
  }

  /// How many numbers are kept for the weights of a term.
  Index panel_size() const {
    return linalg::detail::aligned_size(uses_channels_ ? by_channels_.panel_size()
                                                       : product_.panel_size());
  }

  /// results = the sum of the terms, at most two, plus `bias`.
  void run(std::initializer_list<Term> terms, Index examples, const Bias& bias, S* results) {
    S* const panels = panels_.map(panel_size(), static_cast<Index>(terms.size())).data();
    S* into = panels;
    for (const Term& term : terms) {
      if (uses_channels_)
        by_channels_.pack(term.weights, into);
      else
        product_.pack(term.weights, into);
      into += panel_size();
    }
    // Enough work for it to be worth sharing.
    constexpr double kWork = 1e6;
    const Index least = uses_channels_ ? by_channels_.images_at_once() : 1;
    const Index step = std::clamp(
        std::max(static_cast<Index>(kWork / (product_.work() + 1)), least), Index{1}, examples);
    parallel_for((examples + step - 1) / step, [&](Index part) {
      const Index first = part * step;
      const Index count = std::min(step, examples - first);
      if (uses_channels_)
        run_by_channels(terms, panels, first, count, bias, results);
      else
        run(terms, panels, first, count, bias, results);
    });
  }

 private:
  /// Beyond so much more work it does not pay that images need not be copied.
  static constexpr double kMore = 1.25;

  void run(std::initializer_list<Term> terms, const S* panels, Index first, Index count,
           const Bias& bias, S* results) const {
    const Index planes_size = linalg::detail::aligned_size(product_.planes_size());
    S* const planes = memory(planes_size + product_.sums_size());
    S* const sums = planes + planes_size;
    for (Index example = first; example < first + count; ++example) {
      const S* weights = panels;
      for (const Term& term : terms) {
        product_.copy(term.images + example * product_.image_size(), planes);
        product_.multiply(planes, weights, weights != panels, sums);
        weights += panel_size();
      }
      product_.write(sums, bias, results + example * product_.result_size());
    }
  }

  void run_by_channels(std::initializer_list<Term> terms, const S* panels, Index first, Index count,
                       const Bias& bias, S* results) const {
    const Index at_once = std::min(by_channels_.images_at_once(), count);
    S* const sums = memory(by_channels_.sums_size(at_once));
    const Index end = first + count;
    for (; first < end; first += at_once) {
      const Index images = std::min(at_once, end - first);
      for (Index group = 0; group < groups_; ++group) {
        const S* weights = panels;
        for (const Term& term : terms) {
          by_channels_.multiply(group, term.images + first * by_channels_.image_size(), images,
                                weights, weights != panels, sums);
          weights += panel_size();
        }
        by_channels_.write(group, sums, images, bias, results + first * by_channels_.result_size());
      }
    }
  }

  static S* memory(Index size) {
    thread_local Buffer<S> memory;
    return memory.map(size, 1).data();
  }

  Product product_;
  ByChannels by_channels_;
  bool uses_channels_ = false;
  Index groups_ = 1;
  Buffer<S> panels_;
};

}  // namespace kfac::detail
