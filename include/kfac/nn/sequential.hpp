#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <tuple>
#include <utility>

#include <kfac/nn/chain.hpp>

namespace kfac {
namespace detail {

/// What a chain of layers of known types needs.
template <Layer... Layers>
struct ChainTypes {
  static constexpr std::array<MemoryUse, sizeof...(Layers)> kUses{memory_use_of<Layers>()...};
  static constexpr std::array<Placement, sizeof...(Layers)> kPlacements = [] {
    std::array<Placement, sizeof...(Layers)> result{};
    place_layers(kUses, result);
    return result;
  }();
  using Scratches = std::tuple<typename Layers::Scratch...>;
  using Places = std::array<Place, sizeof...(Layers)>;
};

/// Layers run one after another, held by value in a tuple.
template <class Derived, class Sizes, Layer First, Layer... Rest>
class TupleChain
    : public Chain<
          Derived, typename First::Scalar,
          ChainScratch<typename First::Scalar, typename ChainTypes<First, Rest...>::Scratches,
                       typename ChainTypes<First, Rest...>::Places, Sizes>,
          Sizes, TwiceDifferentiableLayer<First> && (TwiceDifferentiableLayer<Rest> && ...)> {
  static_assert((std::same_as<typename First::Scalar, typename Rest::Scalar> && ...),
                "the layers of a network have one scalar type");
  using Types = ChainTypes<First, Rest...>;

 public:
  /// The i-th layer.
  template <std::size_t I>
  auto& layer() {
    return std::get<I>(slots_).layer();
  }
  template <std::size_t I>
  const auto& layer() const {
    return std::get<I>(slots_).layer();
  }

  static constexpr std::size_t slot_count() { return 1 + sizeof...(Rest); }
  static constexpr const auto& placements() { return Types::kPlacements; }
  static constexpr MemoryUse memory_use() {
    return {InPlace::Never, reads_chain_output(Types::kUses, Types::kPlacements)};
  }
  static constexpr BlockNeeds block_needs() {
    return (block_needs_of<First>() | ... | block_needs_of<Rest>());
  }

  template <class F>
  void visit_slots(F&& f) {
    visit(f, slots_, Indices{});
  }
  template <class F>
  void visit_slots(F&& f) const {
    visit(f, slots_, Indices{});
  }

  template <class Scratches, class F>
  void for_each_slot(Scratches& scratches, F&& f) {
    visit(f, slots_, scratches, Indices{});
  }
  template <class Scratches, class F>
  void for_each_slot(Scratches& scratches, F&& f) const {
    visit(f, slots_, scratches, Indices{});
  }
  template <class Scratches, class F>
  void for_each_slot_reversed(Scratches& scratches, F&& f) const {
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      (f(std::get<sizeof...(Rest) - I>(slots_), std::get<sizeof...(Rest) - I>(scratches),
         sizeof...(Rest) - I),
       ...);
    }
    (Indices{});
  }

 protected:
  explicit TupleChain(First first, Rest... rest)
      : slots_(Slot<First>(std::move(first)), Slot<Rest>(std::move(rest))...) {
    this->rename("");
  }

 private:
  using Indices = std::make_index_sequence<1 + sizeof...(Rest)>;

  template <class F, class Slots, std::size_t... I>
  static void visit(F& f, Slots& slots, std::index_sequence<I...>) {
    (f(std::get<I>(slots), I), ...);
  }
  template <class F, class Slots, class Scratches, std::size_t... I>
  static void visit(F& f, Slots& slots, Scratches& scratches, std::index_sequence<I...>) {
    (f(std::get<I>(slots), std::get<I>(scratches), I), ...);
  }

  std::tuple<Slot<First>, Slot<Rest>...> slots_;
};

}  // namespace detail

/// Layers run one after another, held by value:
///
///     kfac::Rng rng(42);
///     kfac::Sequential model(kfac::Linear<float>(2, 32, rng), kfac::ReLU<float>{},
///                            kfac::Linear<float>(32, 2, rng));
///     const auto& outputs = model.forward(x);       // 2 x batch -> 2 x batch
///     model.backward(loss.gradient(outputs, y));    // model.gradient() is now the loss's
///
/// A Sequential is itself a layer. (A compiler may evaluate the arguments of a call in any order:
/// with braces, `Sequential model{...}`, layers draw from `rng` first to last everywhere.)
template <Layer First, Layer... Rest>
class Sequential
    : public detail::TupleChain<Sequential<First, Rest...>, RunTimeSizes, First, Rest...> {
 public:
  explicit Sequential(First first, Rest... rest)
      : detail::TupleChain<Sequential, RunTimeSizes, First, Rest...>(std::move(first),
                                                                     std::move(rest)...) {}
};

}  // namespace kfac
