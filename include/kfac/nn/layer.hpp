#pragma once

#include <optional>
#include <string>
#include <vector>

#include <kfac/core/shape.hpp>
#include <kfac/nn/hooks.hpp>
#include <kfac/nn/pass_trace.hpp>
#include <kfac/nn/shared_batch.hpp>

namespace kfac {

/// A batch that may be written, and the shape of each of its examples: `values` is
/// `shape.size() x examples`.
template <RealScalar S>
struct BatchView {
  MatrixMap<S> values;
  Shape shape;

  /// `shape.back() x (positions * examples)`: a column for each position on the slower axes.
  MatrixMap<S> columns() { return {values.data(), shape.back(), values.size() / shape.back()}; }
};

/// A batch to be read.
template <RealScalar S>
struct ConstBatchView {
  ConstMatrixMap<S> values;
  Shape shape;

  ConstBatchView(const ConstMatrixMap<S>& values_, const Shape& shape_)
      : values(values_), shape(shape_) {}
  ConstBatchView(const BatchView<S>& other)  // NOLINT(google-explicit-constructor)
      : values(other.values.data(), other.values.rows(), other.values.cols()), shape(other.shape) {}

  Index examples() const { return values.cols(); }
  ConstMatrixMap<S> columns() const {
    return {values.data(), shape.back(), values.size() / shape.back()};
  }
};

/// What a pass through a network is for.
struct Mode {
  bool training = true;  ///< dropout is active
  bool tracking = true;  ///< inputs and output gradients are announced to observers
  /// Of a forward pass, and of the backward pass that is all that follows it: gradients may replace
  /// what layers put out, which takes less memory.
  bool once = false;
  /// Which positions of the examples are real: layers that mix positions ignore the others. Null:
  /// all. `Network::set_mask`
  const PositionMask* mask = nullptr;
  // How a layer's pass fits into that of the network, for announcements:
  Index use = 0;               ///< it is the use-th, from 0,
  Index uses = 1;              ///< of so many uses of the same parameters
  Index joined = 1;            ///< so many consecutive examples are parts of one of the network's
  PassTrace* trace = nullptr;  ///< hears of each layer's pass forward, as `describe` does

  /// The same, for the k-th of so many uses within it.
  Mode of_use(Index k, Index count) const {
    Mode mode = *this;
    mode.use = use * count + k;
    mode.uses = uses * count;
    return mode;
  }
};

/// Whether a layer can write its output where its input is.
enum class InPlace {
  Never,
  Replaces,  ///< over the input: only `forward` reads x, the other passes and tangents only y
  Keeps,     ///< the output is the input, number by number: passes that need no copy are left out
};

/// What a layer needs of the memory of its batches. The default is always right; a layer that needs
/// less says so in `static constexpr MemoryUse memory_use()`.
struct MemoryUse {
  /// Where it is not `Never`, the two arguments of each pass that look alike (x and y, the tangents
  /// of these, the gradients, the tangents of those) may be the same memory. For layers without
  /// parameters.
  InPlace in_place = InPlace::Never;
  /// Whether passes after `forward` read y. Where not, the layer above may replace it.
  bool reads_output = true;
};

/// How many numbers of memory passes forward and back through a batch take.
struct WorkspaceSize {
  Index activations = 0;  ///< the input, and what layers put out
  Index gradients = 0;    ///< those of activations that are there at one time
  Index scratch = 0;      ///< what layers keep for themselves

  Index total() const { return activations + gradients + scratch; }
  WorkspaceSize& operator+=(const WorkspaceSize& other) {
    activations += other.activations;
    gradients += other.gradients;
    scratch += other.scratch;
    return *this;
  }
};

/// A parameter's place in its layer's flat parameters: column-major `rows x columns` at `offset`.
struct ParameterInfo {
  std::string name;  ///< as in PyTorch: "weight", "bias"
  Index offset = 0;
  Index rows = 0;
  Index columns = 0;
  /// Of the weight of a convolution: its columns are (channel, then these axes).
  Shape kernel = {};
};

/// The Kronecker structure of a layer with curvature: its flat parameters are `groups` matrices
/// [W b], each `outputs x (inputs + bias)` and column-major, one after another. Group i multiplies
/// the i-th of `groups` equal slices of the announced features.
struct KroneckerStructure {
  Index inputs = 0;
  Index outputs = 0;
  bool bias = true;
  Index groups = 1;
  bool diagonal_input = false;  ///< at most one input is not 0, as in an embedding of tokens

