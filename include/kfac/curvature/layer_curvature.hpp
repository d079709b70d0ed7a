#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <kfac/curvature/block_factory.hpp>
#include <kfac/curvature/gathered_uses.hpp>

namespace kfac {

/// Which of a network's announcements go into the blocks.
template <RealScalar S>
struct Collection {
  enum class What {
    Nothing,
    LossGradients,  ///< gradients of the loss as it was reduced: `gradient_scale` says how
    Vectors,        ///< vectors without the reduction factor, each outer product times `weight`
  };
  What what = What::Nothing;
  S weight = 1;
  S fraction = 1;       ///< of each batch: its first examples, at least one
  bool factors = true;  ///< for factors
  bool moments = true;  ///< for second moments, of kinds that keep them apart
};

/// The curvature blocks of one layer (one per group), fed by what the layer announces.
template <RealScalar S>
class LayerCurvature : public Observer<S> {
 public:
  using Block = CurvatureBlock<S>;
  using Blocks = std::vector<std::unique_ptr<Block>>;

  /// Null if `factory` picks no block for the layer. `prototype` gives inputs, outputs, bias and
  /// name way to the layer's.
  static std::unique_ptr<LayerCurvature> make(const LayerView<S>& layer,
                                              const BlockOptions<S>& prototype,
                                              const BlockFactory<S>& factory) {
    Blocks blocks = make_blocks(layer, prototype, factory);
    if (blocks.empty()) return nullptr;
    return std::unique_ptr<LayerCurvature>(
        new LayerCurvature(layer, prototype.gradient_scale, std::move(blocks)));
  }

  const LayerView<S>& layer() const { return layer_; }
  Blocks& blocks() { return blocks_; }
  const Blocks& blocks() const { return blocks_; }

  /// Returns whether there is a use for what the network announces then.
  bool collect(const Collection<S>& collection) {
    collection_ = collection;
    bool wanted = false;
    for (const auto& block : blocks_)
      wanted = block->collect(collection.factors, collection.moments) || wanted;
    if (!wanted) collection_.what = Collection<S>::What::Nothing;
    return collection_.what != Collection<S>::What::Nothing;
  }
  /// Which positions of the coming batches are real; null: all. It concerns layers that share their
  /// weights over positions only.
  void set_mask(const PositionMask* mask) { mask_ = mask; }

  /// Between the two, no other observer of the layer hears anything.
  void listen_alone(const PositionMask* mask) {
    mask_ = mask;
    layer_.hooks->set_sole_observer(this);
  }
  void stop_listening() {
    layer_.hooks->set_sole_observer(nullptr);
    mask_ = nullptr;
    collect({});
    has_input_ = false;
  }

  void on_input(const std::string&, const SharedBatch<S>& input) override {
    // Whether this pass is more than an evaluation shows only when it comes back.
    uses_.add_input(input);
    has_input_ = true;
    if (input.use() == 0) is_new_ = true;
  }

  void on_output_gradient(const std::string&, const SharedBatch<S>& announced) override {
    seen_gradient_ = true;
    if (collection_.what == Collection<S>::What::Nothing) return;
    if (!uses_.add_gradient(announced)) return;
    add_input();
    const SharedBatch<S>& gradient = uses_.gradient();
    const S weight = weight_of(gradient);
    const SharedBatch<S> part = part_of(gradient);
    const SharedBatch<S> unpadded =
        used_mask_ ? detail::zeroed_padding(part, *used_mask_, padded_) : part;
    for_each_group([&](Block& block, Index group) {
      block.add_output_gradient(input_.features(group * block.inputs(), block.inputs()),
                                unpadded.features(group * block.outputs(), block.outputs()),
                                weight);
    });
  }

  bool wants_example_gradients() const override {
    return !layer_.kronecker && collection_.what != Collection<S>::What::Nothing;
  }
  /// A layer's own gradients are those of a map of the constant 1.
  void on_forward(const std::string& name, const SharedBatch<S>& pass) override {
    on_input(name, detail::ones_like(pass, ones_));
  }
  void on_example_gradients(const std::string& name, const SharedBatch<S>& gradients) override {
    on_output_gradient(name, gradients);
  }

  /// Takes the inputs of the last forward pass alone (forward-only curvature).
  void add_forward_only() {
    if (!collection_.factors) return;
    add_input();
    for_each_group([](Block& block, Index) { block.add_output_identity(); });
  }

  /// Whether a backward pass came by since the last call.
  bool take_seen_gradient() { return std::exchange(seen_gradient_, false); }

  bool has_fresh_data() const { return blocks_.front()->has_fresh_data(); }
  bool fresh_is_finite() const {
    for (const auto& block : blocks_)
      if (!block->fresh_is_finite()) return false;
    return true;
  }
  void discard() {
    for (const auto& block : blocks_) block->discard();
  }
  /// With a scale of the loss, or that of the loss gradients collected.
  void commit(S scale) {
    for (const auto& block : blocks_) block->commit(scale);
  }
  void commit() { commit(scale_); }

  /// As the blocks'.
  bool begin_pass(Index pass) {
    bool wanted = false;
    for (const auto& block : blocks_) wanted = block->begin_pass(pass) || wanted;
    return wanted;
  }

  void set_factor_decay(S decay) {
    for (const auto& block : blocks_) block->set_factor_decay(decay);
  }

