#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <kfac/nn/attention_options.hpp>
#include <kfac/nn/attention_products.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/slot.hpp>

namespace kfac {

/// Multi-head scaled dot-product attention, as torch.nn.MultiheadAttention with the batch first: of
/// each example's tokens to one another, `{tokens, features}` to `{tokens, features}`; or, with
/// `query_tokens`, of the first of them to the others, `{query_tokens + memory_tokens, features}`
/// to `{query_tokens, features}`:
///
///     kfac::Sequential model{kfac::MultiheadAttention<float>({.features = 32, .heads = 4}, rng),
///                            kfac::MeanTokens<float>{}, kfac::Linear<float>(32, 10, rng)};
///     model.set_mask(&mask);  // tokens x examples: where it is false there is padding
///
/// Nothing attends to padding, which itself attends to nothing: its context is 0. Four layers
/// `Linear`, whose weights the tokens share, are its leaves: "q_proj", "k_proj", "v_proj" and
/// "out_proj". They start as in PyTorch: uniform in +-sqrt(1.5 / features), out_proj in
/// +-1/sqrt(features), without bias.
/// \source Vaswani et al., Attention is all you need, 2017
template <RealScalar S>
class MultiheadAttention {
  using Products = detail::AttentionProducts<S>;
  static constexpr std::size_t kOut = 3;  // after queries, keys and values

  /// What the linear maps to queries, keys and values put out, and the context, which is the input
  /// of the last; their gradients; or their tangents.
  using Tokens = std::array<Buffer<S>, 4>;
  /// For cross-attention: parts of the input, or of its tangent, by themselves.
  struct Parts {
    Buffer<S> queries, memory;
  };
  /// The inputs of the maps to queries and to keys and values.
  struct Sides {
    ConstBatchView<S> queries, memory;
    const ConstBatchView<S>& of(std::size_t map) const { return map == 0 ? queries : memory; }
  };
  /// A pass, as each side sees it.
  struct Modes {
    Mode queries, memory;
    detail::RealTokens real;  ///< of the whole input
    const Mode& of(std::size_t map) const { return map == 0 ? queries : memory; }
  };

 public:
  using Scalar = S;
  struct Scratch {
    typename Linear<S>::Scratch linear;  // which is empty
    Parts parts;
    Tokens tokens, gradients;
    Buffer<S> weights, weights_gradient;
    Buffer<S> share;  ///< of the gradient of the input, one map's
    PositionMask query_mask, memory_mask;
    // Used by tangents alone:
    Parts tangent_parts;
    Tokens tangents, gradient_tangents;
    Buffer<S> weights_tangent, weights_gradient_tangent;
  };

  static const char* kind() { return "MultiheadAttention"; }

  /// \throws OptionError if an option is out of its range, or `causal` with `query_tokens`
  MultiheadAttention(const AttentionOptions& options, Rng& rng)
      : options_((options.validate(), options)),
        maps_{map(std::sqrt(1.5), rng), map(std::sqrt(1.5), rng), map(std::sqrt(1.5), rng),
              map(1, rng)} {
    rename("");
  }

  const AttentionOptions& options() const { return options_; }
  // The linear maps.
  Linear<S>& query() { return maps_[0].layer(); }
  const Linear<S>& query() const { return maps_[0].layer(); }
  Linear<S>& key() { return maps_[1].layer(); }
  const Linear<S>& key() const { return maps_[1].layer(); }
  Linear<S>& value() { return maps_[2].layer(); }
  const Linear<S>& value() const { return maps_[2].layer(); }
  Linear<S>& out() { return maps_[kOut].layer(); }
  const Linear<S>& out() const { return maps_[kOut].layer(); }

  Index parameter_count() const { return 4 * maps_[0].parameter_count(); }

  /// Of the products of keys and queries, and of values and weights.
  double multiply_adds(const Shape& shape) const {
    return 2.0 * static_cast<double>(output_shape(shape).size()) *
           static_cast<double>(memory_shape(shape)[0]);
  }

  static constexpr MemoryUse memory_use() { return {InPlace::Never, false}; }
  static constexpr BlockNeeds block_needs() { return detail::block_needs_of<Linear<S>>(); }

