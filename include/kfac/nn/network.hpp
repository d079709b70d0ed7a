#pragma once

#include <string>
#include <utility>
#include <vector>

#include <kfac/core/buffer.hpp>
#include <kfac/core/pieces.hpp>
#include <kfac/core/state.hpp>
#include <kfac/nn/slot.hpp>

namespace kfac {

/// Of a network whose batches may have any size: its memory grows with them.
struct RunTimeSizes {
  static constexpr Index kInput = Eigen::Dynamic;        ///< entries of a batch, at most
  static constexpr Index kOutput = Eigen::Dynamic;       ///< likewise
  static constexpr int kParameters = Eigen::Dynamic;     ///< at most
  static constexpr Index kActivations = Eigen::Dynamic;  ///< all that the layers keep
  static constexpr Index kFlow = Eigen::Dynamic;         ///< entries between two layers, at most
};

/// Everything a pass through a network writes. A network owns one; a thread that evaluates a shared
/// network brings its own (`network.make_workspace()`). `Sizes` says whether they are known when it
/// is compiled: then it is all in the object, but for what `backward_tangent` needs.
template <RealScalar S, class Scratch, class Sizes = RunTimeSizes>
struct Workspace {
  /// A copy: what was given to forward need not outlive the call.
  Buffer<S, Sizes::kInput> input;
  Buffer<S, Sizes::kOutput> output;
  Buffer<S, Sizes::kOutput> tangent;
  /// Used where the gradient given to backward is not contiguous.
  Buffer<S, Sizes::kOutput> grad_output;
  Buffer<S> grad_output_tangent;  ///< likewise, its tangent
  Shape input_shape;
  Shape output_shape;
  Index examples = 0;  ///< of the last forward pass; 0 before the first
  /// Flat, in the order of `layers()`.
  Eigen::Matrix<S, Eigen::Dynamic, 1, Eigen::ColMajor, Sizes::kParameters> gradient;
  Vector<S> gradient_tangent;  ///< likewise; empty until it is asked for
  Mode mode;
  Scratch scratch;
};

/// What a container needs to be used as a network: passes over whole batches with checked
/// arguments, and a workspace of its own. `Derived` is a ContainerLayer.
template <class Derived, RealScalar S, class Scratch, class Sizes = RunTimeSizes>
class Network {
 public:
  using Workspace = kfac::Workspace<S, Scratch, Sizes>;

  /// For another thread, say: it starts in this network's mode, but announces nothing.
  Workspace make_workspace() const {
    Workspace workspace;
    flat_gradient(workspace);
    workspace.mode = {workspace_.mode.training, false};
    return workspace;
  }
  Workspace& workspace() { return workspace_; }
  const Workspace& workspace() const { return workspace_; }

  /// What passes forward and back through so many examples of a shape take of a workspace, beside
  /// the gradient of the parameters. \throws ShapeError if the network cannot take the shape
  WorkspaceSize workspace_size(const Shape& shape, Index examples, const Mode& mode = {}) const {
    const Index outputs = derived().output_shape(shape).size();
    WorkspaceSize size = derived().scratch_size(shape, examples, mode);
    size.activations += Buffer<S, Sizes::kInput>::room_for(shape.size() * examples) +
                        Buffer<S, Sizes::kOutput>::room_for(outputs * examples);
    return size;
  }

