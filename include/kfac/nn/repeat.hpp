#pragma once

#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include <kfac/nn/sequential.hpp>

namespace kfac {

/// Layers applied several times in a row with the same parameters, `y = f(f(...f(x)))`, as in
/// universal transformers or unrolled iterations. The layers keep the shape. Their Kronecker
/// factors are summed over the uses. \source Dehghani et al. 2019, Universal transformers, arXiv
/// 1807.03819
template <Layer... Layers>
class Repeat {
  using Block = Sequential<Layers...>;

 public:
  using Scalar = typename Block::Scalar;
  static constexpr bool kTwiceDifferentiable = Block::kTwiceDifferentiable;
  static const char* kind() { return "Repeat"; }

  /// Of each use: what its layers keep, and its output but for the last's.
  struct Scratch {
    struct Use {
      typename Block::Scratch block;
      Buffer<Scalar> output, tangent;
    };
    std::vector<Use> uses;
    std::array<Buffer<Scalar>, 2> flow, tangent_flow;
    Buffer<Scalar> gradient;  ///< of the parameters, by one use
  };

  /// \throws OptionError if `times` is below 1
  explicit Repeat(Index times, Layers... layers) : times_(times), block_(std::move(layers)...) {
    detail::check_option(times >= 1, "kfac::Repeat", "times", times, ">= 1");
  }

  Index times() const { return times_; }
  Block& block() { return block_; }
  const Block& block() const { return block_; }
  Index parameter_count() const { return block_.parameter_count(); }

  static constexpr MemoryUse memory_use() {
    return {InPlace::Never, Block::memory_use().reads_output};
  }
  static constexpr BlockNeeds block_needs() { return Block::block_needs(); }

  Shape output_shape(const Shape& shape) const {
    const Shape result = block_.output_shape(shape);
    if (!(result == shape))
      detail::naming_layer(name_, [&] {
        raise<ShapeError>("kfac::Repeat: the layers' output has shape " + result.to_string() +
                          ", expected that of their input, " + shape.to_string());
      });
    return shape;
  }

  WorkspaceSize scratch_size(const Shape& shape, Index examples, const Mode& mode) const {
    const WorkspaceSize one = block_.scratch_size(shape, examples, inner(mode, 0));
    const Index numbers = shape.size() * examples;
    WorkspaceSize size{.activations = times_ * one.activations + (times_ - 1) * numbers,
                       .gradients = times_ * one.gradients,
                       .scratch = times_ * one.scratch};
    if (times_ > 1) {
      size.gradients += std::min<Index>(times_ - 1, 2) * numbers;
      size.scratch += parameter_count();
    }
    return size;
  }

  void forward(const ConstBatchView<Scalar>& x, BatchView<Scalar> y, Scratch& scratch,
               const Mode& mode) const {
    scratch.uses.resize(static_cast<std::size_t>(times_));
    for (Index k = 0; k < times_; ++k) {
      const BatchView<Scalar> into = k + 1 < times_ ? like(x, use(scratch, k).output) : y;
      block_.forward(input(x, scratch, k), into, use(scratch, k).block, inner(mode, k));
    }
  }

  void backward(const ConstBatchView<Scalar>& x, const ConstBatchView<Scalar>& y,
                const ConstBatchView<Scalar>& grad_output, BatchView<Scalar>* grad_input,
                VectorMap<Scalar>* grad_parameters, Scratch& scratch, const Mode& mode) const {
    const Scalar* incoming = grad_output.values.data();
    VectorMap<Scalar> own = own_gradient(grad_parameters, scratch);
    for (Index k = times_ - 1; k >= 0; --k) {
      BatchView<Scalar> outgoing = flow(x, scratch.flow, k);
      block_.backward(input(x, scratch, k), output(x, y, scratch, k), view(x, incoming),
                      k > 0 ? &outgoing : grad_input,
                      grad_parameters && k + 1 < times_ ? &own : grad_parameters,
                      use(scratch, k).block, inner(mode, k));
      add(grad_parameters, scratch, k);
      incoming = outgoing.values.data();
    }
  }

  void tangent(const ConstBatchView<Scalar>& x, const ConstBatchView<Scalar>& y,
               const ConstBatchView<Scalar>* x_tangent,
               const ConstVectorMap<Scalar>* parameter_tangent, BatchView<Scalar> y_tangent,
               Scratch& scratch) const {
    keep_tangents(x, y, x_tangent, parameter_tangent, scratch);
    const Along along(*this, x, x_tangent, scratch, times_ - 1);
    block_.tangent(input(x, scratch, times_ - 1), y, along.get(), parameter_tangent, y_tangent,
                   use(scratch, times_ - 1).block);
  }

