#pragma once

#include <string>
#include <utility>
#include <vector>

#include <kfac/curvature/linearization.hpp>
#include <kfac/curvature/symmetric_operator.hpp>
#include <kfac/loss/loss.hpp>

namespace kfac::detail {

/// What the exact curvature operators share: a sum over examples, batch by batch, times the loss's
/// factor R for all of them (so that for a mean loss it is the mean over the data set, however it
/// is sliced). `Derived` offers `kName`; `prepare(batch)`, which makes what its products need
/// besides the network; and `batch_product(v)`, the product of the loaded batch's sum.
template <class Derived, class Model, Loss LossType>
class ExactOperator : public SymmetricOperator<Derived, typename Model::Scalar> {
 public:
  using S = typename Model::Scalar;

  Index rows() const { return at_.parameters(); }

  /// The outputs at which it is evaluated, `outputs x examples`.
  Matrix<S> outputs() const { return at_.all_outputs(); }

  /// The diagonal block of one layer, the one at that index in `model.layers()`: an operator that
  /// refers to this one. \throws ValueError if there is no such layer or it has no parameters
  LayerOperator<Derived> block(Index layer) const& {
    const std::vector<Index> sizes = at_.model().layer_sizes();
    const auto count = static_cast<Index>(sizes.size());
    if (layer < 0 || layer >= count || sizes[static_cast<std::size_t>(layer)] == 0)
      raise<ValueError>(std::string(Derived::kName) + "::block: 'layer' is " +
                        std::to_string(layer) + ", expected a layer with parameters, of " +
                        std::to_string(count) + " layers");
    Index offset = 0;
    for (Index i = 0; i < layer; ++i) offset += sizes[static_cast<std::size_t>(i)];
    return {derived(), offset, sizes[static_cast<std::size_t>(layer)]};
  }
  LayerOperator<Derived> block(Index layer) const&& = delete;

 protected:
  ExactOperator(const LossType& loss, Linearization<Model> at)
      : loss_(loss), at_(std::move(at)), scale_(loss_.scale(at_.outputs(), at_.examples())) {}

  const LossType& loss() const { return loss_; }
  /// R, for all examples.
  S scale() const { return scale_; }
  Linearization<Model>& at() const { return at_; }

  /// Makes the batch the one that products are about.
  void load(Index batch) const {
    at_.load(batch);
    if (prepared_ == batch) return;
    prepared_ = -1;
    derived().prepare(batch);
    prepared_ = batch;
  }

  void multiply(const ConstMatrixRef<S>& v, MatrixRef<S> into) const {
    into.setZero();
    for (Index batch = 0; batch < at_.batches(); ++batch) {
      load(batch);
      for (Index j = 0; j < v.cols(); ++j)
        into.col(j) += scale_ * derived().batch_product(v.col(j));
    }
  }

  /// The criterion's gradient with respect to the loaded batch's outputs: the loss's, without R.
  void criterion_gradient(const typename LossType::TargetsRef& targets, Matrix<S>& into) const {
    const ConstMatrixMap<S> outputs = at_.batch_outputs();
    into.resize(outputs.rows(), outputs.cols());
    loss_.gradient(outputs, targets, into);
    into /= loss_.scale(outputs.rows(), outputs.cols());
  }

 private:
  const Derived& derived() const { return static_cast<const Derived&>(*this); }

  LossType loss_;
  mutable Linearization<Model> at_;
  mutable Index prepared_ = -1;
  S scale_;
};

/// An exact operator whose products need the gradient of each example's criterion at its targets.
template <class Derived, class Model, Loss LossType>
class LabelledOperator : public ExactOperator<Derived, Model, LossType> {
  using Base = ExactOperator<Derived, Model, LossType>;
  using S = typename Base::S;
  using TargetsRef = typename LossType::TargetsRef;

 public:
  using Slices = std::vector<Slice<S, typename LossType::Targets>>;

  /// On one batch: `x` is `features x examples`, `y` its targets; `shape` that of one example,
  /// `{features}` where it is not given.
  /// \throws ShapeError, ValueError as `model.forward` and the loss
  LabelledOperator(const Model& model, const LossType& loss, const ConstMatrixRef<S>& x,
                   const TargetsRef& y)
      : LabelledOperator(model, loss, x, y, Shape{x.rows()}) {}
  LabelledOperator(const Model& model, const LossType& loss, const ConstMatrixRef<S>& x,
                   const TargetsRef& y, const Shape& shape)
      : Base(loss, Linearization<Model>(model, x, shape)) {
    Base::criterion_gradient(y, gradient_);
  }
  /// On a data set in slices, whose data must outlive it; each product makes their forward passes
  /// anew. \throws ShapeError, ValueError
  LabelledOperator(const Model& model, const LossType& loss, const Slices& slices)
      : Base(loss, Linearization<Model>(Derived::kName, model, slices)), slices_(slices) {
    for (const auto& slice : slices_)
      loss.check(Matrix<S>::Zero(Base::at().outputs(), slice.inputs.cols()), slice.targets);
  }

 protected:
  /// Of the loaded batch, `outputs x examples`.
  const Matrix<S>& gradient() const { return gradient_; }

 private:
  friend Base;

  void prepare(Index batch) const {
    if (!slices_.empty())
      Base::criterion_gradient(slices_[static_cast<std::size_t>(batch)].targets, gradient_);
  }

  Slices slices_;
  mutable Matrix<S> gradient_;
};

}  // namespace kfac::detail
