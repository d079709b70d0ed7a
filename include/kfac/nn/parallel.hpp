#pragma once

#include <algorithm>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <kfac/nn/branches.hpp>
#include <kfac/nn/chain_memory.hpp>

namespace kfac {
namespace detail {

/// What becomes of the outputs of branches.
enum class Join {
  Concatenate,  ///< one after another on the slowest axis
  Add,
};

/// Layers that all have the same input, and whose outputs are joined.
template <Join How, class Branches>
class Parallel {
 public:
  using Scalar = typename Branches::Scalar;
  struct Scratch {
    typename Branches::Scratches branches;
    typename Branches::Places places{};
    Buffer<Scalar> outputs;             ///< of branches, those that are read later apart
    Buffer<Scalar> part, part_tangent;  ///< of what flows to or from one branch
    Buffer<Scalar> grad_input;          ///< of one branch
  };
  static constexpr bool kTwiceDifferentiable = Branches::kTwiceDifferentiable;

  static const char* kind() { return How == Join::Add ? "Add" : "Concatenate"; }

  std::size_t size() const { return branches_.size(); }
  static constexpr MemoryUse memory_use() { return {InPlace::Never, false}; }
  static constexpr BlockNeeds block_needs() { return Branches::block_needs(); }

  Index parameter_count() const {
    Index count = 0;
    branches_.visit([&](const auto& slot, std::size_t) { count += slot.parameter_count(); });
    return count;
  }

  /// \throws ShapeError if the branches' outputs do not fit each other
  Shape output_shape(const Shape& shape) const {
    Shape first;
    Index slowest = 0;
    branches_.visit([&](const auto& slot, std::size_t i) {
      const Shape own = slot.output_shape(shape);
      if (i == 0) first = own;
      if (!fits(own, first))
        naming_layer(name_, [&] {
          raise<ShapeError>(std::string("kfac::") + kind() + ": the output of branch " +
                            std::to_string(i) + " has shape " + own.to_string() +
                            ", expected that of branch 0, " + first.to_string() +
                            (How == Join::Concatenate ? ", but for the first axis" : ""));
        });
      slowest += own[0];
    });
    return How == Join::Add ? first : with_front(first, slowest);
  }

  WorkspaceSize scratch_size(const Shape& shape, Index examples, const Mode& mode) const {
    typename Branches::Places places{};
    WorkspaceSize size;
    size.activations = place(shape, examples, places);
    if (branches_.size() > 1) size.gradients = shape.size() * examples;
    if (How == Join::Concatenate) size.gradients += largest(places) * examples;
    branches_.visit(
        [&](const auto& slot, std::size_t) { size += slot.scratch_size(shape, examples, mode); });
    return size;
  }

  void forward(const ConstBatchView<Scalar>& x, BatchView<Scalar> y, Scratch& scratch,
               const Mode& mode) const {
    scratch.outputs.map(place(x.shape, x.examples(), scratch.places), 1);
    Index row = 0;
    branches_.visit(scratch.branches, [&](const auto& slot, auto& own, std::size_t i) {
      const BranchPlace& at = scratch.places[i];
      BatchView<Scalar> output =
          writable(at.shape, at.direct ? y.values.data() : scratch.outputs.data() + at.offset, x);
      slot.forward(x, output, own, mode);
      if (!at.direct) join(output.values, i, row, y);
      row += at.shape.size();
    });
  }

  void backward(const ConstBatchView<Scalar>& x, const ConstBatchView<Scalar>& y,
                const ConstBatchView<Scalar>& grad_output, BatchView<Scalar>* grad_input,
                VectorMap<Scalar>* grad_parameters, Scratch& scratch, const Mode& mode) const {
    Index row = 0, begin = 0;
    branches_.visit(scratch.branches, [&](const auto& slot, auto& own, std::size_t i) {
      const ConstBatchView<Scalar> gradient = part_of(grad_output, i, row, scratch, scratch.part);
      VectorMap<Scalar> segment = segment_of(grad_parameters, begin, slot.parameter_count());
      into_input(i, grad_input, scratch, [&](BatchView<Scalar>* into) {
        slot.backward(x, output_of(i, x, y, scratch), gradient, into,
                      grad_parameters ? &segment : nullptr, own, mode);
      });
    });
  }