  Shape output_shape(const Shape& shape) const {
    const Index queries = options_.query_tokens;
    if (shape.rank() != 2 || shape[1] != options_.features || shape[0] <= queries)
      detail::naming_layer(name_, [&] {
        raise<ShapeError>("kfac::MultiheadAttention: 'input' has shape " + shape.to_string() +
                          ", expected " +
                          (queries > 0 ? "more than " + std::to_string(queries) + " " : "") +
                          "tokens x " + std::to_string(options_.features) + " features");
      });
    return {queries > 0 ? queries : shape[0], options_.features};
  }

  WorkspaceSize scratch_size(const Shape& shape, Index examples, const Mode&) const {
    const Index memory = memory_shape(shape).size() * examples;
    const Index queries = output_shape(shape).size() * examples;
    WorkspaceSize size;
    size.activations = 2 * queries + 2 * memory;
    size.gradients = size.activations + std::max(queries, memory);
    size.scratch = 2 * products(shape, examples).weight_count();
    if (is_cross()) size.scratch += queries + memory;
    return size;
  }

  /// \throws ShapeError if a mask of the input's tokens has not as many examples
  void forward(const ConstBatchView<S>& x, BatchView<S> y, Scratch& scratch,
               const Mode& mode) const {
    const Sides in = sides(x, scratch.parts);
    const Modes modes = modes_of(mode, x, scratch);
    for (std::size_t i = 0; i < kOut; ++i)
      maps_[i].forward(in.of(i), like(in.of(i), scratch.tokens[i]), scratch.linear, modes.of(i));
    const BatchView<S> context = like(in.queries, scratch.tokens[kOut]);
    const Products products = this->products(x.shape, x.examples());
    S* const weights = scratch.weights.map(products.weight_count(), 1).data();
    products.forward(data(scratch.tokens), modes.real, options_.query_tokens, options_.causal,
                     weights);
    maps_[kOut].forward(context, y, scratch.linear, modes.queries);
  }

  void backward(const ConstBatchView<S>& x, const ConstBatchView<S>& y,
                const ConstBatchView<S>& grad_output, BatchView<S>* grad_input,
                VectorMap<S>* grad_parameters, Scratch& scratch, const Mode& mode) const {
    const Sides in = sides(x, scratch.parts);
    const Modes modes = modes_of(mode, x, scratch);
    BatchView<S> grad_context = like(in.queries, scratch.gradients[kOut]);
    VectorMap<S> segment = segment_of(grad_parameters, kOut);
    maps_[kOut].backward(like(in.queries, scratch.tokens[kOut]), y, grad_output, &grad_context,
                         grad_parameters ? &segment : nullptr, scratch.linear, modes.queries);
    make_room(in, scratch.gradients);
    const Products products = this->products(x.shape, x.examples());
    products.backward(data(scratch.tokens), scratch.weights.data(), data(scratch.gradients),
                      scratch.weights_gradient.map(products.weight_count(), 1).data());

    if (grad_input) grad_input->values.setZero();
    for (std::size_t i = 0; i < kOut; ++i) {
      const ConstBatchView<S>& input = in.of(i);
      BatchView<S> share = like(input, scratch.share);
      VectorMap<S> wanted = segment_of(grad_parameters, i);
      maps_[i].backward(input, like(input, scratch.tokens[i]), like(input, scratch.gradients[i]),
                        grad_input ? &share : nullptr, grad_parameters ? &wanted : nullptr,
                        scratch.linear, modes.of(i));
      if (grad_input) add_share(share, i, *grad_input);
    }
  }

  void tangent(const ConstBatchView<S>& x, const ConstBatchView<S>& y,
               const ConstBatchView<S>* x_tangent, const ConstVectorMap<S>* parameter_tangent,
               BatchView<S> y_tangent, Scratch& scratch) const {
    const Sides in = sides(x, scratch.parts);
    push_forward(in, x_tangent, parameter_tangent, scratch);
    const ConstBatchView<S> context_tangent = like(in.queries, scratch.tangents[kOut]);
    const ConstVectorMap<S> along = segment_of(parameter_tangent, kOut);
    maps_[kOut].tangent(like(in.queries, scratch.tokens[kOut]), y, &context_tangent,
                        parameter_tangent ? &along : nullptr, y_tangent, scratch.linear);
  }

