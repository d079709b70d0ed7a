#pragma once

#include <string>
#include <vector>

#include <kfac/curvature/kronecker_block.hpp>
#include <kfac/nn/layer.hpp>

namespace kfac {

/// Which of a network's announcements go into the factors.
template <RealScalar S>
struct Collection {
  enum class What {
    Nothing,
    LossGradients,  ///< gradients of the loss as it was reduced: `gradient_scale` says how
    Vectors,        ///< vectors without the reduction factor, each outer product times `weight`
  };
  What what = What::Nothing;
  S weight = 1;
};

/// The Kronecker blocks of one layer (one per group), fed by what the layer announces.
template <RealScalar S, class Inverse>
class LayerCurvature : public Observer<S> {
 public:
  using Block = KroneckerBlock<S, Inverse>;

  /// \pre layer.kronecker; `prototype` gives inputs, outputs, bias and name way to the layer's
  LayerCurvature(const LayerView<S>& layer, KroneckerBlockOptions<S> prototype,
                 const Inverse& inverse)
      : layer_(layer), gradient_scale_(prototype.gradient_scale) {
    const KroneckerStructure& structure = *layer.kronecker;
    prototype.inputs = structure.inputs;
    prototype.outputs = structure.outputs;
    prototype.bias = structure.bias;
    for (Index group = 0; group < structure.groups; ++group) {
      prototype.name = layer.name;
      if (structure.groups > 1) prototype.name += " group " + std::to_string(group);
      blocks_.emplace_back(prototype, inverse);
    }
    layer.hooks->attach(*this);
  }

  const LayerView<S>& layer() const { return layer_; }
  std::vector<Block>& blocks() { return blocks_; }
  const std::vector<Block>& blocks() const { return blocks_; }

  void collect(const Collection<S>& collection) { collection_ = collection; }

  void on_input(const std::string&, const SharedBatch<S>& input) override {
    // Whether this pass is more than an evaluation shows only when it comes back.
    input_ = input;
    has_input_ = true;
  }

  void on_output_gradient(const std::string&, const SharedBatch<S>& gradient) override {
    seen_gradient_ = true;
    if (collection_.what == Collection<S>::What::Nothing) return;
    S weight = collection_.weight;
    if (collection_.what == Collection<S>::What::LossGradients) {
      const S factor = gradient_scale_.factor(gradient.batch());
      scale_ = factor * static_cast<S>(gradient.batch());
      weight = S(1) / (factor * factor);
    }
    for (std::size_t group = 0; group < blocks_.size(); ++group) {
      Block& block = blocks_[group];
      const auto index = static_cast<Index>(group);
      if (has_input_) block.add_input(input_.features(index * block.inputs(), block.inputs()));
      block.add_output_gradient(gradient.features(index * block.outputs(), block.outputs()),
                                weight);
    }
    has_input_ = false;
  }

  /// Whether a backward pass came by since the last call.
  bool take_seen_gradient() { return std::exchange(seen_gradient_, false); }

  bool has_fresh_data() const { return blocks_.front().has_fresh_data(); }
  bool fresh_is_finite() const {
    for (const Block& block : blocks_)
      if (!block.fresh_is_finite()) return false;
    return true;
  }
  void discard() {
    for (Block& block : blocks_) block.discard();
  }
  /// With a scale of the loss, or that of the loss gradients collected.
  void commit(S scale) {
    for (Block& block : blocks_) block.commit(scale);
  }
  void commit() { commit(scale_); }

  bool refresh_inverse(S damping) {
    for (Block& block : blocks_)
      if (!block.refresh_inverse(damping)) return false;
    return true;
  }

  /// Multiplies the layer's gradient with the damped inverse, in place.
  void precondition() {
    S* data = layer_.gradient.data();
    for (Block& block : blocks_) {
      MatrixMap<S> gradient(data, block.outputs(), block.columns());
      block.precondition(gradient);
      data += gradient.size();
    }
  }

 private:
  LayerView<S> layer_;
  GradientScale<S> gradient_scale_;
  std::vector<Block> blocks_;
  Collection<S> collection_;
  SharedBatch<S> input_;
  bool has_input_ = false;
  bool seen_gradient_ = false;
  S scale_ = 1;
};

}  // namespace kfac