  /// The network's outputs, `outputs x examples`, valid until the next pass. `x` is `features x
  /// examples`; `shape` is that of one example, `{features}` where it is not given.
  /// \throws ShapeError if x is empty, does not fit or is too large for a network whose sizes are
  ///         known when it is compiled; ValueError if it is not finite
  ConstMatrixMap<S> forward(const ConstMatrixRef<S>& x) { return forward(x, workspace_); }
  ConstMatrixMap<S> forward(const ConstMatrixRef<S>& x, const Shape& shape) {
    return forward(x, shape, workspace_);
  }
  ConstMatrixMap<S> forward(const ConstMatrixRef<S>& x, Workspace& workspace) const {
    if (x.rows() == 0) raise<ShapeError>("kfac::Network::forward: 'x' has no rows");
    return forward(x, Shape{x.rows()}, workspace);
  }
  ConstMatrixMap<S> forward(const ConstMatrixRef<S>& x, const Shape& shape,
                            Workspace& workspace) const {
    static constexpr const char* kWhere = "kfac::Network::forward";
    if (x.cols() == 0)
      raise<ShapeError>("kfac::Network::forward: 'x' has 0 examples, expected at least 1");
    detail::check_size(kWhere, "x", x.rows(), shape.size(), "rows");
    if constexpr (Sizes::kInput != Eigen::Dynamic)
      if (x.size() > Sizes::kInput)
        raise<ShapeError>("kfac::Network::forward: 'x' has " + std::to_string(x.size()) +
                          " entries, expected at most " + std::to_string(Sizes::kInput) +
                          ", for which there is room");
    const Shape output_shape = derived().output_shape(shape);
    if (!detail::all_finite<S>(x)) detail::check_finite(kWhere, "x", x);
    detail::copy_batch<S>(x, workspace.input.map(x.rows(), x.cols()));
    workspace.input_shape = shape;
    workspace.output_shape = output_shape;
    workspace.examples = x.cols();
    derived().forward(input(workspace), output(workspace), workspace.scratch, workspace.mode);
    return ConstBatchView<S>(output(workspace)).values;
  }

  /// Writes the gradient of the parameters, given that of the outputs (`outputs x examples`), for
  /// the last forward pass. In the network's own workspace, after a forward pass in training, it
  /// also updates running statistics (of BatchNorm): once a step, that is, however often the loss
  /// is evaluated besides.
  /// \throws StateError before any forward pass; ShapeError if the gradient does not fit
  void backward(const ConstMatrixRef<S>& grad_output) {
    backward(grad_output, workspace_);
    absorb_statistics();
  }
  void backward(const ConstMatrixRef<S>& grad_output, Workspace& workspace) const {
    VectorMap<S> gradient = flat_gradient(workspace);
    pull_back(grad_output, nullptr, &gradient, workspace);
  }

  /// Takes the statistics of the last forward pass of the network's own workspace, if that was in
  /// training, into the running ones; nothing if that has been done.
  void absorb_statistics() { derived().absorb(workspace_.scratch); }

  /// As `backward`, announcing output gradients, but computing no gradient of the parameters.
  void backward_hooks_only(const ConstMatrixRef<S>& grad_output) {
    pull_back(grad_output, nullptr, nullptr, workspace_);
  }

  /// The gradient with respect to the inputs of the last forward pass; that of the parameters is
  /// written too.
  Matrix<S> input_gradient(const ConstMatrixRef<S>& grad_output) {
    Matrix<S> result(workspace_.input_shape.size(), workspace_.examples);
    BatchView<S> view{{result.data(), result.rows(), result.cols()}, workspace_.input_shape};
    VectorMap<S> gradient = this->gradient();
    pull_back(grad_output, &view, &gradient, workspace_);
    return result;
  }

  /// J v: the change of the outputs of the last forward pass when the flat parameters change along
  /// `parameter_tangent`. Valid until the next tangent.
  ConstMatrixMap<S> tangent(const ConstVectorRef<S>& parameter_tangent) {
    return tangent(parameter_tangent, workspace_);
  }
  ConstMatrixMap<S> tangent(const ConstVectorRef<S>& parameter_tangent,
                            Workspace& workspace) const {
    check_forward("kfac::Network::tangent", workspace);
    detail::check_size("kfac::Network::tangent", "parameter_tangent", parameter_tangent.size(),
                       derived().parameter_count(), "entries");
    const ConstVectorMap<S> direction(parameter_tangent.data(), parameter_tangent.size());
    BatchView<S> result{workspace.tangent.map(workspace.output_shape.size(), workspace.examples),
                        workspace.output_shape};
    derived().tangent(input(workspace), output(workspace), nullptr, &direction, result,
                      workspace.scratch);
    return ConstBatchView<S>(result).values;
  }