  void backward_tangent(const ConstBatchView<S>& x, const ConstBatchView<S>& y,
                        const ConstBatchView<S>& grad_output, const ConstBatchView<S>* x_tangent,
                        const ConstVectorMap<S>* parameter_tangent,
                        const ConstBatchView<S>& grad_output_tangent,
                        BatchView<S>* grad_input_tangent, VectorMap<S>* grad_parameters_tangent,
                        Scratch& scratch) const {
    const Sides in = sides(x, scratch.parts);
    const Sides moves = push_forward(in, x_tangent, parameter_tangent, scratch);
    const ConstBatchView<S> context = like(in.queries, scratch.tokens[kOut]);
    const ConstBatchView<S> context_tangent = like(in.queries, scratch.tangents[kOut]);
    BatchView<S> grad_context = like(in.queries, scratch.gradients[kOut]);
    maps_[kOut].backward(context, y, grad_output, &grad_context, nullptr, scratch.linear,
                         Mode{false, false});

    /// The i-th map's part in it.
    const auto pull_back = [&](std::size_t i, const ConstBatchView<S>& input,
                               const ConstBatchView<S>& output, const ConstBatchView<S>& gradient,
                               const ConstBatchView<S>* input_tangent,
                               const ConstBatchView<S>& gradient_tangent, BatchView<S>* into) {
      const ConstVectorMap<S> along = segment_of(parameter_tangent, i);
      VectorMap<S> wanted = segment_of(grad_parameters_tangent, i);
      maps_[i].backward_tangent(input, output, gradient, input_tangent,
                                parameter_tangent ? &along : nullptr, gradient_tangent, into,
                                grad_parameters_tangent ? &wanted : nullptr, scratch.linear);
    };
    BatchView<S> grad_context_tangent = like(in.queries, scratch.gradient_tangents[kOut]);
    pull_back(kOut, context, y, grad_output, &context_tangent, grad_output_tangent,
              &grad_context_tangent);
    make_room(in, scratch.gradients);
    make_room(in, scratch.gradient_tangents);
    const Products products = this->products(x.shape, x.examples());
    const Index count = products.weight_count();
    products.backward_tangent(data(scratch.tokens), scratch.weights.data(), data(scratch.tangents),
                              scratch.weights_tangent.data(), data(scratch.gradients),
                              data(scratch.gradient_tangents),
                              scratch.weights_gradient.map(count, 1).data(),
                              scratch.weights_gradient_tangent.map(count, 1).data());

    if (grad_input_tangent) grad_input_tangent->values.setZero();
    for (std::size_t i = 0; i < kOut; ++i) {
      const ConstBatchView<S>& input = in.of(i);
      BatchView<S> share = like(input, scratch.share);
      pull_back(i, input, like(input, scratch.tokens[i]), like(input, scratch.gradients[i]),
                x_tangent ? &moves.of(i) : nullptr, like(input, scratch.gradient_tangents[i]),
                grad_input_tangent ? &share : nullptr);
      if (grad_input_tangent) add_share(share, i, *grad_input_tangent);
    }
  }

  void rename(const std::string& name) {
    static constexpr std::array<const char*, 4> kNames{"q_proj", "k_proj", "v_proj", "out_proj"};
    name_ = name;
    const std::string prefix = name.empty() ? "" : name + '.';
    for (std::size_t i = 0; i < maps_.size(); ++i) maps_[i].rename(prefix + kNames[i]);
  }
  void append_layers(S* gradient, std::vector<LayerView<S>>& views) {
    for (Slot<Linear<S>>& map : maps_) {
      map.append_layers(gradient, views);
      gradient += map.parameter_count();
    }
  }
  void append_layer_sizes(std::vector<Index>& sizes) const {
    for (const Slot<Linear<S>>& map : maps_) map.append_layer_sizes(sizes);
  }

 private:
  /// A linear map whose weights are drawn uniformly in +-gain/sqrt(features).
  Slot<Linear<S>> map(double gain, Rng& rng) const {
    const Index features = options_.features;
    Linear<S> linear(features, features, rng, {.bias = options_.bias});
    linear.augmented_weight().leftCols(features) *= static_cast<S>(gain);
    if (options_.bias) linear.augmented_weight().col(features).setZero();
    return Slot<Linear<S>>(std::move(linear));
  }

  bool is_cross() const { return options_.query_tokens > 0; }
  Shape memory_shape(const Shape& shape) const {
    return {shape[0] - options_.query_tokens, options_.features};
  }
  Products products(const Shape& shape, Index examples) const {
    return {options_.features, options_.heads, output_shape(shape)[0], memory_shape(shape)[0],
            examples};
  }