  Index columns() const { return inputs + (bias ? 1 : 0); }
};

/// A differentiable map of batches. All state that changes in a pass is in `Scratch`; a layer's own
/// members are its parameters and constants, so that threads with their own scratch can share it.
/// `parameters()` is a map of all of them, contiguous; it may be empty. Pointers may be null: what
/// they point to is not wanted (outputs) or zero (tangents). Semantics:
///
/// - `output_shape(shape)`: of one example; throws ShapeError if the layer cannot take `shape`.
/// - `forward(x, y, scratch, mode)`: writes y.
/// - `backward(x, y, grad_output, grad_input, grad_parameters, scratch, mode)`: the
///   vector-Jacobian products; overwrites both gradients. `x`, `y` and `scratch` are those of the
///   forward pass before it.
/// - `tangent(x, y, x_tangent, parameter_tangent, y_tangent, scratch)`: overwrites `y_tangent` with
///   the Jacobian-vector product, likewise after a forward pass.
///
/// A layer that does not need all of x and y for these also offers `memory_use()`, so that networks
/// with it take less memory.
///
/// A layer whose scratch grows with the batch also offers `scratch_size(shape, examples)`: how many
/// numbers it takes for passes forward and back; a container, `scratch_size(shape, examples,
/// mode)`, as `WorkspaceSize`.
///
/// What `describe` says of a layer comes from its `kind()`, and from `multiply_adds(shape)`: those
/// of a pass forward with one example, inner layers apart. A KroneckerLayer without it has those of
/// its linear map, any other none.
///
/// A layer whose passes depend on those before (a generator in its scratch, say) also offers
/// `visit_scratch(visitor, scratch)`, which visits what a run needs to go on as if it had not been
/// interrupted.
///
/// A layer that learns otherwise than by gradients (running statistics) also offers
/// `absorb(scratch)`, which takes what the last training pass left in the scratch into the layer,
/// once, and `visit_state(visitor)`, which visits what it so keeps.
///
/// A layer with parameters that is no KroneckerLayer may offer `example_gradients(x, y,
/// grad_output, into, scratch)`: the gradient of its parameters for each example, `parameters x
/// examples`, overwritten, after a forward pass. Without it, each example is passed by itself.
template <class L>
concept Layer = RealScalar<typename L::Scalar> && std::default_initializable<typename L::Scratch> &&
    requires(const L& layer, typename L::Scratch& scratch, const Shape& shape,
             const ConstBatchView<typename L::Scalar>& in, BatchView<typename L::Scalar> out,
             BatchView<typename L::Scalar>* grad_input,
             VectorMap<typename L::Scalar>* grad_parameters,
             const ConstBatchView<typename L::Scalar>* x_tangent,
             const ConstVectorMap<typename L::Scalar>* parameter_tangent, const Mode& mode) {
  { layer.output_shape(shape) } -> std::same_as<Shape>;
  { layer.parameter_count() } -> std::convertible_to<Index>;
  layer.forward(in, out, scratch, mode);
  layer.backward(in, in, in, grad_input, grad_parameters, scratch, mode);
  layer.tangent(in, in, x_tangent, parameter_tangent, out, scratch);
};

/// A layer that also has the second derivatives that products with the Hessian are made of.
///
/// - `backward_tangent(x, y, grad_output, x_tangent, parameter_tangent, grad_output_tangent,
///   grad_input_tangent, grad_parameters_tangent, scratch)`: how both gradients that `backward`
///   writes change when x, the parameters and grad_output change along the given tangents.
///   Overwrites both, likewise after a forward pass with x.
/// \source Pearlmutter, Fast exact multiplication by the Hessian, 1994
template <class L>
concept TwiceDifferentiableLayer = Layer<L> &&
    requires(const L& layer, typename L::Scratch& scratch,
             const ConstBatchView<typename L::Scalar>& in,
             const ConstBatchView<typename L::Scalar>* x_tangent,
             const ConstVectorMap<typename L::Scalar>* parameter_tangent,
             BatchView<typename L::Scalar>* grad_input_tangent,
             VectorMap<typename L::Scalar>* grad_parameters_tangent) {
  layer.backward_tangent(in, in, in, x_tangent, parameter_tangent, in, grad_input_tangent,
                         grad_parameters_tangent, scratch);
};

/// A layer that is not made of other layers: its parameters are one contiguous vector.
template <class L>
concept LeafLayer = Layer<L> && requires(L& layer) {
  { layer.parameters() } -> std::same_as<VectorMap<typename L::Scalar>>;
};

/// A layer that announces what Kronecker factors are made of. Both views are asked for right after
/// the pass they belong to, with its arguments.
template <class L>
concept KroneckerLayer = LeafLayer<L> &&
    requires(const L& layer, const typename L::Scratch& scratch,
             const ConstBatchView<typename L::Scalar>& batch) {
  { layer.kronecker_structure() } -> std::same_as<KroneckerStructure>;
  { layer.kronecker_input(batch, scratch) } -> std::same_as<SharedBatch<typename L::Scalar>>;
  {
    layer.kronecker_output_gradient(batch, scratch)
    } -> std::same_as<SharedBatch<typename L::Scalar>>;
};

/// One leaf of a network, without its type: what optimizers, preconditioners and observers need.
/// Valid while the network it was taken from is alive and not moved.
template <RealScalar S>
struct LayerView {
  std::string name;  ///< its path in the network: "0", "3.1"
  std::string kind;  ///< "Linear", "Conv2d", ...
  VectorMap<S> parameters;
  VectorMap<S> gradient;  ///< of the network's own workspace
  std::vector<ParameterInfo> parameter_info;
  std::optional<KroneckerStructure> kronecker;  ///< absent where there is no curvature
  HookPoint<S>* hooks = nullptr;                ///< where to observe it; null without parameters
  bool twice_differentiable = false;            ///< whether it has `backward_tangent`
  /// Where it is not 0, the parameters are a `units x (parameters / units)` matrix, one row for
  /// each output unit: a layer's `units()`.
  Index units = 0;
  bool recurrent = false;  ///< positions are steps in time, in order: a layer's `kRecurrent`
};

/// Which kinds of curvature blocks, beside that of linear maps, the layers of a network's type may
/// call for (`default_blocks`): a program pays for those that it uses.
struct BlockNeeds {
  bool unitwise = false;        ///< layers with `units()`
  bool diagonal_input = false;  ///< layers with such a `KroneckerStructure`

