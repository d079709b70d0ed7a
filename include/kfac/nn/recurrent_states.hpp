#pragma once

#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include <kfac/core/random.hpp>
#include <kfac/linalg/matrix_product.hpp>
#include <kfac/nn/layer.hpp>
#include <kfac/nn/recurrent_cell.hpp>

namespace kfac {

/// The states of recurrent cells, of what comes from their inputs: `{steps, gates hidden}` ->
/// `{steps, hidden}`, or `{hidden}`, the last. At each step q = W h + b is added to it, where h is
/// the state before, 0 at first, and `Cell` makes the next state of both. Parameters: "weight"
/// `(gates hidden) x hidden`, and if there is one "bias". The second half of `Recurrent`.
///
/// What the passes after `forward` need is kept in the scratch, step after step of each example.
template <RealScalar S, class Cell>
class RecurrentStates {
  static constexpr std::size_t kGates = Cell::kGates;
  static constexpr std::size_t kStates = Cell::kStates;
  static constexpr std::size_t kKept = Cell::kKept;
  using StateBuffers = std::array<Buffer<S>, kStates>;

 public:
  using Scalar = S;
  struct Scratch {
    StateBuffers states;          ///< before each step
    Buffer<S> kept;               ///< what the cell keeps
    Buffer<S> gradients;          ///< of q
    StateBuffers state_gradient;  ///< of the state at one step
    std::vector<char> real;       ///< which steps are not padding; empty: all
    Index steps = 0;
    // Of second derivatives and tangents.
    StateBuffers state_tangents;
    Buffer<S> kept_tangent;
    Buffer<S> gate_tangents;  ///< of q, then of its gradients
    StateBuffers state_gradient_tangent;
  };
  static constexpr bool kRecurrent = true;
  static const char* kind() { return Cell::kind(); }

  /// \throws OptionError if `hidden` is below 1
  RecurrentStates(Index hidden, Rng& rng, bool bias, bool return_last)
      : hidden_(hidden), bias_(bias), return_last_(return_last) {
    detail::check_option(hidden >= 1, "kfac::RecurrentStates", "hidden", hidden, ">= 1");
    parameters_.resize(gate_rows(), hidden + (bias ? 1 : 0));
    const double bound = 1.0 / std::sqrt(static_cast<double>(hidden));
    rng.fill_uniform(parameters_, -bound, bound);
  }

  Index hidden() const { return hidden_; }
  bool has_bias() const { return bias_; }
  bool returns_last() const { return return_last_; }

  /// [W b], `(gates hidden) x (hidden + bias)`.
  MatrixMap<S> augmented_weight() {
    return {parameters_.data(), parameters_.rows(), parameters_.cols()};
  }
  Index parameter_count() const { return parameters_.size(); }
  VectorMap<S> parameters() { return {parameters_.data(), parameters_.size()}; }
  std::vector<ParameterInfo> parameter_info() const {
    std::vector<ParameterInfo> info{{"weight", 0, gate_rows(), hidden_}};
    if (bias_) info.push_back({"bias", gate_rows() * hidden_, gate_rows(), 1});
    return info;
  }

  Shape output_shape(const Shape& shape) const {
    if (shape.rank() != 2 || shape.back() != gate_rows())
      raise<ShapeError>("kfac::RecurrentStates: 'input' has shape " + shape.to_string() +
                        ", expected steps x " + std::to_string(gate_rows()));
    return return_last_ ? Shape{hidden_} : shape.with_back(hidden_);
  }

  static constexpr MemoryUse memory_use() { return {InPlace::Never, false}; }
  /// For passes forward and back.
  Index scratch_size(const Shape& shape, Index examples) const {
    const Index columns = shape[0] * examples;
    const Index rows = static_cast<Index>(kStates + kKept + kGates) * hidden_;
    return rows * columns + static_cast<Index>(kStates) * hidden_ * examples +
           static_cast<Index>(kStates) * hidden_;
  }

