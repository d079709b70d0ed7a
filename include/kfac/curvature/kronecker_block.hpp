#pragma once

#include <memory>
#include <utility>

#include <kfac/curvature/curvature_block.hpp>
#include <kfac/curvature/factored_matrix.hpp>
#include <kfac/curvature/kronecker_factors.hpp>
#include <kfac/linalg/factored_inverse.hpp>

namespace kfac {

/// The Kronecker-factored curvature of one linear map z = W x + b, from nothing but matrices:
///
///     kfac::KroneckerBlock<float> block({.inputs = 784, .outputs = 100, .bias = true});
///     block.accumulate(activations, output_gradients);     // 784 x batch, 100 x batch
///     block.refresh_inverse(1e-2f);                        // damping
///     block.precondition(weight_gradient, bias_gradient);  // in place: 100 x 784, 100
///
/// The block is A (x) G (`KroneckerFactors`); its damping is split over the factors, which are
/// inverted by Cholesky (`FactoredInverse`). `KroneckerEigenBlock` damps exactly.
/// \source Martens and Grosse 2015, arXiv 1503.05671
template <RealScalar S>
class KroneckerBlock : public CurvatureBlock<S> {
  using Base = CurvatureBlock<S>;

 public:
  /// \throws OptionError
  explicit KroneckerBlock(BlockOptions<S> options)
      : Base("kfac::KroneckerBlock", std::move(options)), factors_(Base::options()) {}
  std::unique_ptr<Base> clone() const override {
    return std::unique_ptr<Base>(new KroneckerBlock(*this));
  }
  void assign(const Base& other) override { *this = static_cast<const KroneckerBlock&>(other); }
  const char* kind() const override { return "K-FAC"; }

  /// A, `columns() x columns()`: the mean second moment of the inputs.
  const Matrix<S>& input_factor() const { return factors_.input_factor(); }
  /// G, `outputs x outputs`, which carries the scale of the loss.
  const Matrix<S>& output_gradient_factor() const { return factors_.output_gradient_factor(); }

  bool fresh_is_finite() const override { return factors_.fresh_is_finite(); }

 private:
  void do_add_input(const SharedBatch<S>& input, const PositionMask* mask) override {
    factors_.add_input(input, mask);
  }
  void do_add_output_gradient(const SharedBatch<S>&, const SharedBatch<S>& gradient,
                              S weight) override {
    factors_.add_output_gradient(gradient, weight);
  }
  void do_add_output_identity() override { factors_.add_output_identity(); }
  void do_commit(S scale, Index examples) override { factors_.commit(scale, examples); }
  void do_discard() override { factors_.discard(); }
  bool do_begin_pass(Index pass) override {
    if (pass == 0) factors_.reset();
    return pass == 0;
  }
  bool do_refresh_inverse(S damping) override {
    return inverse_.refresh(input_factor(), output_gradient_factor(), damping, Base::options().pi);
  }
  void do_precondition(MatrixRef<S> v) override { inverse_.apply(v); }
  std::unique_ptr<CurvatureMatrix<S>> do_matrix(S damping) const override {
    return std::make_unique<FactoredMatrix<S>>(input_factor(), output_gradient_factor(), damping,
                                               Base::options().pi);
  }

  KroneckerFactors<S> factors_;
  FactoredInverse<S> inverse_;
};

}  // namespace kfac