  void tangent(const ConstBatchView<Scalar>& x, const ConstBatchView<Scalar>& y,
               const ConstBatchView<Scalar>* x_tangent,
               const ConstVectorMap<Scalar>* parameter_tangent, BatchView<Scalar> y_tangent,
               Scratch& scratch) const {
    Index row = 0, begin = 0;
    branches_.visit(scratch.branches, [&](const auto& slot, auto& own, std::size_t i) {
      const Shape& shape = scratch.places[i].shape;
      const ConstVectorMap<Scalar> segment =
          segment_of(parameter_tangent, begin, slot.parameter_count());
      const bool direct = How == Join::Add && i == 0;
      Scalar* const into =
          direct ? y_tangent.values.data() : scratch.part.map(shape.size(), x.examples()).data();
      const BatchView<Scalar> output = writable(shape, into, x);
      slot.tangent(x, output_of(i, x, y, scratch), x_tangent,
                   parameter_tangent ? &segment : nullptr, output, own);
      if (!direct) join(output.values, i, row, y_tangent);
      row += shape.size();
    });
  }

  void backward_tangent(const ConstBatchView<Scalar>& x, const ConstBatchView<Scalar>& y,
                        const ConstBatchView<Scalar>& grad_output,
                        const ConstBatchView<Scalar>* x_tangent,
                        const ConstVectorMap<Scalar>* parameter_tangent,
                        const ConstBatchView<Scalar>& grad_output_tangent,
                        BatchView<Scalar>* grad_input_tangent,
                        VectorMap<Scalar>* grad_parameters_tangent,
                        Scratch& scratch) const requires kTwiceDifferentiable {
    Index row = 0, begin = 0, tangent_row = 0, tangent_begin = 0;
    branches_.visit(scratch.branches, [&](const auto& slot, auto& own, std::size_t i) {
      const ConstBatchView<Scalar> gradient = part_of(grad_output, i, row, scratch, scratch.part);
      const ConstBatchView<Scalar> gradient_tangent =
          part_of(grad_output_tangent, i, tangent_row, scratch, scratch.part_tangent);
      const Index parameters = slot.parameter_count();
      const ConstVectorMap<Scalar> direction = segment_of(parameter_tangent, begin, parameters);
      VectorMap<Scalar> segment = segment_of(grad_parameters_tangent, tangent_begin, parameters);
      into_input(i, grad_input_tangent, scratch, [&](BatchView<Scalar>* into) {
        slot.backward_tangent(x, output_of(i, x, y, scratch), gradient, x_tangent,
                              parameter_tangent ? &direction : nullptr, gradient_tangent, into,
                              grad_parameters_tangent ? &segment : nullptr, own);
      });
    });
  }

  void visit_scratch(StateVisitor& visitor, Scratch& scratch) const {
    branches_.visit(scratch.branches, [&](const auto& slot, auto& own, std::size_t) {
      slot.visit_scratch(visitor, own);
    });
  }
  void absorb(Scratch& scratch) {
    branches_.visit(scratch.branches, [](auto& slot, auto& own, std::size_t) { slot.absorb(own); });
  }
  void visit_buffers(StateVisitor& visitor) {
    branches_.visit([&](auto& slot, std::size_t) { slot.visit_buffers(visitor); });
  }

  void rename(const std::string& name) {
    name_ = name;
    const std::string prefix = name.empty() ? "" : name + '.';
    branches_.visit([&](auto& slot, std::size_t i) { slot.rename(prefix + std::to_string(i)); });
  }
  void append_layers(Scalar* gradient, std::vector<LayerView<Scalar>>& views) {
    branches_.visit([&](auto& slot, std::size_t) {
      slot.append_layers(gradient, views);
      gradient += slot.parameter_count();
    });
  }
  void append_layer_sizes(std::vector<Index>& sizes) const {
    branches_.visit([&](const auto& slot, std::size_t) { slot.append_layer_sizes(sizes); });
  }

 protected:
  explicit Parallel(Branches branches) : branches_(std::move(branches)) { rename(""); }

  Branches branches_;

