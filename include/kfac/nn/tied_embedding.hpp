#pragma once

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <kfac/nn/embedding.hpp>
#include <kfac/nn/linear_products.hpp>
#include <kfac/nn/sequential.hpp>

namespace kfac {

/// A language model whose output weights are those of its embedding: `{tokens}` of ids to
/// `{tokens, vocabulary}` of logits, `W^T h`, where h is what the layers make of the embedded
/// tokens (they keep the shape `{tokens, features}`).
///
///     kfac::TiedEmbedding model_body(kfac::Embedding<float>({.vocabulary = 96, .features = 64},
///     rng),
///                                    kfac::LearnedPositions<float>(...), ...);
///     kfac::Sequential model(std::move(model_body));
///
/// The gradient of W is that of both uses, and so are its curvature blocks. Those made of the
/// examples' own gradients (full, diagonal, EKFAC's moments) are exact. The second use is of the
/// transpose, d logits: it adds d d^T to the factor on the vocabulary's side and h h^T to that on
/// the features' side, d scaled to the mean square 1 that one-hot tokens have, and h by the
/// inverse: so a Kronecker product of sums of factors has the trace of the sum of the Kronecker
/// products. The vocabulary's factor is dense then; for a large one, give this layer a
/// `DiagonalInputBlock`. \source Press and Wolf 2017, Using the output embedding to improve
/// language models,
///         arXiv 1608.05859
template <RealScalar S, Layer... Layers>
class TiedEmbedding {
  using Block = Sequential<Layers...>;

 public:
  using Scalar = S;
  static constexpr bool kTwiceDifferentiable = Block::kTwiceDifferentiable;
  static const char* kind() { return "TiedEmbedding"; }

  struct Scratch {
    typename Embedding<S>::Scratch embedding;
    typename Block::Scratch block;
    Buffer<S> embedded, hidden;                  ///< what goes into the block and comes out
    Buffer<S> hidden_gradient, gradient;         ///< of these
    Buffer<S> embedded_tangent, hidden_tangent;  ///< likewise, tangents
    Buffer<S> hidden_gradient_tangent, gradient_tangent;
    Buffer<S> announced_input, announced_gradient;  ///< scaled
  };

  explicit TiedEmbedding(Embedding<S> embedding, Layers... layers)
      : embedding_(std::move(embedding)), block_(std::move(layers)...) {
    rename("");
  }

  Embedding<S>& embedding() { return embedding_.layer(); }
  const Embedding<S>& embedding() const { return embedding_.layer(); }
  Block& block() { return block_; }
  const Block& block() const { return block_; }
  Index parameter_count() const { return embedding_.parameter_count() + block_.parameter_count(); }

  static constexpr MemoryUse memory_use() { return {InPlace::Never, false}; }
  static constexpr BlockNeeds block_needs() { return Block::block_needs(); }

  Shape output_shape(const Shape& shape) const {
    const Shape embedded = embedding_.output_shape(shape);
    const Shape hidden = block_.output_shape(embedded);
    if (!(hidden == embedded))
      detail::naming_layer(name_, [&] {
        raise<ShapeError>("kfac::TiedEmbedding: the layers' output has shape " +
                          hidden.to_string() + ", expected that of the embedded tokens, " +
                          embedded.to_string());
      });
    return hidden.with_back(embedding().vocabulary());
  }

  WorkspaceSize scratch_size(const Shape& shape, Index examples, const Mode& mode) const {
    const Shape embedded = embedding_.output_shape(shape);
    const Index numbers = embedded.size() * examples;
    WorkspaceSize size = embedding_.scratch_size(shape, examples, mode);
    size += block_.scratch_size(embedded, examples, mode);
    size.activations += 2 * numbers;
    size.gradients += 2 * numbers;
    return size;
  }

  /// Of the output.
  double multiply_adds(const Shape& shape) const {
    return static_cast<double>(output_shape(shape).size() * embedding().features());
  }

  void forward(const ConstBatchView<S>& x, BatchView<S> y, Scratch& scratch,
               const Mode& mode) const {
    const BatchView<S> embedded = hidden_like(x, scratch.embedded);
    const BatchView<S> hidden = hidden_like(x, scratch.hidden);
    embedding_.forward(x, embedded, scratch.embedding, mode.of_use(0, 2));
    block_.forward(embedded, hidden, scratch.block, mode);
    products().multiply_transposed(weight(), hidden, y);
  }

