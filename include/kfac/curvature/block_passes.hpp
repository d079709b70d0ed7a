#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <kfac/core/buffer.hpp>
#include <kfac/curvature/gathered_uses.hpp>
#include <kfac/curvature/parameter_block.hpp>

namespace kfac {

/// Passes through a network that show, for each block of its parameters, what the gradients of the
/// single examples are made of: an example's own gradient of a block is P_n = sum_s g_ns x_ns^T,
/// `outputs x columns`, over the positions s that share the weights, where x has a 1 appended if
/// there is a bias.
///
///     kfac::BlockPasses passes(model);
///     const auto& outputs = passes.forward(x, shape);
///     passes.backward(vectors, [&](std::size_t block, const auto& inputs, const auto& gradients) {
///       ...  // kfac::SharedBatch views, valid within the call
///     });
///
/// The network is evaluated without dropout, and no other observer hears of it. Between `forward`
/// and the last `backward` it must not be used otherwise; it must stay where it is.
template <class Model>
class BlockPasses {
 public:
  using Scalar = typename Model::Scalar;
  using Batch = SharedBatch<Scalar>;

  explicit BlockPasses(Model& model) : model_(model), blocks_(parameter_blocks(model)) {
    std::size_t first = 0;
    for (const LayerView<Scalar>& layer : model.layers()) {
      if (!layer.hooks) continue;
      listeners_.push_back(std::make_unique<Listener>(layer, first));
      layer.hooks->attach(*listeners_.back());
      if (layer.kronecker)
        first += static_cast<std::size_t>(layer.kronecker->groups);
      else
        ++first;
    }
  }

  Model& model() const { return model_; }
  const std::vector<ParameterBlock>& blocks() const { return blocks_; }

  /// The network's outputs, valid until its next pass. \throws ShapeError, ValueError as the
  /// network's `forward`
  ConstMatrixMap<Scalar> forward(const ConstMatrixRef<Scalar>& x, const Shape& shape) {
    const Listening listening(*this);
    is_ready_ = false;
    const ConstMatrixMap<Scalar> outputs = model_.forward(x, shape);
    is_ready_ = true;
    return outputs;
  }
  ConstMatrixMap<Scalar> forward(const ConstMatrixRef<Scalar>& x) {
    return forward(x, Shape{x.rows()});
  }

  /// What a block's weights were multiplied with in the last `forward` (a constant 1 for a layer
  /// that announces nothing), valid until the network's next pass. \pre `forward` before it
  /// \throws StateError if one of them depends on what goes back (`TiedEmbedding`)
  Batch inputs(std::size_t block) const {
    std::size_t i = listeners_.size() - 1;
    while (listeners_[i]->first_block > block) --i;
    if (!listeners_[i]->uses.has_all_inputs())
      raise<StateError>(
          "kfac::BlockPasses::inputs: the layer's transpose is used too, whose inputs come with "
          "backward, expected a layer that is only used forward (layer '" +
          blocks_[block].layer + "')");
    return listeners_[i]->input_of(block);
  }

  /// Calls `body(block, inputs, gradients)` for every block, given the gradient of anything with
  /// respect to the outputs (`outputs x examples`).
  /// \throws StateError before `forward`; ShapeError
  template <class Body>
  void backward(const ConstMatrixRef<Scalar>& grad_output, Body&& body) {
    if (!is_ready_)
      raise<StateError>("kfac::BlockPasses::backward: no forward pass before it, expected forward");
    const Listening listening(*this);
    const Receiver receiver(std::ref(body));
    for (const auto& listener : listeners_) listener->receiver = &receiver;
    model_.backward_hooks_only(grad_output);
  }

 private:
  using Receiver = std::function<void(std::size_t, const Batch&, const Batch&)>;

  /// Of one layer.
  struct Listener final : Observer<Scalar> {
    Listener(const LayerView<Scalar>& layer, std::size_t first)
        : hooks(layer.hooks), structure(layer.kronecker), first_block(first) {}

    void on_input(const std::string&, const Batch& announced) override {
      uses.add_input(announced);
    }
    void on_output_gradient(const std::string&, const Batch& announced) override {
      if (!receiver || !uses.add_gradient(announced)) return;
      const Batch& gradient = uses.gradient();
      for (Index group = 0; group < structure->groups; ++group) {
        const std::size_t block = first_block + static_cast<std::size_t>(group);
        (*receiver)(block, input_of(block),
                    gradient.features(group * structure->outputs, structure->outputs));
      }
    }
    Batch input_of(std::size_t block) const {
      if (!structure) return uses.input();
      const auto group = static_cast<Index>(block - first_block);
      return uses.input().features(group * structure->inputs, structure->inputs);
    }
    // A layer's own gradients are those of a map of the constant 1.
    bool wants_example_gradients() const override { return !structure && receiver; }
    void on_forward(const std::string& name, const Batch& pass) override {
      on_input(name, detail::ones_like(pass, ones));
    }
    void on_example_gradients(const std::string&, const Batch& announced) override {
      if (uses.add_gradient(announced)) (*receiver)(first_block, uses.input(), uses.gradient());
    }

    HookPoint<Scalar>* hooks;
    std::optional<KroneckerStructure> structure;
    std::size_t first_block;
    detail::GatheredUses<Scalar> uses;
    Buffer<Scalar> ones;
    const Receiver* receiver = nullptr;
  };

  /// While it lives, the network is evaluated for the listeners alone.
  class Listening {
   public:
    explicit Listening(BlockPasses& passes) : passes_(passes), evaluation_(passes.model_, true) {
      for (const auto& listener : passes.listeners_)
        listener->hooks->set_sole_observer(listener.get());
    }
    Listening(const Listening&) = delete;
    Listening& operator=(const Listening&) = delete;
    ~Listening() {
      for (const auto& listener : passes_.listeners_) {
        listener->receiver = nullptr;
        listener->hooks->set_sole_observer(nullptr);
      }
    }

   private:
    BlockPasses& passes_;
    Evaluation<Model> evaluation_;
  };

  Model& model_;
  std::vector<ParameterBlock> blocks_;
  std::vector<std::unique_ptr<Listener>> listeners_;
  bool is_ready_ = false;  // for a backward pass
};

}  // namespace kfac