  /// A batch in `buffer` that looks like another.
  static BatchView<S> like(const ConstBatchView<S>& other, Buffer<S>& buffer) {
    return {buffer.map(other.values.rows(), other.values.cols()), other.shape};
  }
  static void make_room(const Sides& in, Tokens& tokens) {
    for (std::size_t i = 0; i < kOut; ++i) like(in.of(i), tokens[i]);
  }
  static detail::AttentionData<S> data(Tokens& tokens) {
    return {tokens[0].data(), tokens[1].data(), tokens[2].data(), tokens[kOut].data()};
  }

  /// The parameters of one map among all; nothing if these are null.
  template <class Map>
  std::remove_const_t<Map> segment_of(Map* parameters, std::size_t map) const {
    const Index count = parameters ? maps_[0].parameter_count() : 0;
    return {parameters ? parameters->data() + static_cast<Index>(map) * count : nullptr, count};
  }

  /// What each side sees of a batch: all of it, or its own tokens.
  Sides sides(const ConstBatchView<S>& x, Parts& parts) const {
    if (!is_cross()) return {x, x};
    const Index tokens = options_.query_tokens;
    const Shape memory = memory_shape(x.shape);
    const Index rows = tokens * options_.features;
    BatchView<S> first{parts.queries.map(rows, x.examples()), {tokens, options_.features}};
    BatchView<S> last{parts.memory.map(memory.size(), x.examples()), memory};
    first.values = x.values.topRows(rows);
    last.values = x.values.bottomRows(memory.size());
    return {first, last};
  }
  /// A mask of other positions than the input's tokens is for other layers.
  Modes modes_of(const Mode& mode, const ConstBatchView<S>& x, Scratch& scratch) const {
    const PositionMask* const mask = mode.mask;
    const Index tokens = x.shape[0];
    if (!mask || mask->rows() != tokens * mode.joined) return {mode, mode, {}};
    detail::naming_layer(name_, [&] {
      detail::check_size("kfac::MultiheadAttention", "mask", mask->cols() * mode.joined,
                         x.examples(), "examples");
    });
    Modes modes{mode, mode, {mask->data(), tokens}};
    if (!is_cross()) return modes;
    const Index queries = options_.query_tokens;
    scratch.query_mask.resize(queries * mode.joined, mask->cols());
    scratch.memory_mask.resize((tokens - queries) * mode.joined, mask->cols());
    for (Index n = 0; n < x.examples(); ++n) {
      const bool* const real = mask->data() + n * tokens;
      std::copy_n(real, queries, scratch.query_mask.data() + n * queries);
      std::copy_n(real + queries, tokens - queries,
                  scratch.memory_mask.data() + n * (tokens - queries));
    }
    modes.queries.mask = &scratch.query_mask;
    modes.memory.mask = &scratch.memory_mask;
    return modes;
  }

  /// Writes the tangents of queries, keys, values, weights and context. Returns what each side sees
  /// of that of the input, if there is one.
  Sides push_forward(const Sides& in, const ConstBatchView<S>* x_tangent,
                     const ConstVectorMap<S>* parameter_tangent, Scratch& scratch) const {
    Sides moves = x_tangent ? sides(*x_tangent, scratch.tangent_parts) : in;
    for (std::size_t i = 0; i < kOut; ++i) {
      const ConstBatchView<S>& input = in.of(i);
      const ConstVectorMap<S> along = segment_of(parameter_tangent, i);
      maps_[i].tangent(input, like(input, scratch.tokens[i]), x_tangent ? &moves.of(i) : nullptr,
                       parameter_tangent ? &along : nullptr, like(input, scratch.tangents[i]),
                       scratch.linear);
    }
    like(in.queries, scratch.tangents[kOut]);
    const Products products(options_.features, options_.heads, in.queries.shape[0],
                            in.memory.shape[0], in.queries.examples());
    products.tangent(data(scratch.tokens), scratch.weights.data(), data(scratch.tangents),
                     scratch.weights_tangent.map(products.weight_count(), 1).data());
    return moves;
  }

  /// To the tokens that a map sees.
  void add_share(const BatchView<S>& share, std::size_t map, BatchView<S>& gradient) const {
    if (map == 0)
      gradient.values.topRows(share.values.rows()) += share.values;
    else
      gradient.values.bottomRows(share.values.rows()) += share.values;
  }

  AttentionOptions options_;
  std::array<Slot<Linear<S>>, 4> maps_;
  std::string name_;
};

}  // namespace kfac