  void backward(const ConstBatchView<S>& x, const ConstBatchView<S>&,
                const ConstBatchView<S>& grad_output, BatchView<S>* grad_input,
                VectorMap<S>* grad_parameters, Scratch& scratch, const Mode& mode) const {
    const ConstBatchView<S> embedded = view(x, scratch.embedded.data());
    const ConstBatchView<S> hidden = view(x, scratch.hidden.data());
    announce(hidden, grad_output, scratch, mode.of_use(1, 2));
    const BatchView<S> hidden_gradient = hidden_like(x, scratch.hidden_gradient);
    products().multiply(weight(), nullptr, grad_output, hidden_gradient);
    Parts<VectorMap<S>> parts(*this, grad_parameters);
    BatchView<S> gradient = hidden_like(x, scratch.gradient);
    block_.backward(embedded, hidden, hidden_gradient, &gradient, parts.block(), scratch.block,
                    mode);
    embedding_.backward(x, embedded, gradient, grad_input, parts.embedding(), scratch.embedding,
                        mode.of_use(0, 2));
    if (grad_parameters)
      products().add_multiplied_outer(hidden, grad_output, grad_parameters->data());
  }

  void tangent(const ConstBatchView<S>& x, const ConstBatchView<S>&,
               const ConstBatchView<S>* x_tangent, const ConstVectorMap<S>* parameter_tangent,
               BatchView<S> y_tangent, Scratch& scratch) const {
    const ConstBatchView<S> hidden_tangent =
        keep_tangents(x, x_tangent, parameter_tangent, scratch);
    products().multiply_transposed(weight(), hidden_tangent, y_tangent);
    if (parameter_tangent)
      products().add_multiplied_transposed(parameter_tangent->data(),
                                           view(x, scratch.hidden.data()), y_tangent);
  }

  void backward_tangent(const ConstBatchView<S>& x, const ConstBatchView<S>&,
                        const ConstBatchView<S>& grad_output, const ConstBatchView<S>* x_tangent,
                        const ConstVectorMap<S>* parameter_tangent,
                        const ConstBatchView<S>& grad_output_tangent,
                        BatchView<S>* grad_input_tangent, VectorMap<S>* grad_parameters_tangent,
                        Scratch& scratch) const requires kTwiceDifferentiable {
    const ConstBatchView<S> embedded = view(x, scratch.embedded.data());
    const ConstBatchView<S> hidden = view(x, scratch.hidden.data());
    const ConstBatchView<S> hidden_tangent =
        keep_tangents(x, x_tangent, parameter_tangent, scratch);
    const ConstBatchView<S> embedded_tangent = view(x, scratch.embedded_tangent.data());

    const BatchView<S> hidden_gradient = hidden_like(x, scratch.hidden_gradient);
    const BatchView<S> hidden_gradient_tangent = hidden_like(x, scratch.hidden_gradient_tangent);
    products().multiply(weight(), nullptr, grad_output, hidden_gradient);
    products().multiply(weight(), nullptr, grad_output_tangent, hidden_gradient_tangent);
    if (parameter_tangent)
      products().add_multiplied(parameter_tangent->data(), grad_output, hidden_gradient_tangent);

    Parts<const ConstVectorMap<S>> along(*this, parameter_tangent);
    Parts<VectorMap<S>> into(*this, grad_parameters_tangent);
    BatchView<S> gradient_tangent = hidden_like(x, scratch.gradient_tangent);
    block_.backward_tangent(embedded, hidden, hidden_gradient, &embedded_tangent, along.block(),
                            hidden_gradient_tangent, &gradient_tangent, into.block(),
                            scratch.block);
    // Its gradient is linear in that of what it puts out, which so is not needed itself.
    embedding_.backward_tangent(x, embedded, gradient_tangent, x_tangent, along.embedding(),
                                gradient_tangent, grad_input_tangent, into.embedding(),
                                scratch.embedding);
    if (!grad_parameters_tangent) return;
    products().add_multiplied_outer(hidden_tangent, grad_output, grad_parameters_tangent->data());
    products().add_multiplied_outer(hidden, grad_output_tangent, grad_parameters_tangent->data());
  }

  void visit_scratch(StateVisitor& visitor, Scratch& scratch) const {
    block_.visit_scratch(visitor, scratch.block);
  }
  void absorb(Scratch& scratch) { block_.absorb(scratch.block); }
  void visit_buffers(StateVisitor& visitor) { block_.visit_buffers(visitor); }

