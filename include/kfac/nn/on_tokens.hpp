#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <kfac/nn/sequential.hpp>

namespace kfac {

/// Some of the tokens of `{tokens, ...}` alone, passed through layers in order: a `count` of them
/// from `first` on; with a count of 0, all that follow. What the layers make of them is the output:
///
///     // Of 8 queries and the memory after them: x + attention(norm(x)) of the queries.
///     kfac::Add(kfac::OnTokens(0, 8, kfac::Identity<float>{}),
///               kfac::Sequential(kfac::LayerNorm<float>(32), std::move(cross_attention)));
///
/// The layers see the mask of their tokens.
template <Layer... Layers>
class OnTokens {
  using Block = Sequential<Layers...>;

 public:
  using Scalar = typename Block::Scalar;
  struct Scratch {
    typename Block::Scratch block;
    Buffer<Scalar> input;     ///< the tokens
    Buffer<Scalar> gradient;  ///< theirs, or its tangent
    Buffer<Scalar> tangent;
    PositionMask mask;
  };

  static const char* kind() { return "OnTokens"; }

  /// \throws OptionError if `first` or `count` is below 0
  OnTokens(Index first, Index count, Layers... layers)
      : first_(first), count_(count), block_(std::move(layers)...) {
    detail::check_option(first >= 0, "kfac::OnTokens", "first", first, ">= 0");
    detail::check_option(count >= 0, "kfac::OnTokens", "count", count, ">= 0");
  }

  Index first() const { return first_; }
  Index count() const { return count_; }
  Block& block() { return block_; }
  const Block& block() const { return block_; }
  Index parameter_count() const { return block_.parameter_count(); }

  static constexpr MemoryUse memory_use() {
    return {InPlace::Never, Block::memory_use().reads_output};
  }
  static constexpr BlockNeeds block_needs() { return Block::block_needs(); }

  Shape output_shape(const Shape& shape) const {
    const Index least = first_ + (count_ > 0 ? count_ : 1);
    if (shape.rank() < 2 || shape[0] < least)
      detail::naming_layer(name_, [&] {
        raise<ShapeError>("kfac::OnTokens: 'input' has shape " + shape.to_string() +
                          ", expected at least " + std::to_string(least) + " tokens x features");
      });
    return block_.output_shape(part_of(shape));
  }

  WorkspaceSize scratch_size(const Shape& shape, Index examples, const Mode& mode) const {
    WorkspaceSize size = block_.scratch_size(part_of(shape), examples, mode);
    size.activations += part_of(shape).size() * examples;
    size.gradients += part_of(shape).size() * examples;
    return size;
  }

  /// \throws ShapeError if a mask of the input's tokens has not as many examples
  void forward(const ConstBatchView<Scalar>& x, BatchView<Scalar> y, Scratch& scratch,
               const Mode& mode) const {
    block_.forward(copy_of_part(x, scratch.input), y, scratch.block, mode_of(mode, x, scratch));
  }

  void backward(const ConstBatchView<Scalar>& x, const ConstBatchView<Scalar>& y,
                const ConstBatchView<Scalar>& grad_output, BatchView<Scalar>* grad_input,
                VectorMap<Scalar>* grad_parameters, Scratch& scratch, const Mode& mode) const {
    const ConstBatchView<Scalar> input = part_like(x, scratch.input);
    BatchView<Scalar> gradient = part_like(x, scratch.gradient);
    block_.backward(input, y, grad_output, grad_input ? &gradient : nullptr, grad_parameters,
                    scratch.block, mode_of(mode, x, scratch));
    if (grad_input) put_back(gradient, *grad_input);
  }

  void tangent(const ConstBatchView<Scalar>& x, const ConstBatchView<Scalar>& y,
               const ConstBatchView<Scalar>* x_tangent,
               const ConstVectorMap<Scalar>* parameter_tangent, BatchView<Scalar> y_tangent,
               Scratch& scratch) const {
    const ConstBatchView<Scalar> along =
        x_tangent ? copy_of_part(*x_tangent, scratch.tangent) : part_like(x, scratch.input);
    block_.tangent(part_like(x, scratch.input), y, x_tangent ? &along : nullptr, parameter_tangent,
                   y_tangent, scratch.block);
  }

