#pragma once

#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <kfac/nn/sequential.hpp>

namespace kfac {

/// The same layers, with the same parameters, for each of several parts of an example: branches of
/// a siamese network. `{branches, ...}` to `{branches, ...}`; the layers see `{...}`.
///
///     // Two images of an example, by one embedding.
///     kfac::Sequential model{kfac::Siamese(2, kfac::Flatten<float>{},
///                                          kfac::Linear<float>(784, 32, rng)),
///                            kfac::Flatten<float>{}, kfac::Linear<float>(64, 1, rng)};
///
/// A part is so many consecutive entries, so nothing is copied; and an example's parts are further
/// positions of its layers, whose Kronecker factors are summed over them. Layers that mix examples
/// (BatchNorm) mix the parts too.
template <Layer... Layers>
class Siamese {
  using Block = Sequential<Layers...>;

 public:
  using Scalar = typename Block::Scalar;
  using Scratch = typename Block::Scratch;
  static constexpr bool kTwiceDifferentiable = Block::kTwiceDifferentiable;
  static const char* kind() { return "Siamese"; }

  /// \throws OptionError if `branches` is below 1
  explicit Siamese(Index branches, Layers... layers)
      : branches_(branches), block_(std::move(layers)...) {
    detail::check_option(branches >= 1, "kfac::Siamese", "branches", branches, ">= 1");
  }

  Index branches() const { return branches_; }
  Block& block() { return block_; }
  const Block& block() const { return block_; }
  Index parameter_count() const { return block_.parameter_count(); }

  static constexpr MemoryUse memory_use() { return Block::memory_use(); }
  static constexpr BlockNeeds block_needs() { return Block::block_needs(); }

  Shape output_shape(const Shape& shape) const {
    if (shape.rank() < 2 || shape[0] != branches_)
      detail::naming_layer(name_, [&] {
        raise<ShapeError>("kfac::Siamese: 'input' has shape " + shape.to_string() + ", expected " +
                          std::to_string(branches_) + " branches on the first of several axes");
      });
    const Shape part = block_.output_shape(part_of(shape));
    Shape result{branches_};
    for (int axis = 0; axis < part.rank(); ++axis) result.push_back(part[axis]);
    return result;
  }

  WorkspaceSize scratch_size(const Shape& shape, Index examples, const Mode& mode) const {
    return block_.scratch_size(part_of(shape), examples * branches_, inner(mode));
  }

  /// \throws StateError with a mask, which is not supported
  void forward(const ConstBatchView<Scalar>& x, BatchView<Scalar> y, Scratch& scratch,
               const Mode& mode) const {
    if (mode.mask)
      raise<StateError>("kfac::Siamese: a mask is set, expected none: give parts of equal lengths");
    block_.forward(parts(x), parts(y), scratch, inner(mode));
  }

  void backward(const ConstBatchView<Scalar>& x, const ConstBatchView<Scalar>& y,
                const ConstBatchView<Scalar>& grad_output, BatchView<Scalar>* grad_input,
                VectorMap<Scalar>* grad_parameters, Scratch& scratch, const Mode& mode) const {
    auto into = optional_parts(grad_input);
    block_.backward(parts(x), parts(y), parts(grad_output), pointer(into), grad_parameters, scratch,
                    inner(mode));
  }

  void tangent(const ConstBatchView<Scalar>& x, const ConstBatchView<Scalar>& y,
               const ConstBatchView<Scalar>* x_tangent,
               const ConstVectorMap<Scalar>* parameter_tangent, BatchView<Scalar> y_tangent,
               Scratch& scratch) const {
    auto along = optional_parts(x_tangent);
    block_.tangent(parts(x), parts(y), pointer(along), parameter_tangent, parts(y_tangent),
                   scratch);
  }

  void backward_tangent(const ConstBatchView<Scalar>& x, const ConstBatchView<Scalar>& y,
                        const ConstBatchView<Scalar>& grad_output,
                        const ConstBatchView<Scalar>* x_tangent,
                        const ConstVectorMap<Scalar>* parameter_tangent,
                        const ConstBatchView<Scalar>& grad_output_tangent,
                        BatchView<Scalar>* grad_input_tangent,
                        VectorMap<Scalar>* grad_parameters_tangent,
                        Scratch& scratch) const requires kTwiceDifferentiable {
    auto along = optional_parts(x_tangent);
    auto into = optional_parts(grad_input_tangent);
    block_.backward_tangent(parts(x), parts(y), parts(grad_output), pointer(along),
                            parameter_tangent, parts(grad_output_tangent), pointer(into),
                            grad_parameters_tangent, scratch);
  }

  void visit_scratch(StateVisitor& visitor, Scratch& scratch) const {
    block_.visit_scratch(visitor, scratch);
  }
  void absorb(Scratch& scratch) { block_.absorb(scratch); }
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
  static Shape part_of(const Shape& shape) {
    Shape part;
    for (int axis = 1; axis < shape.rank(); ++axis) part.push_back(shape[axis]);
    return part;
  }
  Mode inner(Mode mode) const {
    mode.joined *= branches_;
    return mode;
  }

  /// The parts of all examples as examples. (By value: a map that is const gives const data.)
  template <class View>
  View parts(View whole) const {
    return {{whole.values.data(), whole.values.rows() / branches_, whole.values.cols() * branches_},
            part_of(whole.shape)};
  }
  /// Those of what may be null.
  template <class View>
  std::optional<std::remove_const_t<View>> optional_parts(View* whole) const {
    if (!whole) return {};
    return parts<std::remove_const_t<View>>(*whole);
  }
  template <class View>
  static View* pointer(std::optional<View>& view) {
    return view ? &*view : nullptr;
  }

  Index branches_;
  Block block_;
  std::string name_;
};

}  // namespace kfac
