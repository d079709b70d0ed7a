#pragma once

#include <string>
#include <utility>
#include <vector>

#include <kfac/nn/any_layer.hpp>
#include <kfac/nn/chain.hpp>

namespace kfac {

/// Layers run one after another, chosen at run time, such as by a file:
///
///     kfac::DynamicSequential<float> model;
///     for (const kfac::Index width : widths) {
///       model.push_back(kfac::Linear<float>(inputs, width, rng));
///       model.push_back(kfac::ReLU<float>{});
///       inputs = width;
///     }
///
/// It is used like a Sequential, is itself a layer, and costs one virtual call a layer and pass
/// more. Adding a layer ends the validity of `layers()`, and of what a workspace holds of a forward
/// pass.
template <RealScalar S>
class DynamicSequential
    : public Chain<
          DynamicSequential<S>, S,
          ChainScratch<S, std::vector<AnyScratch>, std::vector<detail::Place>, RunTimeSizes>,
          RunTimeSizes, true> {
  using Base =
      Chain<DynamicSequential, S,
            ChainScratch<S, std::vector<AnyScratch>, std::vector<detail::Place>, RunTimeSizes>,
            RunTimeSizes, true>;

 public:
  DynamicSequential() = default;
  explicit DynamicSequential(std::vector<AnyLayer<S>> layers) : layers_(std::move(layers)) {
    rename("");
    place();
  }

  void push_back(AnyLayer<S> layer) {
    layers_.push_back(std::move(layer));
    rename(name_);
    place();
    this->workspace().examples = 0;
  }

  /// The i-th layer, to look at: to change one, make a network of changed copies. \pre i < size()
  const AnyLayer<S>& layer(std::size_t i) const { return layers_[i]; }
  std::size_t size() const { return layers_.size(); }
  bool empty() const { return layers_.empty(); }

  /// \throws StateError if there are no layers; ShapeError if one cannot take what reaches it
  Shape output_shape(const Shape& shape) const {
    if (empty()) raise<StateError>("kfac::DynamicSequential: used without any layer");
    return Base::output_shape(shape);
  }

  void rename(const std::string& name) {
    name_ = name;
    Base::rename(name);
  }

  static constexpr BlockNeeds block_needs() { return AnyLayer<S>::block_needs(); }
  std::size_t slot_count() const { return layers_.size(); }
  const std::vector<detail::Placement>& placements() const { return placements_; }
  MemoryUse memory_use() const {
    return {InPlace::Never, detail::reads_chain_output(uses(), placements_)};
  }

  template <class F>
  void visit_slots(F&& f) {
    for (std::size_t i = 0; i < layers_.size(); ++i) f(layers_[i], i);
  }
  template <class F>
  void visit_slots(F&& f) const {
    for (std::size_t i = 0; i < layers_.size(); ++i) f(layers_[i], i);
  }

  template <class F>
  void for_each_slot(std::vector<AnyScratch>& scratches, F&& f) {
    scratches.resize(layers_.size());
    for (std::size_t i = 0; i < layers_.size(); ++i) f(layers_[i], scratches[i], i);
  }
  template <class F>
  void for_each_slot(std::vector<AnyScratch>& scratches, F&& f) const {
    scratches.resize(layers_.size());
    for (std::size_t i = 0; i < layers_.size(); ++i) f(layers_[i], scratches[i], i);
  }
  template <class F>
  void for_each_slot_reversed(std::vector<AnyScratch>& scratches, F&& f) const {
    for (std::size_t i = layers_.size(); i-- > 0;) f(layers_[i], scratches[i], i);
  }

 private:
  std::vector<MemoryUse> uses() const {
    std::vector<MemoryUse> result;
    for (const AnyLayer<S>& layer : layers_) result.push_back(layer.memory_use());
    return result;
  }
  void place() {
    placements_.resize(layers_.size());
    detail::place_layers(uses(), placements_);
  }

  std::vector<AnyLayer<S>> layers_;
  std::vector<detail::Placement> placements_;
  std::string name_;
};

}  // namespace kfac