  /// How the gradient that `backward(grad_output)` writes changes when the flat parameters change
  /// along `parameter_tangent` and `grad_output` along `grad_output_tangent` (both `outputs x
  /// examples`), for the last forward pass of `workspace`. Valid until the next; what `backward`
  /// wrote stays. A compile error if a layer is no TwiceDifferentiableLayer.
  /// \throws StateError before any forward pass, or if a layer chosen at run time is no
  ///         TwiceDifferentiableLayer; ShapeError if an argument does not fit
  ConstVectorMap<S> backward_tangent(const ConstMatrixRef<S>& grad_output,
                                     const ConstVectorRef<S>& parameter_tangent,
                                     const ConstMatrixRef<S>& grad_output_tangent,
                                     Workspace& workspace) const {
    static constexpr const char* kWhere = "kfac::Network::backward_tangent";
    static_assert(Derived::kTwiceDifferentiable,
                  "each layer of this network needs backward_tangent (TwiceDifferentiableLayer)");
    check_forward(kWhere, workspace);
    check_outputs(kWhere, "grad_output", grad_output, workspace);
    detail::check_size(kWhere, "parameter_tangent", parameter_tangent.size(),
                       derived().parameter_count(), "entries");
    check_outputs(kWhere, "grad_output_tangent", grad_output_tangent, workspace);
    const ConstVectorMap<S> direction(parameter_tangent.data(), parameter_tangent.size());
    workspace.gradient_tangent.resize(derived().parameter_count());
    VectorMap<S> result(workspace.gradient_tangent.data(), workspace.gradient_tangent.size());
    derived().backward_tangent(
        input(workspace), output(workspace),
        contiguous(grad_output, workspace.grad_output, workspace), nullptr, &direction,
        contiguous(grad_output_tangent, workspace.grad_output_tangent, workspace), nullptr, &result,
        workspace.scratch);
    return {result.data(), result.size()};
  }

  /// The flat gradient of the last backward pass, which optimizers may change.
  VectorMap<S> gradient() { return flat_gradient(workspace_); }

  /// The leaves in order of their flat parameters. Valid while this network is alive and not moved.
  std::vector<LayerView<S>> layers() {
    std::vector<LayerView<S>> views;
    derived().append_layers(gradient().data(), views);
    return views;
  }

  /// The number of parameters of each of `layers()`.
  std::vector<Index> layer_sizes() const {
    std::vector<Index> sizes;
    derived().append_layer_sizes(sizes);
    return sizes;
  }

  /// The parameters by layer and name as PyTorch has them ("0.weight", "3.1.bias"): weights as
  /// matrices, whatever else has one column as vectors. Then running statistics
  /// ("1.running_mean"), and what the workspace carries from one pass to the next ("2.rng", of a
  /// Dropout).
  void visit_state(StateVisitor& visitor) {
    for (LayerView<S>& layer : layers())
      for (const ParameterInfo& info : layer.parameter_info) {
        const std::string name = layer.name + '.' + info.name;
        S* data = layer.parameters.data() + info.offset;
        const bool is_matrix = layer.kronecker && info.name.starts_with("weight");
        if (info.columns == 1 && !is_matrix)
          visitor.visit(name, VectorMap<S>(data, info.rows));
        else
          visitor.visit(name, MatrixMap<S>(data, info.rows, info.columns));
      }
    derived().visit_buffers(visitor);
    derived().visit_scratch(visitor, workspace_.scratch);
  }

  /// Which positions (tokens) of the coming batches are real, `positions x examples`; the others
  /// are padding, which layers that mix positions ignore and Kronecker factors leave out. Null:
  /// all. It must stay alive, and fit the batches. It is for the network's own workspace; for
  /// another, `workspace.mode.mask`.
  void set_mask(const PositionMask* mask) { workspace_.mode.mask = mask; }

  /// Dropout on and normalisation by the batch's statistics, as in training (the default).
  void train() { workspace_.mode.training = true; }
  /// Dropout off, normalisation by the running statistics.
  void eval() { workspace_.mode.training = false; }

 protected:
  Network() = default;
  // A copy starts with a workspace of its own, in the same mode.
  Network(const Network& other) : Network() { workspace_.mode = other.workspace_.mode; }
  Network& operator=(const Network& other) {
    workspace_.mode = other.workspace_.mode;
    return *this;
  }
  Network(Network&&) noexcept = default;
  Network& operator=(Network&&) noexcept = default;
  ~Network() = default;