  bool refresh_inverse(S damping) {
    for (const auto& block : blocks_)
      if (!block->refresh_inverse(damping)) return false;
    return true;
  }
  // Its parts, as the blocks'.
  void prepare_inverse(S damping) {
    for (const auto& block : blocks_) block->prepare_inverse(damping);
  }
  bool compute_inverse() {
    for (const auto& block : blocks_)
      if (!block->compute_inverse()) return false;
    return true;
  }
  void adopt_inverse() {
    for (const auto& block : blocks_) block->adopt_inverse();
  }
  /// Whether all blocks can.
  bool set_damping(S damping) {
    for (const auto& block : blocks_)
      if (!block->set_damping(damping)) return false;
    return true;
  }

  /// Multiplies the layer's gradient with the damped inverse, in place.
  void precondition() {
    for_each_part(layer_.gradient,
                  [](Block& block, MatrixRef<S> part) { block.precondition(part); });
  }
  /// As well; returns the inner product of the gradient and what became of it.
  S precondition_with_dot() {
    S dot = 0;
    for_each_part(layer_.gradient, [&](Block& block, MatrixRef<S> part) {
      dot += block.precondition_with_dot(part);
    });
    return dot;
  }
  /// Multiplies a vector of the layer's parameters with the undamped curvature, in place.
  void multiply(VectorMap<S> v) {
    for_each_part(v, [](Block& block, MatrixRef<S> part) { block.multiply(part); });
  }

  void visit_state(StateVisitor& visitor) {
    for_each_group([&](Block& block, Index group) { visitor.in(std::to_string(group), block); });
  }

 private:
  LayerCurvature(const LayerView<S>& layer, const GradientScale<S>& gradient_scale, Blocks blocks)
      : layer_(layer), gradient_scale_(gradient_scale), blocks_(std::move(blocks)) {
    layer.hooks->attach(*this);
  }

  static Blocks make_blocks(const LayerView<S>& layer, BlockOptions<S> options,
                            const BlockFactory<S>& factory) {
    Blocks blocks;
    if (!layer.hooks) return blocks;
    const KroneckerStructure structure =
        layer.kronecker.value_or(KroneckerStructure{1, layer.parameters.size(), false, 1});
    options.inputs = structure.inputs;
    options.outputs = structure.outputs;
    options.bias = structure.bias;
    options.units = layer.units;
    for (Index group = 0; group < structure.groups; ++group) {
      options.name = layer.name;
      if (structure.groups > 1) options.name += " group " + std::to_string(group);
      std::unique_ptr<Block> block = factory(layer, options);
      if (!block) return {};
      blocks.push_back(std::move(block));
    }
    return blocks;
  }

  template <class Body>
  void for_each_group(Body&& body) {
    for (std::size_t group = 0; group < blocks_.size(); ++group)
      body(*blocks_[group], static_cast<Index>(group));
  }

  /// Calls body(block, its part of a vector of the layer's parameters).
  template <class Body>
  void for_each_part(VectorMap<S> flat, Body&& body) {
    S* data = flat.data();
    for (const auto& block : blocks_) {
      MatrixMap<S> part(data, block->outputs(), block->columns());
      body(*block, part);
      data += part.size();
    }
  }

  /// The examples of a batch that count.
  Index part_of(Index examples) const {
    const auto count = std::ceil(collection_.fraction * static_cast<S>(examples));
    return std::clamp<Index>(static_cast<Index>(count), 1, examples);
  }
  SharedBatch<S> part_of(const SharedBatch<S>& batch) const {
    return batch.examples(0, part_of(batch.batch()));
  }
  PositionMask part_of(const PositionMask& mask) const {
    return mask.leftCols(part_of(mask.cols()));
  }

  /// Once a forward pass, unless the input depends on what comes back.
  void add_input() {
    if (!std::exchange(has_input_, false)) return;
    const SharedBatch<S>& input = uses_.input();
    used_mask_ = nullptr;
    const PositionMask* mask = mask_ ? mask_ : input.mask();
    if (mask && input.positions() > 1) {
      detail::check_mask("kfac::LayerCurvature", *mask, input.positions() / input.uses(),
                         input.batch());
      used_mask_ = mask;
      if (input.uses() > 1) used_mask_ = &(mask_part_ = mask->replicate(input.uses(), 1));
      if (collection_.fraction < 1) used_mask_ = &(mask_part_ = part_of(*used_mask_));
    }
    input_ = part_of(input);
    const bool is_new = std::exchange(is_new_, false);
    for_each_group([&](Block& block, Index group) {
      block.add_input(input_.features(group * block.inputs(), block.inputs()), used_mask_, is_new);
    });
  }

  S weight_of(const SharedBatch<S>& gradient) {
    if (collection_.what == Collection<S>::What::Vectors) return collection_.weight;
    const S factor = gradient_scale_.factor(gradient.batch());
    scale_ = factor * static_cast<S>(gradient.batch());
    return S(1) / (factor * factor);
  }

  LayerView<S> layer_;
  GradientScale<S> gradient_scale_;
  Blocks blocks_;
  Collection<S> collection_;
  const PositionMask* mask_ = nullptr;
  const PositionMask* used_mask_ = nullptr;  // the part of it that fits `input_`, once taken
  PositionMask mask_part_;
  detail::GatheredUses<S> uses_;
  SharedBatch<S> input_;    // the part of it that counts
  bool has_input_ = false;  // that the blocks have not seen,
  bool is_new_ = false;     // of examples that they have not counted
  bool seen_gradient_ = false;
  S scale_ = 1;
  Buffer<S> padded_, ones_;
};

}  // namespace kfac
