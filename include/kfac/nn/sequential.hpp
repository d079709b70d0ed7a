#pragma once

#include <cstddef>
#include <tuple>
#include <utility>

#include <kfac/nn/chain.hpp>

namespace kfac {

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
    : public Chain<Sequential<First, Rest...>, typename First::Scalar,
                   std::tuple<typename First::Scratch, typename Rest::Scratch...>,
                   TwiceDifferentiableLayer<First> && (TwiceDifferentiableLayer<Rest> && ...)> {
  static_assert((std::same_as<typename First::Scalar, typename Rest::Scalar> && ...),
                "the layers of a network have one scalar type");

 public:
  explicit Sequential(First first, Rest... rest)
      : slots_(Slot<First>(std::move(first)), Slot<Rest>(std::move(rest))...) {
    this->rename("");
  }

  /// The i-th layer.
  template <std::size_t I>
  auto& layer() {
    return std::get<I>(slots_).layer();
  }

  static constexpr std::size_t slot_count() { return 1 + sizeof...(Rest); }

  template <class F>
  void visit_slots(F&& f) {
    visit(f, slots_, Indices{});
  }
  template <class F>
  void visit_slots(F&& f) const {
    visit(f, slots_, Indices{});
  }

  template <class Scratches, class F>
  void for_each_slot(Scratches& scratches, F&& f) const {
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      (f(std::get<I>(slots_), std::get<I>(scratches), I), ...);
    }
    (Indices{});
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

 private:
  using Indices = std::make_index_sequence<1 + sizeof...(Rest)>;

  template <class F, class Slots, std::size_t... I>
  static void visit(F& f, Slots& slots, std::index_sequence<I...>) {
    (f(std::get<I>(slots), I), ...);
  }

  std::tuple<Slot<First>, Slot<Rest>...> slots_;
};

}  // namespace kfac