  /// \throws ShapeError if the mask has as many steps but not as many examples
  void forward(const ConstBatchView<S>& x, BatchView<S> y, Scratch& scratch,
               const Mode& mode) const {
    const Sizes sizes = sizes_of(x);
    scratch.steps = sizes.steps;
    take_mask(sizes, scratch, mode);
    const StatePointers states = start(sizes, scratch.states);
    S* const kept = scratch.kept.map(rows(kKept), sizes.columns()).data();
    for (Index t = 0; t < sizes.steps; ++t) {
      multiply_state(states[0], sizes, t, kept);
      for (Index n = 0; n < sizes.examples; ++n) {
        const Index at = sizes.column(t, n);
        CellColumns<S> columns{
            hidden_, x.values.data() + at * gate_rows(), kept + at * rows(kKept), {}, {}};
        for (std::size_t k = 0; k < kStates; ++k) {
          columns.states_before[k] = states[k] + at * hidden_;
          columns.states_after[k] = states[k] + after(sizes, t, n) * hidden_;
        }
        if (is_padding(scratch, t, n))
          for (std::size_t k = 0; k < kStates; ++k) columns.after(k) = columns.before(k);
        else
          Cell::forward(columns);
        put_out(columns.states_after[0], sizes, t, n, y.values.data());
      }
    }
  }

  void backward(const ConstBatchView<S>& x, const ConstBatchView<S>&,
                const ConstBatchView<S>& grad_output, BatchView<S>* grad_input,
                VectorMap<S>* grad_parameters, Scratch& scratch, const Mode&) const {
    const Sizes sizes = sizes_of(x);
    S* const gradients = scratch.gradients.map(gate_rows(), sizes.columns()).data();
    const StatePointers state = end(sizes, scratch.state_gradient);
    for (Index t = sizes.steps - 1; t >= 0; --t) {
      add_output_gradient(grad_output.values.data(), sizes, t, state[0]);
      for (Index n = 0; n < sizes.examples; ++n) {
        const Index at = sizes.column(t, n);
        S* const q = gradients + at * gate_rows();
        S* const p = grad_input ? grad_input->values.data() + at * gate_rows() : nullptr;
        if (skips(scratch, t, n, {q, p})) continue;
        Index j = 0;
        for (; j + kLanes <= hidden_; j += kLanes)
          backward_units<Lanes>(scratch, at, n, j, state, q, p);
        for (; j < hidden_; ++j) backward_units<S>(scratch, at, n, j, state, q, p);
      }
      if (t > 0) add_transposed(parameters_.data(), gradients, sizes, t, state[0]);
    }
    if (!grad_parameters) return;
    sum_outer(gradients, scratch.states[0].data(), sizes, grad_parameters->data(), false);
    if (bias_) sum_columns(gradients, sizes, grad_parameters->data());
  }

  void tangent(const ConstBatchView<S>& x, const ConstBatchView<S>&,
               const ConstBatchView<S>* x_tangent, const ConstVectorMap<S>* parameter_tangent,
               BatchView<S> y_tangent, Scratch& scratch) const {
    find_tangents(x, x_tangent, parameter_tangent, y_tangent.values.data(), scratch);
  }

  /// By the tangents of all that is kept, and the backward pass in numbers with tangents.
  void backward_tangent(const ConstBatchView<S>& x, const ConstBatchView<S>&,
                        const ConstBatchView<S>& grad_output, const ConstBatchView<S>* x_tangent,
                        const ConstVectorMap<S>* parameter_tangent,
                        const ConstBatchView<S>& grad_output_tangent,
                        BatchView<S>* grad_input_tangent, VectorMap<S>* grad_parameters_tangent,
                        Scratch& scratch) const {
    find_tangents(x, x_tangent, parameter_tangent, nullptr, scratch);
    const Sizes sizes = sizes_of(x);
    S* const gradients = scratch.gradients.map(gate_rows(), sizes.columns()).data();
    S* const tangents = scratch.gate_tangents.data();
    const StatePointers state = end(sizes, scratch.state_gradient);
    const StatePointers state_tangent = end(sizes, scratch.state_gradient_tangent);
    for (Index t = sizes.steps - 1; t >= 0; --t) {
      add_output_gradient(grad_output.values.data(), sizes, t, state[0]);
      add_output_gradient(grad_output_tangent.values.data(), sizes, t, state_tangent[0]);
      for (Index n = 0; n < sizes.examples; ++n) {
        const Index at = sizes.column(t, n);
        S* const q = gradients + at * gate_rows();
        S* const q_tangent = tangents + at * gate_rows();
        S* const p_tangent =
            grad_input_tangent ? grad_input_tangent->values.data() + at * gate_rows() : nullptr;
        if (skips(scratch, t, n, {q, q_tangent, p_tangent})) continue;
        for (Index j = 0; j < hidden_; ++j) {
          const Index own = at * hidden_ + j;
          const Index kept = at * rows(kKept) + j;
          Units<Dual<S>, kStates> adjoint = dual(load<kStates>(state, n * hidden_ + j),
                                                 load<kStates>(state_tangent, n * hidden_ + j));
          Units<Dual<S>, kGates> input_part, state_part;
          Cell::template backward<Dual<S>>(
              dual(load<kKept>(scratch.kept.data() + kept),
                   load<kKept>(scratch.kept_tangent.data() + kept)),
              dual(load<kStates>(pointers(scratch.states), own),
                   load<kStates>(pointers(scratch.state_tangents), own)),
              adjoint, input_part, state_part);
          for (std::size_t k = 0; k < kStates; ++k) {
            state[k][n * hidden_ + j] = adjoint[k].value;
            state_tangent[k][n * hidden_ + j] = adjoint[k].tangent;
          }
          for (std::size_t k = 0; k < kGates; ++k) {
            const Index row = static_cast<Index>(k) * hidden_ + j;
            q[row] = state_part[k].value;
            q_tangent[row] = state_part[k].tangent;
            if (p_tangent) p_tangent[row] = input_part[k].tangent;
          }
        }
      }
      if (t == 0) break;
      add_transposed(parameters_.data(), gradients, sizes, t, state[0]);
      add_transposed(parameters_.data(), tangents, sizes, t, state_tangent[0]);
      if (parameter_tangent)
        add_transposed(parameter_tangent->data(), gradients, sizes, t, state_tangent[0]);
    }
    if (!grad_parameters_tangent) return;
    S* const result = grad_parameters_tangent->data();
    sum_outer(tangents, scratch.states[0].data(), sizes, result, false);
    sum_outer(gradients, scratch.state_tangents[0].data(), sizes, result, true);
    if (bias_) sum_columns(tangents, sizes, result);
  }

