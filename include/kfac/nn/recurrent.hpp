#pragma once

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <kfac/nn/linear.hpp>
#include <kfac/nn/recurrent_states.hpp>
#include <kfac/nn/sequential.hpp>

namespace kfac {

struct RecurrentOptions {
  bool bias = true;
  /// Whether the output is the state after the last step, `{hidden}`, in place of all states,
  /// `{steps, hidden}`.
  bool return_last = false;
};

namespace detail {

/// The map of a recurrent layer's inputs, of all steps at once.
template <RealScalar S>
class StepsLinear : public Linear<S> {
 public:
  static constexpr bool kRecurrent = true;
  using Linear<S>::Linear;
};

}  // namespace detail

/// One layer of recurrent cells (`RNN`, `GRU`, `LSTM`) unrolled over time, in one direction and
/// from a state of zeros: `{steps, inputs}` -> `{steps, hidden}`, or `{hidden}` with `return_last`.
/// Stack them in a Sequential. The number of steps may be another in each batch; gradients go all
/// the way back. Steps that the network's mask calls padding leave the state as it is.
///
/// It has two linear maps, each a leaf with curvature over the steps in order: "ih", of the inputs
/// of all steps at once, with `weight` `(gates hidden) x inputs` and `bias`, and "hh", of the state
/// before each step, with `weight` `(gates hidden) x hidden`. They are PyTorch's `weight_ih_l0`,
/// `bias_ih_l0` and `weight_hh_l0`, gates in the same order; its `bias_hh_l0` is added to
/// `bias_ih_l0`, save for a GRU, whose "hh" has a `bias` too. All are uniform in
/// +-1/sqrt(hidden), PyTorch's default.
template <RealScalar S, class Cell>
class Recurrent {
  using Block = Sequential<detail::StepsLinear<S>, RecurrentStates<S, Cell>>;

 public:
  using Scalar = S;
  using Scratch = typename Block::Scratch;
  static const char* kind() { return Cell::kind(); }

  /// \throws OptionError if a size is below 1
  Recurrent(Index inputs, Index hidden, Rng& rng, RecurrentOptions options = {})
      : block_(make(inputs, hidden, rng, options)) {
    rename("");
  }

  Index inputs() const { return input_map().inputs(); }
  Index hidden() const { return states().hidden(); }
  Linear<S>& input_map() { return block_.template layer<0>(); }
  const Linear<S>& input_map() const { return block_.template layer<0>(); }
  RecurrentStates<S, Cell>& states() { return block_.template layer<1>(); }
  const RecurrentStates<S, Cell>& states() const { return block_.template layer<1>(); }
  Index parameter_count() const { return block_.parameter_count(); }

  static constexpr MemoryUse memory_use() { return Block::memory_use(); }
  static constexpr BlockNeeds block_needs() { return Block::block_needs(); }

  /// \throws ShapeError unless it is `{steps, inputs}`
  Shape output_shape(const Shape& shape) const {
    if (shape.rank() != 2 || shape.back() != inputs())
      detail::naming_layer(name_, [&] {
        raise<ShapeError>("kfac::" + std::string(kind()) + ": 'input' has shape " +
                          shape.to_string() + ", expected steps x " + std::to_string(inputs()));
      });
    return block_.output_shape(shape);
  }

  WorkspaceSize scratch_size(const Shape& shape, Index examples, const Mode& mode) const {
    return block_.scratch_size(shape, examples, mode);
  }

  void forward(const ConstBatchView<S>& x, BatchView<S> y, Scratch& scratch,
               const Mode& mode) const {
    block_.forward(x, y, scratch, mode);
  }
  void backward(const ConstBatchView<S>& x, const ConstBatchView<S>& y,
                const ConstBatchView<S>& grad_output, BatchView<S>* grad_input,
                VectorMap<S>* grad_parameters, Scratch& scratch, const Mode& mode) const {
    block_.backward(x, y, grad_output, grad_input, grad_parameters, scratch, mode);
  }
  void tangent(const ConstBatchView<S>& x, const ConstBatchView<S>& y,
               const ConstBatchView<S>* x_tangent, const ConstVectorMap<S>* parameter_tangent,
               BatchView<S> y_tangent, Scratch& scratch) const {
    block_.tangent(x, y, x_tangent, parameter_tangent, y_tangent, scratch);
  }
  void backward_tangent(const ConstBatchView<S>& x, const ConstBatchView<S>& y,
                        const ConstBatchView<S>& grad_output, const ConstBatchView<S>* x_tangent,
                        const ConstVectorMap<S>* parameter_tangent,
                        const ConstBatchView<S>& grad_output_tangent,
                        BatchView<S>* grad_input_tangent, VectorMap<S>* grad_parameters_tangent,
                        Scratch& scratch) const {
    block_.backward_tangent(x, y, grad_output, x_tangent, parameter_tangent, grad_output_tangent,
                            grad_input_tangent, grad_parameters_tangent, scratch);
  }

  void rename(const std::string& name) {
    name_ = name;
    const std::string prefix = name.empty() ? "" : name + '.';
    block_.visit_slots(
        [&](auto& slot, std::size_t i) { slot.rename(prefix + (i == 0 ? "ih" : "hh")); });
  }
  void append_layers(S* gradient, std::vector<LayerView<S>>& views) {
    block_.append_layers(gradient, views);
  }
  void append_layer_sizes(std::vector<Index>& sizes) const { block_.append_layer_sizes(sizes); }

 private:
  static Block make(Index inputs, Index hidden, Rng& rng, const RecurrentOptions& options) {
    const std::string where = std::string("kfac::") + kind();
    detail::check_option(inputs >= 1, where.c_str(), "inputs", inputs, ">= 1");
    detail::check_option(hidden >= 1, where.c_str(), "hidden", hidden, ">= 1");
    const auto gates = static_cast<Index>(Cell::kGates);
    detail::StepsLinear<S> input_map(inputs, gates * hidden, rng, {.bias = options.bias});
    const double bound = 1.0 / std::sqrt(static_cast<double>(hidden));
    MatrixMap<S> weight = input_map.augmented_weight();
    rng.fill_uniform(weight, -bound, bound);
    return Block(std::move(input_map),
                 RecurrentStates<S, Cell>(hidden, rng, options.bias && Cell::kStateBias,
                                          options.return_last));
  }

  Block block_;
  std::string name_;
};

}  // namespace kfac