 private:
  static bool fits(const Shape& shape, const Shape& first) {
    if (How == Join::Add) return shape == first;
    return shape.rank() == first.rank() && with_front(shape, first[0]) == first;
  }
  static Shape with_front(const Shape& shape, Index front) {
    Shape result{front};
    for (int axis = 1; axis < shape.rank(); ++axis) result.push_back(shape[axis]);
    return result;
  }

  /// Finds a place for the output of each branch; returns how many numbers these take. Those that
  /// later passes read are kept, the others replace each other.
  Index place(const Shape& shape, Index examples, typename Branches::Places& places) const {
    branches_.resize(places);
    Index kept = 0, passing = 0;
    branches_.visit([&](const auto& slot, std::size_t i) {
      const bool reads = slot.memory_use().reads_output;
      places[i] = {slot.output_shape(shape), -1, How == Join::Add && i == 0 && !reads};
      const Index size = padded(places[i].shape.size() * examples);
      if (reads)
        places[i].offset = std::exchange(kept, kept + size);
      else if (!places[i].direct)
        passing = std::max(passing, size);
    });
    for (BranchPlace& place : places)
      if (place.offset < 0) place.offset = kept;
    return kept + passing;
  }
  static Index largest(const typename Branches::Places& places) {
    Index result = 0;
    for (const BranchPlace& place : places) result = std::max(result, place.shape.size());
    return result;
  }

  static BatchView<Scalar> writable(const Shape& shape, Scalar* data,
                                    const ConstBatchView<Scalar>& x) {
    return {{data, shape.size(), x.examples()}, shape};
  }
  /// The output of a branch, where its passes read it; else anything like it.
  static ConstBatchView<Scalar> output_of(std::size_t i, const ConstBatchView<Scalar>& x,
                                          const ConstBatchView<Scalar>& y, const Scratch& scratch) {
    const BranchPlace& at = scratch.places[i];
    return {{at.direct ? y.values.data() : scratch.outputs.data() + at.offset, at.shape.size(),
             x.examples()},
            at.shape};
  }

  static void join(const MatrixMap<Scalar>& from, std::size_t i, Index row,
                   BatchView<Scalar>& into) {
    if (How == Join::Concatenate)
      into.values.middleRows(row, from.rows()) = from;
    else if (i == 0)
      into.values = from;
    else
      into.values += from;
  }
  /// What of the gradient of the joined outputs belongs to a branch; moves `row` on to the next.
  static ConstBatchView<Scalar> part_of(const ConstBatchView<Scalar>& gradient, std::size_t i,
                                        Index& row, const Scratch& scratch,
                                        Buffer<Scalar>& memory) {
    if (How == Join::Add) return gradient;
    const Shape& shape = scratch.places[i].shape;
    MatrixMap<Scalar> part = memory.map(shape.size(), gradient.examples());
    part = gradient.values.middleRows(row, shape.size());
    row += shape.size();
    return {{part.data(), part.rows(), part.cols()}, shape};
  }
  /// Those of one branch, if there are any; moves `begin` on to the next.
  template <class Map>
  static std::remove_const_t<Map> segment_of(Map* all, Index& begin, Index count) {
    const Index first = std::exchange(begin, begin + count);
    return {all ? all->data() + first : nullptr, all ? count : 0};
  }

  /// Calls `pass(into)`, and adds what it writes there to `sum`, if that is wanted.
  template <class Pass>
  static void into_input(std::size_t i, BatchView<Scalar>* sum, Scratch& scratch, Pass&& pass) {
    if (!sum || i == 0) return pass(sum);
    BatchView<Scalar> own{scratch.grad_input.map(sum->values.rows(), sum->values.cols()),
                          sum->shape};
    pass(&own);
    sum->values += own.values;
  }

