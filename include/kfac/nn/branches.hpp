#pragma once

#include <array>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <kfac/nn/any_layer.hpp>

namespace kfac::detail {

/// Where the output of a branch is.
struct BranchPlace {
  Shape shape;
  Index offset = 0;     ///< in the memory of outputs
  bool direct = false;  ///< it is written where all outputs are joined
};

/// Layers side by side, of known types.
template <Layer First, Layer... Rest>
class TupleBranches {
  static_assert((std::same_as<typename First::Scalar, typename Rest::Scalar> && ...),
                "the branches of a layer have one scalar type");

 public:
  using Scalar = typename First::Scalar;
  using Scratches = std::tuple<typename First::Scratch, typename Rest::Scratch...>;
  using Places = std::array<BranchPlace, 1 + sizeof...(Rest)>;
  static constexpr bool kTwiceDifferentiable =
      TwiceDifferentiableLayer<First> && (TwiceDifferentiableLayer<Rest> && ...);

  explicit TupleBranches(First first, Rest... rest)
      : slots_(Slot<First>(std::move(first)), Slot<Rest>(std::move(rest))...) {}

  static constexpr BlockNeeds block_needs() {
    return (block_needs_of<First>() | ... | block_needs_of<Rest>());
  }
  static constexpr std::size_t size() { return 1 + sizeof...(Rest); }
  static void resize(Places&) {}

  template <std::size_t I>
  auto& get() {
    return std::get<I>(slots_).layer();
  }
  template <std::size_t I>
  const auto& get() const {
    return std::get<I>(slots_).layer();
  }

  /// Calls `f(slot, index)` for each.
  template <class F>
  void visit(F&& f) {
    visit(f, slots_, Indices{});
  }
  template <class F>
  void visit(F&& f) const {
    visit(f, slots_, Indices{});
  }
  /// Calls `f(slot, its scratch, index)` for each.
  template <class F>
  void visit(Scratches& scratches, F&& f) {
    visit(f, slots_, scratches, Indices{});
  }
  template <class F>
  void visit(Scratches& scratches, F&& f) const {
    visit(f, slots_, scratches, Indices{});
  }

 private:
  using Indices = std::make_index_sequence<1 + sizeof...(Rest)>;

  template <class F, class Slots, std::size_t... I>
  static void visit(F& f, Slots& slots, std::index_sequence<I...>) {
    (f(std::get<I>(slots), I), ...);
  }
  template <class F, class Slots, std::size_t... I>
  static void visit(F& f, Slots& slots, Scratches& scratches, std::index_sequence<I...>) {
    (f(std::get<I>(slots), std::get<I>(scratches), I), ...);
  }

  std::tuple<Slot<First>, Slot<Rest>...> slots_;
};

/// As many as are given at run time.
template <RealScalar S>
class VectorBranches {
 public:
  using Scalar = S;
  using Scratches = std::vector<AnyScratch>;
  using Places = std::vector<BranchPlace>;
  static constexpr bool kTwiceDifferentiable = true;

  explicit VectorBranches(std::vector<AnyLayer<S>> layers) : layers_(std::move(layers)) {}

  static constexpr BlockNeeds block_needs() { return block_needs_of<AnyLayer<S>>(); }
  std::size_t size() const { return layers_.size(); }
  void resize(Places& places) const { places.resize(layers_.size()); }
  const AnyLayer<S>& get(std::size_t i) const { return layers_[i]; }

  template <class F>
  void visit(F&& f) {
    for (std::size_t i = 0; i < layers_.size(); ++i) f(layers_[i], i);
  }
  template <class F>
  void visit(F&& f) const {
    for (std::size_t i = 0; i < layers_.size(); ++i) f(layers_[i], i);
  }
  template <class F>
  void visit(Scratches& scratches, F&& f) {
    visit(layers_, scratches, f);
  }
  template <class F>
  void visit(Scratches& scratches, F&& f) const {
    visit(layers_, scratches, f);
  }

 private:
  template <class Layers, class F>
  static void visit(Layers& layers, Scratches& scratches, F& f) {
    scratches.resize(layers.size());
    for (std::size_t i = 0; i < layers.size(); ++i) f(layers[i], scratches[i], i);
  }

  std::vector<AnyLayer<S>> layers_;
};

}  // namespace kfac::detail