  KroneckerStructure kronecker_structure() const { return {hidden_, gate_rows(), bias_, 1}; }
  SharedBatch<S> kronecker_input(const ConstBatchView<S>& x, const Scratch& scratch) const {
    return shared(scratch.states[0].data(), hidden_, sizes_of(x));
  }
  SharedBatch<S> kronecker_output_gradient(const ConstBatchView<S>& grad_output,
                                           const Scratch& scratch) const {
    return shared(scratch.gradients.data(), gate_rows(), {scratch.steps, grad_output.examples()});
  }

 private:
  using StatePointers = std::array<S*, kStates>;
  static constexpr int kLanes = 16;  // units at a time
  using Lanes = Eigen::Array<S, kLanes, 1>;
  using Steps = Eigen::Map<Matrix<S>, 0, Eigen::OuterStride<>>;
  using ConstSteps = Eigen::Map<const Matrix<S>, 0, Eigen::OuterStride<>>;

  struct Sizes {
    Index steps, examples;
    Index columns() const { return steps * examples; }
    Index column(Index t, Index n) const { return n * steps + t; }
  };

  Index rows(std::size_t count) const { return static_cast<Index>(count) * hidden_; }
  Index gate_rows() const { return rows(kGates); }
  static Sizes sizes_of(const ConstBatchView<S>& x) { return {x.shape[0], x.examples()}; }

  static StatePointers pointers(StateBuffers& buffers) {
    StatePointers result;
    for (std::size_t k = 0; k < kStates; ++k) result[k] = buffers[k].data();
    return result;
  }
  /// States before each step, of which the first are 0, and room for one more column.
  StatePointers start(const Sizes& sizes, StateBuffers& buffers) const {
    for (Buffer<S>& buffer : buffers) {
      MatrixMap<S> states = buffer.map(hidden_, sizes.columns() + 1);
      for (Index n = 0; n < sizes.examples; ++n) states.col(sizes.column(0, n)).setZero();
    }
    return pointers(buffers);
  }
  /// The column of the state after a step; that after the last is in nobody's way.
  static Index after(const Sizes& sizes, Index t, Index n) {
    return t + 1 == sizes.steps ? sizes.columns() : sizes.column(t, n) + 1;
  }
  /// Gradients of the states after the last step: 0 before there are outputs'.
  StatePointers end(const Sizes& sizes, StateBuffers& buffers) const {
    for (Buffer<S>& buffer : buffers) buffer.map(hidden_, sizes.examples).setZero();
    return pointers(buffers);
  }