  /// The embedding is called "embedding"; the layers have numbers.
  void rename(const std::string& name) {
    name_ = name;
    embedding_.rename(name.empty() ? "embedding" : name + ".embedding");
    block_.rename(name);
  }
  void append_layers(S* gradient, std::vector<LayerView<S>>& views) {
    embedding_.append_layers(gradient, views);
    views.back().kronecker->diagonal_input = false;  // of the second use it is not
    block_.append_layers(gradient + embedding_.parameter_count(), views);
  }
  void append_layer_sizes(std::vector<Index>& sizes) const {
    embedding_.append_layer_sizes(sizes);
    block_.append_layer_sizes(sizes);
  }

 private:
  const S* weight() const { return embedding().weight().data(); }
  /// Of W as a map from the vocabulary to the features.
  detail::LinearProducts<S, Eigen::Dynamic, Eigen::Dynamic> products() const {
    return {embedding().vocabulary(), embedding().features()};
  }

  ConstBatchView<S> view(const ConstBatchView<S>& x, const S* data) const {
    const Shape shape = embedding().output_shape(x.shape);
    return {{data, shape.size(), x.examples()}, shape};
  }
  BatchView<S> hidden_like(const ConstBatchView<S>& x, Buffer<S>& buffer) const {
    const Shape shape = embedding().output_shape(x.shape);
    return {buffer.map(shape.size(), x.examples()), shape};
  }

  /// The embedding's and the block's part of what is like all parameters, or null.
  template <class Map>
  class Parts {
   public:
    Parts(const TiedEmbedding& tied, Map* all)
        : is_there_(all != nullptr),
          embedding_(all ? all->data() : nullptr, all ? tied.embedding_.parameter_count() : 0),
          block_(all ? all->data() + tied.embedding_.parameter_count() : nullptr,
                 all ? tied.block_.parameter_count() : 0) {}
    Map* embedding() { return is_there_ ? &embedding_ : nullptr; }
    Map* block() { return is_there_ ? &block_ : nullptr; }

   private:
    bool is_there_;
    std::remove_const_t<Map> embedding_, block_;
  };

  /// Of what goes into the block and of what comes out, which it returns.
  ConstBatchView<S> keep_tangents(const ConstBatchView<S>& x, const ConstBatchView<S>* x_tangent,
                                  const ConstVectorMap<S>* parameter_tangent,
                                  Scratch& scratch) const {
    Parts<const ConstVectorMap<S>> along(*this, parameter_tangent);
    const ConstBatchView<S> embedded = view(x, scratch.embedded.data());
    const BatchView<S> embedded_tangent = hidden_like(x, scratch.embedded_tangent);
    const BatchView<S> hidden_tangent = hidden_like(x, scratch.hidden_tangent);
    embedding_.tangent(x, embedded, x_tangent, along.embedding(), embedded_tangent,
                       scratch.embedding);
    const ConstBatchView<S> incoming = embedded_tangent;
    block_.tangent(embedded, view(x, scratch.hidden.data()), &incoming, along.block(),
                   hidden_tangent, scratch.block);
    return hidden_tangent;
  }

  /// The second use: W^T is applied to h, so the gradient of W is the sum of h d^T.
  void announce(const ConstBatchView<S>& hidden, const ConstBatchView<S>& grad_output,
                Scratch& scratch, const Mode& mode) const {
    if (!embedding_.is_observed(mode)) return;
    const ConstMatrixMap<S> d = grad_output.columns();
    const ConstMatrixMap<S> h = hidden.columns();
    const S square = d.squaredNorm() / static_cast<S>(d.cols());
    const S scale = square > 0 ? 1 / std::sqrt(square) : S(1);
    MatrixMap<S> input = scratch.announced_input.map(d.rows(), d.cols());
    MatrixMap<S> gradient = scratch.announced_gradient.map(h.rows(), h.cols());
    input = scale * d;
    gradient = h / scale;
    const Index positions = d.cols() / hidden.examples();
    const auto batch = [&](const MatrixMap<S>& columns) {
      return SharedBatch<S>(columns.data(), columns.rows(), columns.cols(), positions,
                            SharedBatch<S>::Order::ColumnMajor);
    };
    embedding_.announce_input(batch(input), mode);
    embedding_.announce_output_gradient(batch(gradient), mode);
  }

  Slot<Embedding<S>> embedding_;
  Block block_;
  std::string name_;
};

template <RealScalar S, Layer... Layers>
TiedEmbedding(Embedding<S>, Layers...) -> TiedEmbedding<S, Layers...>;

}  // namespace kfac
