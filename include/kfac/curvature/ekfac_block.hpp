#pragma once

#include <memory>
#include <utility>

#include <kfac/curvature/example_gradients.hpp>
#include <kfac/curvature/kronecker_factors.hpp>
#include <kfac/curvature/running_mean.hpp>
#include <kfac/curvature/spectral_block.hpp>

namespace kfac {

/// EKFAC: K-FAC's eigenbasis U with the eigenvalues replaced by the second moments of the examples'
/// own gradients in that basis, diag(U^T C U) of the exact block C, which makes it the matrix
/// nearest to C (in the Frobenius norm) that is diagonal there.
///
/// Over a data set (`CurvatureEstimator::fit`) it takes two passes, one for the basis and one for
/// the second moments, and is exactly that. In training the moments are running averages of the
/// batches since the basis was last refreshed (K-FAC's own eigenvalues until there is one), with
/// `factor_decay` as the weight of the past.
/// \source George et al. 2018, arXiv 1806.03884
template <RealScalar S>
class EkfacBlock : public SpectralBlock<S> {
  using Base = CurvatureBlock<S>;

 public:
  /// \throws OptionError
  explicit EkfacBlock(BlockOptions<S> options)
      : SpectralBlock<S>("kfac::EkfacBlock", std::move(options)),
        factors_(Base::options()),
        gradients_(Base::has_bias()),
        moments_(Base::outputs(), Base::columns()) {}
  std::unique_ptr<Base> clone() const override {
    return std::unique_ptr<Base>(new EkfacBlock(*this));
  }
  void assign(const Base& other) override { *this = static_cast<const EkfacBlock&>(other); }
  const char* kind() const override { return "EKFAC"; }
  BlockCost cost() const override {
    const auto a = static_cast<double>(Base::columns());
    const auto g = static_cast<double>(Base::outputs());
    return this->spectral_cost((a * (a + 1) + g * (g + 1) + 3 * a * g) * sizeof(S),
                               1.5 * (a * a + g * g) + a * g);
  }

  Matrix<S> input_factor() const { return factors_.input_factor(); }
  Matrix<S> output_gradient_factor() const { return factors_.output_gradient_factor(); }

  bool fresh_is_finite() const override {
    return factors_.fresh_is_finite() && moments_.fresh_is_finite();
  }

 private:
  bool do_collect(bool factors, bool moments) override {
    factors_due_ = factors;
    moments_due_ = moments;
    return adds_factors() || adds_moments();
  }
  void do_add_input(const SharedBatch<S>& input, const PositionMask* mask) override {
    if (adds_factors()) factors_.add_input(input, mask);
  }
  void do_add_output_gradient(const SharedBatch<S>& input, const SharedBatch<S>& gradient,
                              S weight) override {
    if (adds_factors()) factors_.add_output_gradient(gradient, weight);
    if (!adds_moments()) return;
    const linalg::KroneckerEigen<S>& eigen = this->eigen();
    gradients_.add_squares(input, gradient, weight, &eigen.input_basis().vectors,
                           &eigen.output_basis().vectors, moments_.fresh());
  }
  void do_commit(S scale, Index examples, S decay) override {
    if (adds_factors()) {
      factors_.commit(scale, examples, decay);
      ++factor_commits_;
    }
    if (!adds_moments()) return;
    moments_.commit(examples, decay);
    grid_ = scale * moments_.value();
    this->eigen().set_grid(grid_);
  }
  void do_discard() override {
    factors_.discard();
    moments_.discard();
  }
  bool do_begin_pass(Index pass) override {
    if (pass == 0) {
      factors_.reset();
      set_pass(true, false);
    } else if (pass == 1) {
      if (!this->eigen().compute(input_factor(), output_gradient_factor()))
        raise<ValueError>("kfac::EkfacBlock::begin_pass: a factor is not finite (layer '" +
                          Base::name() + "')");
      on_copied_factors();
      on_new_basis();
      set_pass(false, true);
    } else {
      set_pass(true, true);
    }
    return pass < 2;
  }

  void copy_basis_factors(Matrix<S>& a, Matrix<S>& g) const override { factors_.copy_to(a, g); }
  void multiply_by_factors(MatrixRef<S> v, Buffer<S>& scratch) override {
    factors_.multiply(v, scratch);
  }
  bool basis_is_current() const override {
    return !this->eigen().empty() && basis_commits_ == factor_commits_;
  }
  void on_copied_factors() override { copied_commits_ = factor_commits_; }
  void on_new_basis() override {
    basis_commits_ = copied_commits_;
    moments_.reset();
  }
  const linalg::KroneckerEigen<S>* estimate() const override {
    return this->eigen().empty() ? nullptr : &this->eigen();
  }
  void set_pass(bool factors, bool moments) {
    pass_has_factors_ = factors;
    pass_has_moments_ = moments;
  }
  bool adds_factors() const { return factors_due_ && pass_has_factors_; }
  bool adds_moments() const { return moments_due_ && pass_has_moments_ && !this->eigen().empty(); }

  void visit_statistics(StateVisitor& visitor) override {
    visitor.in("factors", factors_);
    visitor.in("moments", moments_);
    visitor.visit("factor_commits", factor_commits_);
    visitor.visit("basis_commits", basis_commits_);
    visitor.visit("copied_commits", copied_commits_);
  }

  KroneckerFactors<S> factors_;
  ExampleGradients<S> gradients_;
  RunningMean<S> moments_;   // of one example's criterion, in the basis
  Matrix<S> grid_;           // the same with the scale of the loss
  bool factors_due_ = true;  // in training
  bool moments_due_ = true;
  bool pass_has_factors_ = true;  // over a data set
  bool pass_has_moments_ = true;
  Index factor_commits_ = 0;
  Index basis_commits_ = -1;   // at which the basis in use was copied
  Index copied_commits_ = -1;  // at which that which is being made was
};

}  // namespace kfac