  void take_mask(const Sizes& sizes, Scratch& scratch, const Mode& mode) const {
    if (!mode.mask || mode.mask->rows() != sizes.steps) {
      scratch.real.clear();
      return;
    }
    const std::string where = std::string("kfac::") + kind();
    detail::check_shape(where.c_str(), "mask", mode.mask->rows(), mode.mask->cols(), sizes.steps,
                        sizes.examples);
    scratch.real.assign(mode.mask->data(), mode.mask->data() + mode.mask->size());
  }
  static bool is_padding(const Scratch& scratch, Index t, Index n) {
    return !scratch.real.empty() && !scratch.real[static_cast<std::size_t>(n * scratch.steps + t)];
  }
  /// If it is padding, the gradients there are 0, and those of the state pass by.
  bool skips(const Scratch& scratch, Index t, Index n, std::initializer_list<S*> gradients) const {
    if (!is_padding(scratch, t, n)) return false;
    for (S* const column : gradients)
      if (column) VectorMap<S>(column, gate_rows()).setZero();
    return true;
  }

  /// Copies a state to where the layer puts it out, if it does.
  void put_out(const S* state, const Sizes& sizes, Index t, Index n, S* output) const {
    if (return_last_ && t + 1 < sizes.steps) return;
    const Index column = return_last_ ? n : sizes.column(t, n);
    VectorMap<S>(output + column * hidden_, hidden_) = ConstVectorMap<S>(state, hidden_);
  }
  void add_output_gradient(const S* gradient, const Sizes& sizes, Index t, S* state) const {
    if (return_last_ && t + 1 < sizes.steps) return;
    MatrixMap<S> into(state, hidden_, sizes.examples);
    if (return_last_)
      into += ConstMatrixMap<S>(gradient, hidden_, sizes.examples);
    else
      into += step(gradient, hidden_, hidden_, sizes, t);
  }

  /// One step of all examples: the first `count` of `rows`.
  static Steps step(S* data, Index rows, Index count, const Sizes& sizes, Index t) {
    return {data + t * rows, count, sizes.examples, Eigen::OuterStride<>(rows * sizes.steps)};
  }
  static ConstSteps step(const S* data, Index rows, Index count, const Sizes& sizes, Index t) {
    return {data + t * rows, count, sizes.examples, Eigen::OuterStride<>(rows * sizes.steps)};
  }

  ConstMatrixMap<S> weight(const S* parameters) const { return {parameters, gate_rows(), hidden_}; }
  ConstVectorMap<S> bias(const S* parameters) const {
    return {parameters + gate_rows() * hidden_, gate_rows()};
  }
  /// q = W h + b of one step, where the cell keeps things.
  void multiply_state(const S* states, const Sizes& sizes, Index t, S* kept) const {
    Steps q = step(kept, rows(kKept), gate_rows(), sizes, t);
    q.setZero();
    if (bias_) q.colwise() += bias(parameters_.data());
    if (t > 0)
      linalg::multiply_add(S(1), weight(parameters_.data()),
                           step(states, hidden_, hidden_, sizes, t), q);
  }
  /// The gradient of the state before a step += W^T q.
  void add_transposed(const S* parameters, const S* q, const Sizes& sizes, Index t,
                      S* state) const {
    linalg::multiply_add(S(1), weight(parameters).transpose(),
                         step(q, gate_rows(), gate_rows(), sizes, t),
                         MatrixMap<S>(state, hidden_, sizes.examples));
  }
  /// W = q h^T over all steps, or that added to it.
  void sum_outer(const S* q, const S* states, const Sizes& sizes, S* parameters, bool add) const {
    const ConstMatrixMap<S> left(q, gate_rows(), sizes.columns());
    const ConstMatrixMap<S> right(states, hidden_, sizes.columns());
    MatrixMap<S> into(parameters, gate_rows(), hidden_);
    if (add)
      linalg::multiply_add(S(1), left, right.transpose(), into);
    else
      linalg::multiply(left, right.transpose(), into);
  }
  void sum_columns(const S* q, const Sizes& sizes, S* parameters) const {
    VectorMap<S> sum(parameters + gate_rows() * hidden_, gate_rows());
    sum.setZero();
    for (Index n = 0; n < sizes.columns(); ++n)
      sum += ConstVectorMap<S>(q + n * gate_rows(), gate_rows());
  }

