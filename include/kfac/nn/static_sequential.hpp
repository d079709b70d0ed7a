#pragma once

#include <concepts>
#include <type_traits>

#include <kfac/nn/sequential.hpp>

namespace kfac {
namespace detail {

/// The sizes of a network that is given at most `MaxBatch` vectors at once.
template <Index MaxBatch, class First, class... Rest>
struct CompileTimeSizes {
  static constexpr std::size_t kCount = 1 + sizeof...(Rest);
  /// Of an example, before the first layer and after each.
  static constexpr std::array<Index, kCount + 1> kWidths = [] {
    std::array<Index, kCount + 1> widths{First::kInputs};
    std::size_t i = 0;
    ((widths[i + 1] = First::output_size(widths[i]), ++i));
    ((widths[i + 1] = Rest::output_size(widths[i]), ++i), ...);
    return widths;
  }();

  static constexpr Index kInput = kWidths.front() * MaxBatch;
  static constexpr Index kOutput = kWidths.back() * MaxBatch;
  static constexpr int kParameters = (First::kParameters + ... + Rest::kParameters);
  static constexpr Index kActivations = [] {
    Index sum = 0;
    for (std::size_t i = 0; i < kCount; ++i) {
      const Placement& placement = ChainTypes<First, Rest...>::kPlacements[i];
      if (placement.output == Placement::Memory::Own && !placement.forward_in_place)
        sum += padded(kWidths[i + 1] * MaxBatch);
    }
    return sum;
  }();
  static constexpr Index kFlow = [] {
    Index largest = 0;
    for (std::size_t i = 0; i + 1 < kCount; ++i)
      largest = std::max(largest, kWidths[i + 1] * MaxBatch);
    return largest;
  }();
};

}  // namespace detail

/// A layer whose type says how many outputs an example with so many inputs has
/// (`output_size(inputs)`), and how many parameters it has at most (`kParameters`).
template <class L>
concept SizedLayer = Layer<L> && requires {
  std::integral_constant<Index, L::output_size(1)>{};
  std::integral_constant<int, L::kParameters>{};
};

/// A Sequential of layers whose sizes are template arguments, for batches of at most `MaxBatch`
/// vectors (as many tokens, where an example is several): all its memory is in the object, and it
/// never allocates any.
///
///     auto model = kfac::static_sequential<64>(kfac::Linear<float, 2, 32>(rng),
///                                              kfac::ReLU<float>{},
///                                              kfac::Linear<float, 32, 2>(rng));
///
/// (`layers()`, which makes a list, and `backward_tangent` do.) It is used like a Sequential; a
/// larger batch is a ShapeError.
template <Index MaxBatch, SizedLayer First, SizedLayer... Rest>
  requires(MaxBatch >= 1 && First::kInputs >= 1)
class StaticSequential
    : public detail::TupleChain<StaticSequential<MaxBatch, First, Rest...>,
                                detail::CompileTimeSizes<MaxBatch, First, Rest...>, First,
                                Rest...> {
  using Base =
      detail::TupleChain<StaticSequential, detail::CompileTimeSizes<MaxBatch, First, Rest...>,
                         First, Rest...>;

 public:
  explicit StaticSequential(First first, Rest... rest)
      : Base(std::move(first), std::move(rest)...) {}
};

/// The network of the given layers. (As with Sequential, braces give the layers' order to what they
/// draw: `StaticSequential<64, ...>{...}`.)
template <Index MaxBatch, SizedLayer... Layers>
StaticSequential<MaxBatch, Layers...> static_sequential(Layers... layers) {
  return StaticSequential<MaxBatch, Layers...>(std::move(layers)...);
}

}  // namespace kfac