 private:
  Derived& derived() { return static_cast<Derived&>(*this); }
  const Derived& derived() const { return static_cast<const Derived&>(*this); }

  static BatchView<S> input(Workspace& workspace) {
    return {workspace.input.map(workspace.input_shape.size(), workspace.examples),
            workspace.input_shape};
  }
  static BatchView<S> output(Workspace& workspace) {
    return {workspace.output.map(workspace.output_shape.size(), workspace.examples),
            workspace.output_shape};
  }

  VectorMap<S> flat_gradient(Workspace& workspace) const {
    if (workspace.gradient.size() != derived().parameter_count())
      workspace.gradient.setZero(derived().parameter_count());
    return {workspace.gradient.data(), workspace.gradient.size()};
  }

  static void check_forward(const char* where, const Workspace& workspace) {
    if (workspace.examples == 0)
      raise<StateError>(std::string(where) + ": no forward pass before it");
  }

  static void check_outputs(const char* where, const char* argument,
                            const ConstMatrixRef<S>& values, const Workspace& workspace) {
    detail::check_shape(where, argument, values.rows(), values.cols(),
                        workspace.output_shape.size(), workspace.examples);
  }

  /// A view of `values`, which look like the outputs: through a copy if they are not contiguous.
  template <Index Capacity>
  static ConstBatchView<S> contiguous(const ConstMatrixRef<S>& values, Buffer<S, Capacity>& copy,
                                      const Workspace& workspace) {
    const S* data = values.data();
    if (values.outerStride() != values.rows() && values.cols() > 1) {
      detail::copy_batch<S>(values, copy.map(values.rows(), values.cols()));
      data = copy.data();
    }
    return {{data, values.rows(), values.cols()}, workspace.output_shape};
  }

  void pull_back(const ConstMatrixRef<S>& grad_output, BatchView<S>* grad_input,
                 VectorMap<S>* grad_parameters, Workspace& workspace) const {
    static constexpr const char* kWhere = "kfac::Network::backward";
    check_forward(kWhere, workspace);
    check_outputs(kWhere, "grad_output", grad_output, workspace);
    derived().backward(input(workspace), output(workspace),
                       contiguous(grad_output, workspace.grad_output, workspace), grad_input,
                       grad_parameters, workspace.scratch, workspace.mode);
    if (workspace.mode.once) workspace.examples = 0;
  }

  Workspace workspace_;
};

/// Switches announcements to observers off for a network's own workspace, and back on at the end of
/// the scope.
template <class Model>
class NoTracking {
 public:
  explicit NoTracking(Model& model)
      : mode_(model.workspace().mode), before_(std::exchange(mode_.tracking, false)) {}
  NoTracking(const NoTracking&) = delete;
  NoTracking& operator=(const NoTracking&) = delete;
  ~NoTracking() { mode_.tracking = before_; }

 private:
  Mode& mode_;
  bool before_;
};

/// For the duration of a scope, one backward pass follows each forward pass of a network's own
/// workspace and nothing else, if it is `wanted`: it may use up what the forward pass left.
template <class Model>
class OneBackwardPass {
 public:
  OneBackwardPass(Model& model, bool wanted)
      : mode_(model.workspace().mode), before_(std::exchange(mode_.once, wanted)) {}
  OneBackwardPass(const OneBackwardPass&) = delete;
  OneBackwardPass& operator=(const OneBackwardPass&) = delete;
  ~OneBackwardPass() { mode_.once = before_; }

 private:
  Mode& mode_;
  bool before_;
};

/// Evaluation for the duration of a scope: no dropout, nothing announced unless `tracking`.
template <class Model>
class Evaluation {
 public:
  explicit Evaluation(Model& model, bool tracking = false)
      : mode_(model.workspace().mode), before_(mode_) {
    mode_.training = false;
    mode_.tracking = tracking;
    mode_.once = false;
  }
  Evaluation(const Evaluation&) = delete;
  Evaluation& operator=(const Evaluation&) = delete;
  ~Evaluation() { mode_ = before_; }

 private:
  Mode& mode_;
  Mode before_;
};

}  // namespace kfac
