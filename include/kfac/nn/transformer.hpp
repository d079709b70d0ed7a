#pragma once

#include <kfac/nn/activations.hpp>
#include <kfac/nn/attention.hpp>
#include <kfac/nn/dropout.hpp>
#include <kfac/nn/layer_norm.hpp>
#include <kfac/nn/residual.hpp>

namespace kfac {

struct TransformerOptions {
  Index features = 1;   ///< of every token, >= 1
  Index heads = 1;      ///< >= 1, a divisor of the features
  Index hidden = 0;     ///< features between the two linear layers, >= 0; 0: 4 times the features
  bool causal = false;  ///< each token attends to itself and those before it
  bool bias = true;     ///< of all linear layers
  double dropout = 0;   ///< probability, of what each half adds; 0 <= dropout < 1
};

/// A pre-norm transformer block, `{tokens, features}` to the same: x + attention(norm(x)), then
/// x + linear(activation(linear(norm(x)))), with dropout of what is added. Made by
/// `transformer_block`; within it layers are named "0.0" (LayerNorm), "0.1.q_proj", "0.1.k_proj",
/// "0.1.v_proj", "0.1.out_proj", "1.0" (LayerNorm), "1.1" and "1.3" (Linear).
/// \source Vaswani et al. 2017; with the norms first, Xiong et al., On layer normalization in the
/// transformer architecture, 2020
template <RealScalar S, Layer Activation = GELU<S>>
using TransformerBlock =
    Sequential<Residual<LayerNorm<S>, MultiheadAttention<S>, Dropout<S>>,
               Residual<LayerNorm<S>, Linear<S>, Activation, Linear<S>, Dropout<S>>>;

/// One, with random weights:
///
///     const kfac::TransformerOptions options{.features = 64, .heads = 4, .causal = true};
///     kfac::Sequential model{kfac::Embedding<float>(symbols, 64, rng),
///                            kfac::LearnedPositions<float>(tokens, 64, rng),
///                            kfac::transformer_block<float>(options, rng),
///                            kfac::transformer_block<float>(options, rng),
///                            kfac::LayerNorm<float>(64), kfac::Linear<float>(64, symbols, rng)};
///
/// With ReLU in place of GELU: `transformer_block<float, kfac::ReLU<float>>`.
/// \throws OptionError if an option is out of its range
template <RealScalar S, Layer Activation = GELU<S>>
TransformerBlock<S, Activation> transformer_block(const TransformerOptions& options, Rng& rng) {
  static constexpr const char* kWhere = "kfac::TransformerOptions";
  detail::check_option(options.hidden >= 0, kWhere, "hidden", options.hidden, ">= 0");
  detail::check_option(options.dropout >= 0 && options.dropout < 1, kWhere, "dropout",
                       options.dropout, "0 <= dropout < 1");
  const Index features = options.features;
  const Index hidden = options.hidden > 0 ? options.hidden : 4 * features;
  // One after another: with braces, and nothing drawn in a call's arguments.
  MultiheadAttention<S> attention({.features = features,
                                   .heads = options.heads,
                                   .causal = options.causal,
                                   .bias = options.bias},
                                  rng);
  Dropout<S> first_dropout(options.dropout, rng);
  Linear<S> up(features, hidden, rng, {.bias = options.bias});
  Linear<S> down(hidden, features, rng, {.bias = options.bias});
  Dropout<S> second_dropout(options.dropout, rng);
  return TransformerBlock<S, Activation>(
      Residual(LayerNorm<S>(features), std::move(attention), std::move(first_dropout)),
      Residual(LayerNorm<S>(features), std::move(up), Activation{}, std::move(down),
               std::move(second_dropout)));
}

}  // namespace kfac
