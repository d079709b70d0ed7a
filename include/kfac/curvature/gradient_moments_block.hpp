#pragma once

#include <utility>

#include <kfac/curvature/example_gradients.hpp>
#include <kfac/curvature/running_covariance.hpp>
#include <kfac/curvature/spectral_block.hpp>

namespace kfac {

/// A (x) G fitted to the examples' own gradients P_n (`outputs x columns`), in one of two ways:
/// `TensorNormalBlock`, `KroneckerFitBlock`. Both take moments of the kind sum_n P_n^T M P_n.
template <RealScalar S>
class GradientMomentsBlock : public SpectralBlock<S> {
  using Base = CurvatureBlock<S>;

 public:
  bool fresh_is_finite() const override {
    return input_.fresh_is_finite() && output_.fresh_is_finite();
  }

  BlockCost cost() const override {
    const auto a = static_cast<double>(Base::columns());
    const auto g = static_cast<double>(Base::outputs());
    return this->spectral_cost((2 * (a * a + g * g) + a + g) * sizeof(S), a * a + g * g);
  }

  /// The factors: A has the trace of its size, G carries the scale.
  const Matrix<S>& input_factor() const { return a_; }
  const Matrix<S>& output_gradient_factor() const { return g_; }

 protected:
  GradientMomentsBlock(const char* where, BlockOptions<S> options)
      : SpectralBlock<S>(where, std::move(options)),
        input_(Base::columns(), false),
        output_(Base::outputs(), false),
        a_(Matrix<S>::Identity(Base::columns(), Base::columns())),
        g_(Matrix<S>::Identity(Base::outputs(), Base::outputs())),
        gradients_(Base::has_bias()) {}

  /// Adds sum_n P_n^T M P_n; a null M is the identity.
  void add_input_moment(const SharedBatch<S>& input, const SharedBatch<S>& gradient, S weight,
                        const Matrix<S>* m = nullptr) {
    gradients_.add_input_moments(input, gradient, weight, m, input_.fresh());
  }
  /// Adds sum_n P_n M P_n^T, likewise.
  void add_output_moment(const SharedBatch<S>& input, const SharedBatch<S>& gradient, S weight,
                         const Matrix<S>* m = nullptr) {
    gradients_.add_output_moments(input, gradient, weight, m, output_.fresh());
  }
  /// The factors as the given multiple of A (x) G, both symmetric.
  void set_factors(const Matrix<S>& a, const Matrix<S>& g, S scale) {
    const S mean = a.trace() / static_cast<S>(a.rows());
    if (!(mean > 0)) {  // no gradient at all
      a_.setIdentity();
      g_.setZero();
      return;
    }
    a_ = a / mean;
    g_ = (scale * mean) * g;
  }

  RunningCovariance<S> input_;   // columns x columns
  RunningCovariance<S> output_;  // outputs x outputs

 private:
  void do_add_input(const SharedBatch<S>&, const PositionMask*) override {}
  void do_discard() override {
    input_.discard();
    output_.discard();
  }
  void copy_basis_factors(Matrix<S>& a, Matrix<S>& g) const override {
    a = a_;
    g = g_;
  }
  void multiply_by_factors(MatrixRef<S> v, Buffer<S>& scratch) override {
    MatrixMap<S> half = scratch.map(v.rows(), v.cols());
    half.noalias() = g_ * v;
    v.noalias() = half * a_;
  }
  void visit_statistics(StateVisitor& visitor) override {
    visitor.in("input", input_);
    visitor.in("output", output_);
    visitor.visit("a", a_);
    visitor.visit("g", g_);
    visit_fit(visitor);
  }
  /// What a kind keeps besides.
  virtual void visit_fit(StateVisitor& visitor) { static_cast<void>(visitor); }

  Matrix<S> a_, g_;
  ExampleGradients<S> gradients_;
};

}  // namespace kfac
