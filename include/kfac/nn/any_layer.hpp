#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <kfac/nn/slot.hpp>

namespace kfac {

/// The scratch of an AnyLayer: empty until the layer it is first used with creates its own there.
class AnyScratch {
 public:
  /// The scratch of type `T`, made anew unless that is what is here.
  template <class T>
  T& as() {
    if (type_ != &kType<T>) {
      held_ = std::make_unique<Held<T>>();
      type_ = &kType<T>;
    }
    return static_cast<Held<T>&>(*held_).value;
  }

 private:
  /// Its address stands for the type T, which works without run-time type information.
  template <class T>
  static inline const char kType = 0;

  struct Base {
    Base() = default;
    Base(const Base&) = delete;
    Base& operator=(const Base&) = delete;
    virtual ~Base() = default;
  };
  template <class T>
  struct Held : Base {
    T value;
  };

  std::unique_ptr<Base> held_;
  const char* type_ = nullptr;
};

namespace detail {

/// A slot has all that a layer has; but whether that of an AnyLayer can be copied depends on what
/// converts to one.
template <class L>
inline constexpr bool kIsSlot = false;
template <class L>
inline constexpr bool kIsSlot<Slot<L>> = true;

}  // namespace detail

/// A layer of any type, which copies by value, for networks whose layers are known only at run
/// time:
///
///     kfac::AnyLayer<float> layer = kfac::Linear<float>(2, 32, rng);
///     if (config.residual) layer = kfac::Residual(std::move(layer), kfac::Tanh<float>{});
///
/// It is a Layer itself: what it holds keeps its name, its hooks and its errors.
template <RealScalar S>
class AnyLayer {
 public:
  using Scalar = S;
  using Scratch = AnyScratch;

  template <class L>
    requires(!std::same_as<L, AnyLayer> && !detail::kIsSlot<L> &&
             std::same_as<typename L::Scalar, S> && Layer<L> && std::copy_constructible<L>)
  AnyLayer(L layer)  // NOLINT(google-explicit-constructor): a layer is a layer
      : held_(std::make_unique<Held<L>>(std::move(layer))) {}
  AnyLayer(const AnyLayer& other) : held_(other.held_->clone()) {}
  AnyLayer& operator=(const AnyLayer& other) {
    held_ = other.held_->clone();
    return *this;
  }
  AnyLayer(AnyLayer&&) noexcept = default;
  AnyLayer& operator=(AnyLayer&&) noexcept = default;
  ~AnyLayer() = default;

  /// The layer that it holds, if that is an `L`; else null. Valid while this layer is not assigned
  /// to.
  template <class L>
  L* target() {
    return held_->type() == &kType<L> ? &static_cast<Held<L>&>(*held_).slot.layer() : nullptr;
  }
  template <class L>
  const L* target() const {
    return held_->type() == &kType<L> ? &static_cast<const Held<L>&>(*held_).slot.layer() : nullptr;
  }
  /// Whether it holds an `Activation`: a function of each entry by itself.
  bool is_elementwise() const { return held_->is_elementwise(); }

  /// Its type does not say.
  static constexpr BlockNeeds block_needs() { return {true, true}; }

  Index parameter_count() const { return held_->parameter_count(); }
  Shape output_shape(const Shape& shape) const { return held_->output_shape(shape); }
  MemoryUse memory_use() const { return held_->memory_use(); }
  WorkspaceSize scratch_size(const Shape& shape, Index examples, const Mode& mode) const {
    return held_->scratch_size(shape, examples, mode);
  }