  void backward_tangent(const ConstBatchView<Scalar>& x, const ConstBatchView<Scalar>& y,
                        const ConstBatchView<Scalar>& grad_output,
                        const ConstBatchView<Scalar>* x_tangent,
                        const ConstVectorMap<Scalar>* parameter_tangent,
                        const ConstBatchView<Scalar>& grad_output_tangent,
                        BatchView<Scalar>* grad_input_tangent,
                        VectorMap<Scalar>* grad_parameters_tangent,
                        Scratch& scratch) const requires kTwiceDifferentiable {
    keep_tangents(x, y, x_tangent, parameter_tangent, scratch);
    const Scalar* incoming = grad_output.values.data();
    const Scalar* incoming_tangent = grad_output_tangent.values.data();
    VectorMap<Scalar> own = own_gradient(grad_parameters_tangent, scratch);
    for (Index k = times_ - 1; k >= 0; --k) {
      const Along along(*this, x, x_tangent, scratch, k);
      BatchView<Scalar> outgoing_tangent = flow(x, scratch.tangent_flow, k);
      block_.backward_tangent(
          input(x, scratch, k), output(x, y, scratch, k), view(x, incoming), along.get(),
          parameter_tangent, view(x, incoming_tangent),
          k > 0 ? &outgoing_tangent : grad_input_tangent,
          grad_parameters_tangent && k + 1 < times_ ? &own : grad_parameters_tangent,
          use(scratch, k).block);
      add(grad_parameters_tangent, scratch, k);
      incoming_tangent = outgoing_tangent.values.data();
      if (k == 0) break;
      BatchView<Scalar> outgoing = flow(x, scratch.flow, k);
      block_.backward(input(x, scratch, k), output(x, y, scratch, k), view(x, incoming), &outgoing,
                      nullptr, use(scratch, k).block, Mode{false, false});
      incoming = outgoing.values.data();
    }
  }

  void visit_scratch(StateVisitor& visitor, Scratch& scratch) const {
    scratch.uses.resize(static_cast<std::size_t>(times_));
    for (Index k = 0; k < times_; ++k)
      visitor.under(std::to_string(k) + '/',
                    [&] { block_.visit_scratch(visitor, use(scratch, k).block); });
  }
  void absorb(Scratch& scratch) {
    for (auto& one : scratch.uses) block_.absorb(one.block);
  }
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
  using Use = typename Scratch::Use;

  static Use& use(Scratch& scratch, Index k) { return scratch.uses[static_cast<std::size_t>(k)]; }
  /// What a use leaves must stay until the first has gone back.
  Mode inner(const Mode& mode, Index k) const {
    Mode result = mode.of_use(k, times_);
    result.once = mode.once && times_ == 1;
    return result;
  }

  static ConstBatchView<Scalar> view(const ConstBatchView<Scalar>& like, const Scalar* data) {
    return {{data, like.values.rows(), like.values.cols()}, like.shape};
  }
  static BatchView<Scalar> like(const ConstBatchView<Scalar>& x, Buffer<Scalar>& buffer) {
    return {buffer.map(x.values.rows(), x.values.cols()), x.shape};
  }
  /// Where the gradient of the k-th use's input goes.
  BatchView<Scalar> flow(const ConstBatchView<Scalar>& x, std::array<Buffer<Scalar>, 2>& buffers,
                         Index k) const {
    auto& buffer = buffers[static_cast<std::size_t>(k % 2)];
    return k > 0 ? like(x, buffer) : BatchView<Scalar>{{nullptr, 0, 0}, x.shape};
  }
  ConstBatchView<Scalar> input(const ConstBatchView<Scalar>& x, Scratch& scratch, Index k) const {
    return k > 0 ? view(x, use(scratch, k - 1).output.data()) : x;
  }
  ConstBatchView<Scalar> output(const ConstBatchView<Scalar>& x, const ConstBatchView<Scalar>& y,
                                Scratch& scratch, Index k) const {
    return k + 1 < times_ ? view(x, use(scratch, k).output.data()) : y;
  }

  /// The tangents of all outputs but the last.
  void keep_tangents(const ConstBatchView<Scalar>& x, const ConstBatchView<Scalar>& y,
                     const ConstBatchView<Scalar>* x_tangent,
                     const ConstVectorMap<Scalar>* parameter_tangent, Scratch& scratch) const {
    for (Index k = 0; k + 1 < times_; ++k) {
      const Along along(*this, x, x_tangent, scratch, k);
      block_.tangent(input(x, scratch, k), output(x, y, scratch, k), along.get(), parameter_tangent,
                     like(x, use(scratch, k).tangent), use(scratch, k).block);
    }
  }
  /// The tangent of the k-th use's input.
  class Along {
   public:
    Along(const Repeat& repeat, const ConstBatchView<Scalar>& x,
          const ConstBatchView<Scalar>* x_tangent, Scratch& scratch, Index k)
        : kept_(repeat.view(x, k > 0 ? use(scratch, k - 1).tangent.data() : nullptr)),
          along_(k > 0 ? &kept_ : x_tangent) {}
    Along(const Along&) = delete;
    Along& operator=(const Along&) = delete;
    ~Along() = default;
    const ConstBatchView<Scalar>* get() const { return along_; }

   private:
    ConstBatchView<Scalar> kept_;
    const ConstBatchView<Scalar>* along_;
  };

  /// Where the gradient of the parameters by one use is made, to be added: all but the last use's,
  /// which comes first.
  VectorMap<Scalar> own_gradient(const VectorMap<Scalar>* sum, Scratch& scratch) const {
    const Index size = sum && times_ > 1 ? sum->size() : 0;
    return {scratch.gradient.map(size, 1).data(), size};
  }
  void add(VectorMap<Scalar>* sum, Scratch& scratch, Index k) const {
    if (sum && k + 1 < times_) *sum += ConstVectorMap<Scalar>(scratch.gradient.data(), sum->size());
  }

  Index times_;
  Block block_;
  std::string name_;
};

}  // namespace kfac
