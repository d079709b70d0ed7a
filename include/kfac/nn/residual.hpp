#pragma once

#include <string>
#include <utility>
#include <vector>

#include <kfac/nn/sequential.hpp>

namespace kfac {

/// A skip around a block: y = x + block(x), where the block (its layers in order) keeps the shape.
template <Layer... Layers>
class Residual {
  using Block = Sequential<Layers...>;

 public:
  using Scalar = typename Block::Scalar;
  struct Scratch {
    typename Block::Scratch block;
    Buffer<Scalar> output;  ///< of the block, if its passes read it
  };

  static const char* kind() { return "Residual"; }

  explicit Residual(Layers... layers) : block_(std::move(layers)...) {}

  Block& block() { return block_; }
  const Block& block() const { return block_; }
  Index parameter_count() const { return block_.parameter_count(); }

  static constexpr MemoryUse memory_use() { return {InPlace::Never, false}; }
  static constexpr BlockNeeds block_needs() { return Block::block_needs(); }

  Shape output_shape(const Shape& shape) const {
    const Shape result = block_.output_shape(shape);
    if (!(result == shape))
      detail::naming_layer(name_, [&] {
        raise<ShapeError>("kfac::Residual: the block's output has shape " + result.to_string() +
                          ", expected that of its input, " + shape.to_string());
      });
    return shape;
  }

  WorkspaceSize scratch_size(const Shape& shape, Index examples, const Mode& mode) const {
    WorkspaceSize size = block_.scratch_size(shape, examples, mode);
    if constexpr (kKeepsOutput) size.activations += shape.size() * examples;
    return size;
  }

  void forward(const ConstBatchView<Scalar>& x, BatchView<Scalar> y, Scratch& scratch,
               const Mode& mode) const {
    if constexpr (kKeepsOutput) {
      BatchView<Scalar> output{scratch.output.map(x.values.rows(), x.values.cols()), x.shape};
      block_.forward(x, output, scratch.block, mode);
      y.values = x.values + output.values;
    } else {
      block_.forward(x, y, scratch.block, mode);
      y.values += x.values;
    }
  }

  void backward(const ConstBatchView<Scalar>& x, const ConstBatchView<Scalar>& y,
                const ConstBatchView<Scalar>& grad_output, BatchView<Scalar>* grad_input,
                VectorMap<Scalar>* grad_parameters, Scratch& scratch, const Mode& mode) const {
    block_.backward(x, block_output(x, y, scratch), grad_output, grad_input, grad_parameters,
                    scratch.block, mode);
    if (grad_input) grad_input->values += grad_output.values;
  }

  void tangent(const ConstBatchView<Scalar>& x, const ConstBatchView<Scalar>& y,
               const ConstBatchView<Scalar>* x_tangent,
               const ConstVectorMap<Scalar>* parameter_tangent, BatchView<Scalar> y_tangent,
               Scratch& scratch) const {
    block_.tangent(x, block_output(x, y, scratch), x_tangent, parameter_tangent, y_tangent,
                   scratch.block);
    if (x_tangent) y_tangent.values += x_tangent->values;
  }

  void backward_tangent(const ConstBatchView<Scalar>& x, const ConstBatchView<Scalar>& y,
                        const ConstBatchView<Scalar>& grad_output,
                        const ConstBatchView<Scalar>* x_tangent,
                        const ConstVectorMap<Scalar>* parameter_tangent,
                        const ConstBatchView<Scalar>& grad_output_tangent,
                        BatchView<Scalar>* grad_input_tangent,
                        VectorMap<Scalar>* grad_parameters_tangent,
                        Scratch& scratch) const requires Block::kTwiceDifferentiable {
    block_.backward_tangent(x, block_output(x, y, scratch), grad_output, x_tangent,
                            parameter_tangent, grad_output_tangent, grad_input_tangent,
                            grad_parameters_tangent, scratch.block);
    if (grad_input_tangent) grad_input_tangent->values += grad_output_tangent.values;
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
  static constexpr bool kKeepsOutput = Block::memory_use().reads_output;

  /// The block's output, where its passes read it; else anything like it.
  static ConstBatchView<Scalar> block_output(const ConstBatchView<Scalar>& x,
                                             const ConstBatchView<Scalar>& y, Scratch& scratch) {
    if constexpr (kKeepsOutput)
      return {{scratch.output.data(), x.values.rows(), x.values.cols()}, x.shape};
    else
      return y;
  }

  Block block_;
  std::string name_;
};

}  // namespace kfac