  void forward(const ConstBatchView<S>& x, BatchView<S> y, Scratch& scratch,
               const Mode& mode) const {
    held_->forward(x, y, scratch, mode);
  }
  void backward(const ConstBatchView<S>& x, const ConstBatchView<S>& y,
                const ConstBatchView<S>& grad_output, BatchView<S>* grad_input,
                VectorMap<S>* grad_parameters, Scratch& scratch, const Mode& mode) const {
    held_->backward(x, y, grad_output, grad_input, grad_parameters, scratch, mode);
  }
  void tangent(const ConstBatchView<S>& x, const ConstBatchView<S>& y,
               const ConstBatchView<S>* x_tangent, const ConstVectorMap<S>* parameter_tangent,
               BatchView<S> y_tangent, Scratch& scratch) const {
    held_->tangent(x, y, x_tangent, parameter_tangent, y_tangent, scratch);
  }

  /// \throws StateError if what it holds is not a TwiceDifferentiableLayer
  void backward_tangent(const ConstBatchView<S>& x, const ConstBatchView<S>& y,
                        const ConstBatchView<S>& grad_output, const ConstBatchView<S>* x_tangent,
                        const ConstVectorMap<S>* parameter_tangent,
                        const ConstBatchView<S>& grad_output_tangent,
                        BatchView<S>* grad_input_tangent, VectorMap<S>* grad_parameters_tangent,
                        Scratch& scratch) const {
    held_->backward_tangent(x, y, grad_output, x_tangent, parameter_tangent, grad_output_tangent,
                            grad_input_tangent, grad_parameters_tangent, scratch);
  }

  void trace(const ConstBatchView<S>& x, const Shape& output, PassTrace& trace) const {
    held_->trace(x, output, trace);
  }

  void visit_scratch(StateVisitor& visitor, Scratch& scratch) const {
    held_->visit_scratch(visitor, scratch);
  }
  void absorb(Scratch& scratch) { held_->absorb(scratch); }
  void visit_buffers(StateVisitor& visitor) { held_->visit_buffers(visitor); }

  void rename(const std::string& name) { held_->rename(name); }
  void append_layers(S* gradient, std::vector<LayerView<S>>& views) {
    held_->append_layers(gradient, views);
  }
  void append_layer_sizes(std::vector<Index>& sizes) const { held_->append_layer_sizes(sizes); }

 private:
  /// Its address stands for the type L, which works without run-time type information.
  template <class L>
  static inline const char kType = 0;

  struct Base {
    Base() = default;
    Base& operator=(const Base&) = delete;
    virtual ~Base() = default;
    virtual std::unique_ptr<Base> clone() const = 0;
    virtual const char* type() const = 0;
    virtual bool is_elementwise() const = 0;
    virtual Index parameter_count() const = 0;
    virtual Shape output_shape(const Shape& shape) const = 0;
    virtual MemoryUse memory_use() const = 0;
    virtual WorkspaceSize scratch_size(const Shape& shape, Index examples,
                                       const Mode& mode) const = 0;
    virtual void forward(const ConstBatchView<S>& x, BatchView<S> y, AnyScratch& scratch,
                         const Mode& mode) const = 0;
    virtual void backward(const ConstBatchView<S>& x, const ConstBatchView<S>& y,
                          const ConstBatchView<S>& grad_output, BatchView<S>* grad_input,
                          VectorMap<S>* grad_parameters, AnyScratch& scratch,
                          const Mode& mode) const = 0;
    virtual void tangent(const ConstBatchView<S>& x, const ConstBatchView<S>& y,
                         const ConstBatchView<S>* x_tangent,
                         const ConstVectorMap<S>* parameter_tangent, BatchView<S> y_tangent,
                         AnyScratch& scratch) const = 0;
    virtual void backward_tangent(const ConstBatchView<S>& x, const ConstBatchView<S>& y,
                                  const ConstBatchView<S>& grad_output,
                                  const ConstBatchView<S>* x_tangent,
                                  const ConstVectorMap<S>* parameter_tangent,
                                  const ConstBatchView<S>& grad_output_tangent,
                                  BatchView<S>* grad_input_tangent,
                                  VectorMap<S>* grad_parameters_tangent,
                                  AnyScratch& scratch) const = 0;
    virtual void trace(const ConstBatchView<S>& x, const Shape& output, PassTrace& trace) const = 0;
    virtual void visit_scratch(StateVisitor& visitor, AnyScratch& scratch) const = 0;
    virtual void absorb(AnyScratch& scratch) = 0;
    virtual void visit_buffers(StateVisitor& visitor) = 0;
    virtual void rename(const std::string& name) = 0;
    virtual void append_layers(S* gradient, std::vector<LayerView<S>>& views) = 0;
    virtual void append_layer_sizes(std::vector<Index>& sizes) const = 0;