  std::string name_;
};

template <RealScalar S>
VectorBranches<S> checked_branches(const char* where, std::vector<AnyLayer<S>> branches) {
  if (branches.empty())
    raise<ShapeError>(std::string(where) + ": 'branches' has 0 layers, expected at least 1");
  return VectorBranches<S>(std::move(branches));
}

}  // namespace detail

/// Branches with the same input, whose outputs are one after another on the slowest axis: the
/// channels of images (as in Inception and DenseNet), tokens, or the entries of vectors. All other
/// axes agree.
///
///     kfac::Concatenate mixed(
///         kfac::Conv2d<float>({.in_channels = 8, .out_channels = 4, .kernel_size = {1, 1}}, rng),
///         kfac::Sequential(
///             kfac::Conv2d<float>({.in_channels = 8, .out_channels = 4, .kernel_size = {1, 1}},
///             rng), kfac::ReLU<float>{}, kfac::Conv2d<float>({.in_channels = 4, .out_channels = 8,
///             .padding = {1, 1}}, rng)));
///
/// Branches are layers of any kind. The leaves of the i-th are called "<name>.i" and on.
/// \source Szegedy et al., Going deeper with convolutions, 2015
template <Layer First, Layer... Rest>
class Concatenate
    : public detail::Parallel<detail::Join::Concatenate, detail::TupleBranches<First, Rest...>> {
  using Base = detail::Parallel<detail::Join::Concatenate, detail::TupleBranches<First, Rest...>>;

 public:
  explicit Concatenate(First first, Rest... rest)
      : Base(detail::TupleBranches<First, Rest...>(std::move(first), std::move(rest)...)) {}

  /// The i-th.
  template <std::size_t I>
  auto& branch() {
    return Base::branches_.template get<I>();
  }
  template <std::size_t I>
  const auto& branch() const {
    return Base::branches_.template get<I>();
  }
};

/// Branches with the same input, whose outputs, of equal shapes, are added. With a convolution of
/// single pixels as one of them this is the block by which a residual network changes shapes:
///
///     kfac::Add block(
///         kfac::Sequential(
///             kfac::Conv2d<float>({.in_channels = 8, .out_channels = 16, .stride = {2, 2},
///                                  .padding = {1, 1}}, rng),
///             kfac::ReLU<float>{},
///             kfac::Conv2d<float>({.in_channels = 16, .out_channels = 16, .padding = {1, 1}},
///             rng)),
///         kfac::Conv2d<float>({.in_channels = 8, .out_channels = 16, .kernel_size = {1, 1},
///                              .stride = {2, 2}}, rng));
///
/// Where a branch is the input itself, `Residual` takes less memory than an `Identity`.
/// \source He et al., Deep residual learning for image recognition, 2016
template <Layer First, Layer... Rest>
class Add : public detail::Parallel<detail::Join::Add, detail::TupleBranches<First, Rest...>> {
  using Base = detail::Parallel<detail::Join::Add, detail::TupleBranches<First, Rest...>>;

 public:
  explicit Add(First first, Rest... rest)
      : Base(detail::TupleBranches<First, Rest...>(std::move(first), std::move(rest)...)) {}

  /// The i-th.
  template <std::size_t I>
  auto& branch() {
    return Base::branches_.template get<I>();
  }
  template <std::size_t I>
  const auto& branch() const {
    return Base::branches_.template get<I>();
  }
};

/// As `Concatenate`, with as many branches as are given at run time.
template <RealScalar S>
class DynamicConcatenate
    : public detail::Parallel<detail::Join::Concatenate, detail::VectorBranches<S>> {
  using Base = detail::Parallel<detail::Join::Concatenate, detail::VectorBranches<S>>;

 public:
  /// \throws ShapeError if there are none
  explicit DynamicConcatenate(std::vector<AnyLayer<S>> branches)
      : Base(detail::checked_branches("kfac::DynamicConcatenate", std::move(branches))) {}

  /// The i-th. \pre i < size()
  const AnyLayer<S>& branch(std::size_t i) const { return Base::branches_.get(i); }
};

/// As `Add`, with as many branches as are given at run time.
template <RealScalar S>
class DynamicAdd : public detail::Parallel<detail::Join::Add, detail::VectorBranches<S>> {
  using Base = detail::Parallel<detail::Join::Add, detail::VectorBranches<S>>;

 public:
  /// \throws ShapeError if there are none
  explicit DynamicAdd(std::vector<AnyLayer<S>> branches)
      : Base(detail::checked_branches("kfac::DynamicAdd", std::move(branches))) {}

  /// The i-th. \pre i < size()
  const AnyLayer<S>& branch(std::size_t i) const { return Base::branches_.get(i); }
};

}  // namespace kfac