  constexpr BlockNeeds operator|(const BlockNeeds& other) const {
    return {unitwise || other.unitwise, diagonal_input || other.diagonal_input};
  }
};

namespace detail {

/// What the type of a layer says of it by `static constexpr BlockNeeds block_needs()`.
template <class L>
constexpr BlockNeeds block_needs_of() {
  if constexpr (requires { L::block_needs(); })
    return L::block_needs();
  else
    return {};
}

/// Whether a layer is a function of each entry of its input by itself, which it says by a member
/// `static constexpr bool kElementwise = true`.
template <class L>
inline constexpr bool kIsElementwise = requires {
  requires L::kElementwise;
};

/// What the type of a layer says, if it says anything.
template <class L>
constexpr MemoryUse memory_use_of() {
  if constexpr (requires { L::memory_use(); })
    return L::memory_use();
  else
    return {};
}

}  // namespace detail

/// Base of layers without parameters.
template <RealScalar S>
class ParameterFree {
 public:
  using Scalar = S;
  static constexpr int kParameters = 0;
  Index parameter_count() const { return 0; }
  VectorMap<S> parameters() { return {nullptr, 0}; }
};

/// Mixed into layers without parameters whose Jacobian is the same at all inputs nearby: the
/// tangent of the backward pass is the backward pass of the tangent.
template <class Derived, RealScalar S>
class LocallyLinear {
 public:
  template <class Scratch>
  void backward_tangent(const ConstBatchView<S>& x, const ConstBatchView<S>& y,
                        const ConstBatchView<S>&, const ConstBatchView<S>*,
                        const ConstVectorMap<S>*, const ConstBatchView<S>& grad_output_tangent,
                        BatchView<S>* grad_input_tangent, VectorMap<S>*, Scratch& scratch) const {
    static_cast<const Derived&>(*this).backward(x, y, grad_output_tangent, grad_input_tangent,
                                                nullptr, scratch, Mode{});
  }
};

}  // namespace kfac