  void backward_tangent(const ConstBatchView<Scalar>& x, const ConstBatchView<Scalar>& y,
                        const ConstBatchView<Scalar>& grad_output,
                        const ConstBatchView<Scalar>* x_tangent,
                        const ConstVectorMap<Scalar>* parameter_tangent,
                        const ConstBatchView<Scalar>& grad_output_tangent,
                        BatchView<Scalar>* grad_input_tangent,
                        VectorMap<Scalar>* grad_parameters_tangent,
                        Scratch& scratch) const requires Block::kTwiceDifferentiable {
    const ConstBatchView<Scalar> along =
        x_tangent ? copy_of_part(*x_tangent, scratch.tangent) : part_like(x, scratch.input);
    BatchView<Scalar> gradient = part_like(x, scratch.gradient);
    block_.backward_tangent(part_like(x, scratch.input), y, grad_output,
                            x_tangent ? &along : nullptr, parameter_tangent, grad_output_tangent,
                            grad_input_tangent ? &gradient : nullptr, grad_parameters_tangent,
                            scratch.block);
    if (grad_input_tangent) put_back(gradient, *grad_input_tangent);
  }

  void visit_scratch(StateVisitor& visitor, Scratch& scratch) const {
    block_.visit_scratch(visitor, scratch.block);
  }
  void absorb(Scratch& scratch) { block_.absorb(scratch.block); }
  void visit_buffers(StateVisitor& visitor) { block_.visit_buffers(visitor); }

  void rename(const std::string& name) {
    name_ = name;
    block_.rename(name);
  }
  void append_layers(Scalar* gradient, std::vector<LayerView<Scalar>>& views) {
    block_.append_layers(gradient, views);
  }
  void append_layer_sizes(std::vector<Index>& sizes) const { block_.append_layer_sizes(sizes); }

 private:
  Index count_of(Index tokens) const { return count_ > 0 ? count_ : tokens - first_; }
  Shape part_of(const Shape& shape) const {
    Shape part{count_of(shape[0])};
    for (int axis = 1; axis < shape.rank(); ++axis) part.push_back(shape[axis]);
    return part;
  }

  /// The tokens of a batch like `x`, in `buffer`.
  BatchView<Scalar> part_like(const ConstBatchView<Scalar>& x, Buffer<Scalar>& buffer) const {
    const Shape part = part_of(x.shape);
    return {buffer.map(part.size(), x.examples()), part};
  }
  BatchView<Scalar> copy_of_part(const ConstBatchView<Scalar>& x, Buffer<Scalar>& buffer) const {
    BatchView<Scalar> part = part_like(x, buffer);
    part.values = x.values.middleRows(first_row(x.shape), part.values.rows());
    return part;
  }
  /// Into a gradient that is 0 elsewhere.
  void put_back(const BatchView<Scalar>& part, BatchView<Scalar>& gradient) const {
    gradient.values.setZero();
    gradient.values.middleRows(first_row(gradient.shape), part.values.rows()) = part.values;
  }
  Index first_row(const Shape& shape) const { return first_ * (shape.size() / shape[0]); }

  /// A mask of other positions than the input's tokens is for other layers.
  Mode mode_of(const Mode& mode, const ConstBatchView<Scalar>& x, Scratch& scratch) const {
    const Index tokens = x.shape[0];
    if (!mode.mask || mode.mask->rows() != tokens * mode.joined) return mode;
    detail::naming_layer(name_, [&] {
      detail::check_size("kfac::OnTokens", "mask", mode.mask->cols() * mode.joined, x.examples(),
                         "examples");
    });
    const Index count = count_of(tokens);
    scratch.mask.resize(count * mode.joined, mode.mask->cols());
    for (Index n = 0; n < x.examples(); ++n)
      std::copy_n(mode.mask->data() + n * tokens + first_, count, scratch.mask.data() + n * count);
    Mode part = mode;
    part.mask = &scratch.mask;
    return part;
  }

  Index first_;
  Index count_;
  Block block_;
  std::string name_;
};

}  // namespace kfac
