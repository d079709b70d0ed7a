#pragma once

#include <string>
#include <utility>
#include <vector>

#include <kfac/core/buffer.hpp>
#include <kfac/core/random.hpp>
#include <kfac/curvature/exact_operator.hpp>

namespace kfac {
namespace detail {

/// Adds v_n v_n^T u_n to each column of `sum`, for the columns v_n and u_n of `v` and `u`.
template <RealScalar S>
void add_outer_products(const Matrix<S>& v, const ConstMatrixMap<S>& u, MatrixMap<S> sum) {
  for (Index n = 0; n < v.cols(); ++n) sum.col(n) += v.col(n).dot(u.col(n)) * v.col(n);
}

}  // namespace detail

/// The empirical Fisher \f$ R \sum_n J_n^T g_n g_n^T J_n \f$ with g_n the gradient of example n's
/// criterion at its target, on one batch or on a data set in slices. (A single R: it is R times the
/// sum of outer products of the gradients of the criteria, not of the loss.) Otherwise as `Ggn`.
/// Constructors: (model, loss, x, y), (model, loss, x, y, shape), (model, loss, slices).
/// \source Martens 2020, arXiv 1412.1193, section 11
template <class Model, Loss LossType>
class EmpiricalFisher
    : public detail::LabelledOperator<EmpiricalFisher<Model, LossType>, Model, LossType> {
  using Base = detail::LabelledOperator<EmpiricalFisher, Model, LossType>;
  using Exact = detail::ExactOperator<EmpiricalFisher, Model, LossType>;
  using S = typename Model::Scalar;

 public:
  static constexpr const char* kName = "kfac::EmpiricalFisher";
  using Base::Base;

 private:
  friend Exact;
  friend SymmetricOperator<EmpiricalFisher, S>;

  ConstVectorMap<S> batch_product(const ConstVectorRef<S>& v) const {
    const ConstMatrixMap<S> u = Base::at().tangent(v);
    MatrixMap<S> sum = sum_.map(u.rows(), u.cols());
    sum.setZero();
    detail::add_outer_products(Base::gradient(), u, sum);
    return Base::at().pull_back(sum);
  }

  mutable Buffer<S> sum_;
};

template <class Model, Loss LossType, class... Rest>
EmpiricalFisher(const Model&, const LossType&, const Rest&...) -> EmpiricalFisher<Model, LossType>;
template <class Model, Loss LossType, class X, class Y>
EmpiricalFisher(const Model&, const LossType&, const X&, const Y&, const Shape&)
    -> EmpiricalFisher<Model, LossType>;

/// The Monte-Carlo Fisher \f$ R \sum_n J_n^T \frac1M \sum_m g_{nm} g_{nm}^T J_n \f$, with g_nm the
/// gradient of example n's criterion at the m-th of M targets, drawn from the model's likelihood
/// when it is made, or given; every product uses the same. On average it is the GGN. Otherwise as
/// `Ggn`:
///
///     kfac::MonteCarloFisher fisher(model, loss, x, 10, rng);
///
/// \source Martens 2020, arXiv 1412.1193, section 5
template <class Model, Loss LossType>
class MonteCarloFisher
    : public detail::ExactOperator<MonteCarloFisher<Model, LossType>, Model, LossType> {
  using Base = detail::ExactOperator<MonteCarloFisher, Model, LossType>;
  using S = typename Model::Scalar;
  using Targets = typename LossType::Targets;

 public:
  static constexpr const char* kName = "kfac::MonteCarloFisher";

  /// On one batch, of targets drawn with `rng`: `x` is `features x examples`; `shape` that of one
  /// example, `{features}` where it is not given.
  /// \throws OptionError if samples < 1; ShapeError, ValueError as `model.forward`
  MonteCarloFisher(const Model& model, const LossType& loss, const ConstMatrixRef<S>& x,
                   Index samples, Rng& rng)
      : MonteCarloFisher(model, loss, x, samples, rng, Shape{x.rows()}) {}
  MonteCarloFisher(const Model& model, const LossType& loss, const ConstMatrixRef<S>& x,
                   Index samples, Rng& rng, const Shape& shape)
      : Base(loss, detail::Linearization<Model>(model, x, shape)) {
    draw_all(samples, rng);
  }
  /// On one batch, of the targets given: `samples` holds a list of the examples' targets M times.
  /// \throws ShapeError, ValueError as `model.forward` and the loss, or if samples is empty
  MonteCarloFisher(const Model& model, const LossType& loss, const ConstMatrixRef<S>& x,
                   std::vector<Targets> samples)
      : MonteCarloFisher(model, loss, x, std::move(samples), Shape{x.rows()}) {}
  MonteCarloFisher(const Model& model, const LossType& loss, const ConstMatrixRef<S>& x,
                   std::vector<Targets> samples, const Shape& shape)
      : Base(loss, detail::Linearization<Model>(model, x, shape)), samples_(std::move(samples)) {
    check_samples();
  }
  /// The same on a data set in slices, whose inputs must outlive it and whose own targets are not
  /// used; given samples hold the targets of all its examples in order. Each product makes the
  /// forward passes anew.
  template <class Unused>
  MonteCarloFisher(const Model& model, const LossType& loss,
                   const std::vector<Slice<S, Unused>>& slices, Index samples, Rng& rng)
      : Base(loss, detail::Linearization<Model>(kName, model, slices)) {
    draw_all(samples, rng);
  }
  template <class Unused>
  MonteCarloFisher(const Model& model, const LossType& loss,
                   const std::vector<Slice<S, Unused>>& slices, std::vector<Targets> samples)
      : Base(loss, detail::Linearization<Model>(kName, model, slices)),
        samples_(std::move(samples)) {
    check_samples();
  }

 private:
  friend Base;
  friend SymmetricOperator<MonteCarloFisher, S>;
  using Base::at;

  void draw_all(Index samples, Rng& rng) {
    detail::check_option(samples >= 1, kName, "samples", samples, ">= 1");
    gradients_.resize(static_cast<std::size_t>(samples));
    for (Index batch = 0; batch < at().batches(); ++batch) {
      at().load(batch);
      generators_.push_back(rng);
      draw(rng);
    }
  }

  void check_samples() {
    if (samples_.empty())
      raise<ShapeError>(std::string(kName) + ": 'samples' is empty, expected at least one");
    const Matrix<S> outputs = Matrix<S>::Zero(at().outputs(), at().examples());
    for (const Targets& sample : samples_) Base::loss().check(outputs, sample);
    gradients_.resize(samples_.size());
  }

  /// The gradients of the loaded batch at targets drawn with `rng`.
  void draw(Rng& rng) const {
    const ConstMatrixMap<S> outputs = at().batch_outputs();
    for (Matrix<S>& gradient : gradients_) {
      gradient.resize(outputs.rows(), outputs.cols());
      Base::loss().sampled_gradient(outputs, rng, gradient);
    }
  }

  void prepare(Index batch) const {
    if (samples_.empty()) {
      Rng rng = generators_[static_cast<std::size_t>(batch)];
      draw(rng);
      return;
    }
    for (std::size_t m = 0; m < samples_.size(); ++m)
      Base::criterion_gradient(detail::targets_of(samples_[m], at().examples(),
                                                  at().first_example(batch), at().examples(batch)),
                               gradients_[m]);
  }

  ConstVectorMap<S> batch_product(const ConstVectorRef<S>& v) const {
    const ConstMatrixMap<S> u = at().tangent(v);
    MatrixMap<S> sum = sum_.map(u.rows(), u.cols());
    sum.setZero();
    for (const Matrix<S>& gradient : gradients_) detail::add_outer_products(gradient, u, sum);
    sum /= static_cast<S>(gradients_.size());
    return at().pull_back(sum);
  }

  std::vector<Targets> samples_;  ///< the given ones; empty if they are drawn
  std::vector<Rng> generators_;   ///< which draw the targets of each batch
  mutable std::vector<Matrix<S>> gradients_;
  mutable Buffer<S> sum_;
};

}  // namespace kfac
