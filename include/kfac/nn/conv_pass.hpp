#pragma once

#include <algorithm>
#include <initializer_list>

#include <kfac/core/buffer.hpp>
#include <kfac/core/parallel.hpp>
#include <kfac/linalg/window_product.hpp>

namespace kfac::detail {

/// Convolutions of the images of a batch, or the adjoint, an image at a time. Threads take
/// different images, so that results do not depend on their number.
template <RealScalar S, std::size_t Axes>
class ConvPass {
  using Product = linalg::detail::WindowProduct<S, Axes>;

 public:
  using Direction = typename Product::Direction;

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
  }

  /// How many numbers are kept for the weights of a term.
  Index panel_size() const { return linalg::detail::aligned_size(product_.panel_size()); }

  /// results = the sum of the terms, at most two, plus `bias`.
  void run(std::initializer_list<Term> terms, Index examples, const Bias& bias, S* results) {
    S* const panels = panels_.map(panel_size(), static_cast<Index>(terms.size())).data();
    S* into = panels;
    for (const Term& term : terms) {
      product_.pack(term.weights, into);
      into += panel_size();
    }
    // Enough work for it to be worth sharing.
    constexpr double kWork = 1e6;
    const Index step =
        std::clamp<Index>(static_cast<Index>(kWork / (product_.work() + 1)), 1, examples);
    parallel_for((examples + step - 1) / step, [&](Index part) {
      thread_local Buffer<S> memory;
      const Index planes_size = linalg::detail::aligned_size(product_.planes_size());
      S* const planes = memory.map(planes_size + product_.sums_size(), 1).data();
      S* const sums = planes + planes_size;
      const Index end = std::min(examples, (part + 1) * step);
      for (Index example = part * step; example < end; ++example) {
        const S* weights = panels;
        for (const Term& term : terms) {
          product_.copy(term.images + example * product_.image_size(), planes);
          product_.multiply(planes, weights, weights != panels, sums);
          weights += panel_size();
        }
        product_.write(sums, bias, results + example * product_.result_size());
      }
    });
  }

 private:
  Product product_;
  Buffer<S> panels_;
};

}  // namespace kfac::detail
