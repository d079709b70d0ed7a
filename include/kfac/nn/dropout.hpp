#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include <kfac/core/buffer.hpp>
#include <kfac/core/random.hpp>
#include <kfac/core/state.hpp>
#include <kfac/nn/layer.hpp>

namespace kfac {

/// In training, sets each entry to zero with probability p and divides the others by 1 - p; else
/// does nothing. As torch.nn.Dropout. The backward pass and tangents use the mask of the last
/// forward pass. Masks are drawn from a generator in the workspace, seeded by the layer: every new
/// workspace starts with the same masks.
template <RealScalar S>
class Dropout : public ParameterFree<S>, public LocallyLinear<Dropout<S>, S> {
 public:
  struct Scratch {
    std::optional<Rng> rng;
    Buffer<S> mask;  ///< 0 or 1 / (1 - p), like the input
    bool active = false;
  };
  static const char* kind() { return "Dropout"; }

  /// Draws the layer's seed from `rng`. \throws OptionError unless 0 <= p < 1
  Dropout(double p, Rng& rng) : p_(p), seed_(rng()) {
    detail::check_option(p >= 0 && p < 1, "kfac::Dropout", "p", p, "0 <= p < 1");
  }

  double p() const { return p_; }

  Shape output_shape(const Shape& shape) const { return shape; }
  static constexpr MemoryUse memory_use() { return {InPlace::Replaces, false}; }

  Index scratch_size(const Shape& shape, Index examples) const {
    return p_ > 0 ? shape.size() * examples : 0;
  }

  void forward(const ConstBatchView<S>& x, BatchView<S> y, Scratch& scratch,
               const Mode& mode) const {
    scratch.active = mode.training && p_ > 0;
    if (scratch.active) {
      Rng& rng = generator(scratch);
      // Looked up, not branched to: random bits are mispredicted, at four times the time.
      const std::array<S, 2> factors{S(0), static_cast<S>(1 / (1 - p_))};
      MatrixMap<S> mask = scratch.mask.map(x.values.rows(), x.values.cols());
      for (Index i = 0; i < mask.size(); ++i)
        mask.data()[i] = factors[static_cast<std::size_t>(rng.uniform() >= p_)];
    }
    apply_mask(x, y, scratch);
  }
  void visit_scratch(StateVisitor& visitor, Scratch& scratch) const {
    visitor.visit("rng", generator(scratch));
  }
  void backward(const ConstBatchView<S>&, const ConstBatchView<S>&,
                const ConstBatchView<S>& grad_output, BatchView<S>* grad_input, VectorMap<S>*,
                Scratch& scratch, const Mode&) const {
    if (grad_input) apply_mask(grad_output, *grad_input, scratch);
  }
  void tangent(const ConstBatchView<S>&, const ConstBatchView<S>&,
               const ConstBatchView<S>* x_tangent, const ConstVectorMap<S>*, BatchView<S> y_tangent,
               Scratch& scratch) const {
    if (x_tangent)
      apply_mask(*x_tangent, y_tangent, scratch);
    else
      y_tangent.values.setZero();
  }

 private:
  Rng& generator(Scratch& scratch) const {
    if (!scratch.rng) scratch.rng.emplace(seed_);
    return *scratch.rng;
  }

  /// The Jacobian is diagonal, so products from the left and from the right are the same.
  static void apply_mask(const ConstBatchView<S>& from, BatchView<S> to, Scratch& scratch) {
    if (scratch.active)
      to.values =
          from.values.cwiseProduct(scratch.mask.map(from.values.rows(), from.values.cols()));
    else if (to.values.data() != from.values.data())
      to.values = from.values;
  }

  double p_;
  std::uint64_t seed_;
};

}  // namespace kfac