  /// One number, or as many as an array has, in memory.
  template <class N>
  static N read(const S* from) {
    if constexpr (std::same_as<N, S>)
      return *from;
    else
      return Eigen::Map<const N>(from);
  }
  template <class N>
  static void write(const N& number, S* to) {
    if constexpr (std::same_as<N, S>)
      *to = number;
    else
      Eigen::Map<N>{to} = number;
  }
  /// Numbers that are `hidden` apart, or in arrays of their own.
  template <std::size_t K, class N = S>
  Units<N, K> load(const S* from) const {
    Units<N, K> units;
    for (std::size_t k = 0; k < K; ++k) units[k] = read<N>(from + static_cast<Index>(k) * hidden_);
    return units;
  }
  template <std::size_t K, class N = S>
  static Units<N, K> load(const std::array<S*, K>& from, Index i) {
    Units<N, K> units;
    for (std::size_t k = 0; k < K; ++k) units[k] = read<N>(from[k] + i);
    return units;
  }
  template <class N, std::size_t K>
  void store(const Units<N, K>& units, S* to) const {
    for (std::size_t k = 0; k < K; ++k) write(units[k], to + static_cast<Index>(k) * hidden_);
  }

  /// The backward pass of a cell from its j-th unit on, in one column of the batch.
  template <class N>
  void backward_units(Scratch& scratch, Index at, Index n, Index j, const StatePointers& state,
                      S* q, S* p) const {
    Units<N, kStates> adjoint = load<kStates, N>(state, n * hidden_ + j);
    Units<N, kGates> input_part, state_part;
    Cell::template backward<N>(load<kKept, N>(scratch.kept.data() + at * rows(kKept) + j),
                               load<kStates, N>(pointers(scratch.states), at * hidden_ + j),
                               adjoint, input_part, state_part);
    for (std::size_t k = 0; k < kStates; ++k) write(adjoint[k], state[k] + n * hidden_ + j);
    store(state_part, q + j);
    if (p) store(input_part, p + j);
  }

  template <std::size_t K>
  static Units<Dual<S>, K> dual(const Units<S, K>& values, const Units<S, K>& tangents) {
    Units<Dual<S>, K> units;
    for (std::size_t k = 0; k < K; ++k) units[k] = {values[k], tangents[k]};
    return units;
  }

  /// The tangents of states, of what is kept, and of the output if it is wanted.
  void find_tangents(const ConstBatchView<S>& x, const ConstBatchView<S>* x_tangent,
                     const ConstVectorMap<S>* parameter_tangent, S* output,
                     Scratch& scratch) const {
    const Sizes sizes = sizes_of(x);
    const StatePointers states = pointers(scratch.states);
    const StatePointers tangents = start(sizes, scratch.state_tangents);
    S* const kept_tangent = scratch.kept_tangent.map(rows(kKept), sizes.columns()).data();
    MatrixMap<S> q = scratch.gate_tangents.map(gate_rows(), sizes.columns());
    q.setZero();
    if (parameter_tangent) {
      if (bias_) q.colwise() += bias(parameter_tangent->data());
      linalg::multiply_add(S(1), weight(parameter_tangent->data()),
                           ConstMatrixMap<S>(states[0], hidden_, sizes.columns()), q);
    }
    for (Index t = 0; t < sizes.steps; ++t) {
      if (t > 0)
        linalg::multiply_add(S(1), weight(parameters_.data()),
                             step(std::as_const(tangents[0]), hidden_, hidden_, sizes, t),
                             step(q.data(), gate_rows(), gate_rows(), sizes, t));
      for (Index n = 0; n < sizes.examples; ++n) {
        const Index at = sizes.column(t, n);
        const Index next = after(sizes, t, n);
        for (Index j = 0; j < hidden_; ++j) {
          const Units<S, kStates> before = load<kStates>(tangents, at * hidden_ + j);
          Units<S, kStates> state = before;
          if (!is_padding(scratch, t, n)) {
            const Units<S, kGates> p =
                x_tangent ? load<kGates>(x_tangent->values.data() + at * gate_rows() + j)
                          : Units<S, kGates>{};
            Units<S, kKept> kept;
            Cell::template tangent<S>(load<kKept>(scratch.kept.data() + at * rows(kKept) + j),
                                      load<kStates>(states, at * hidden_ + j), p,
                                      load<kGates>(q.data() + at * gate_rows() + j), before, kept,
                                      state);
            store(kept, kept_tangent + at * rows(kKept) + j);
          }
          for (std::size_t k = 0; k < kStates; ++k) tangents[k][next * hidden_ + j] = state[k];
        }
        if (output) put_out(tangents[0] + next * hidden_, sizes, t, n, output);
      }
    }
  }

  static SharedBatch<S> shared(const S* data, Index features, const Sizes& sizes) {
    return {data, features, sizes.columns(), sizes.steps, SharedBatch<S>::Order::ColumnMajor};
  }

  Index hidden_ = 0;
  bool bias_ = false;
  bool return_last_ = false;
  Matrix<S> parameters_;  // [W b]
};

}  // namespace kfac