   protected:
    Base(const Base&) = default;
  };

  template <class L>
  struct Held final : Base {
    using Scratch = typename L::Scratch;

    explicit Held(L layer) : slot(std::move(layer)) {}

    std::unique_ptr<Base> clone() const override { return std::make_unique<Held>(*this); }
    const char* type() const override { return &kType<L>; }
    bool is_elementwise() const override { return detail::kIsElementwise<L>; }
    Index parameter_count() const override { return slot.parameter_count(); }
    Shape output_shape(const Shape& shape) const override { return slot.output_shape(shape); }
    MemoryUse memory_use() const override { return slot.memory_use(); }
    WorkspaceSize scratch_size(const Shape& shape, Index examples,
                               const Mode& mode) const override {
      return slot.scratch_size(shape, examples, mode);
    }
    void forward(const ConstBatchView<S>& x, BatchView<S> y, AnyScratch& scratch,
                 const Mode& mode) const override {
      slot.forward(x, y, scratch.as<Scratch>(), mode);
    }
    void backward(const ConstBatchView<S>& x, const ConstBatchView<S>& y,
                  const ConstBatchView<S>& grad_output, BatchView<S>* grad_input,
                  VectorMap<S>* grad_parameters, AnyScratch& scratch,
                  const Mode& mode) const override {
      slot.backward(x, y, grad_output, grad_input, grad_parameters, scratch.as<Scratch>(), mode);
    }
    void tangent(const ConstBatchView<S>& x, const ConstBatchView<S>& y,
                 const ConstBatchView<S>* x_tangent, const ConstVectorMap<S>* parameter_tangent,
                 BatchView<S> y_tangent, AnyScratch& scratch) const override {
      slot.tangent(x, y, x_tangent, parameter_tangent, y_tangent, scratch.as<Scratch>());
    }
    void backward_tangent(const ConstBatchView<S>& x, const ConstBatchView<S>& y,
                          const ConstBatchView<S>& grad_output, const ConstBatchView<S>* x_tangent,
                          const ConstVectorMap<S>* parameter_tangent,
                          const ConstBatchView<S>& grad_output_tangent,
                          BatchView<S>* grad_input_tangent, VectorMap<S>* grad_parameters_tangent,
                          AnyScratch& scratch) const override {
      slot.backward_tangent(x, y, grad_output, x_tangent, parameter_tangent, grad_output_tangent,
                            grad_input_tangent, grad_parameters_tangent, scratch.as<Scratch>());
    }
    void trace(const ConstBatchView<S>& x, const Shape& output, PassTrace& trace) const override {
      slot.trace(x, output, trace);
    }
    void visit_scratch(StateVisitor& visitor, AnyScratch& scratch) const override {
      slot.visit_scratch(visitor, scratch.as<Scratch>());
    }
    void absorb(AnyScratch& scratch) override { slot.absorb(scratch.as<Scratch>()); }
    void visit_buffers(StateVisitor& visitor) override { slot.visit_buffers(visitor); }
    void rename(const std::string& name) override { slot.rename(name); }
    void append_layers(S* gradient, std::vector<LayerView<S>>& views) override {
      slot.append_layers(gradient, views);
    }
    void append_layer_sizes(std::vector<Index>& sizes) const override {
      slot.append_layer_sizes(sizes);
    }

    Slot<L> slot;
  };

  std::unique_ptr<Base> held_;
};

}  // namespace kfac
