#pragma once

#include <kfac/nn/layer.hpp>

#include "support/networks.hpp"

/// A layer whose parameters have no Kronecker structure, for what is to hold of any layer.
namespace kfac::test {

/// y = exp(s) x, entry by entry: announces nothing.
class ExponentialScale {
 public:
  using Scalar = double;
  struct Scratch {};

  ExponentialScale(Index size, Rng& rng) : exponents_(0.3 * random_matrix(size, 1, rng)) {}

  Index parameter_count() const { return exponents_.size(); }
  VectorMap<double> parameters() { return {exponents_.data(), exponents_.size()}; }
  Shape output_shape(const Shape& shape) const { return shape; }

  void forward(const ConstBatchView<double>& x, BatchView<double> y, Scratch&, const Mode&) const {
    y.values = exponents_.array().exp().matrix().asDiagonal() * x.values;
  }
  void backward(const ConstBatchView<double>&, const ConstBatchView<double>& y,
                const ConstBatchView<double>& grad_output, BatchView<double>* grad_input,
                VectorMap<double>* grad_parameters, Scratch&, const Mode&) const {
    if (grad_input)
      grad_input->values = exponents_.array().exp().matrix().asDiagonal() * grad_output.values;
    if (grad_parameters)
      *grad_parameters = y.values.cwiseProduct(grad_output.values).rowwise().sum();
  }
  void tangent(const ConstBatchView<double>&, const ConstBatchView<double>& y,
               const ConstBatchView<double>* x_tangent, const ConstVectorMap<double>* direction,
               BatchView<double> y_tangent, Scratch&) const {
    y_tangent.values.setZero();
    if (x_tangent)
      y_tangent.values += exponents_.array().exp().matrix().asDiagonal() * x_tangent->values;
    if (direction) y_tangent.values += direction->asDiagonal() * y.values;
  }

 private:
  Vector<double> exponents_;
};
static_assert(LeafLayer<ExponentialScale> && !KroneckerLayer<ExponentialScale>);

}  // namespace kfac::test
