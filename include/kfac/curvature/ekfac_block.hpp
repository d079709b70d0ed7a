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

  const Matrix<S>& input_factor() const { return factors_.input_factor(); }
  const Matrix<S>& output_gradient_factor() const { return factors_.output_gradient_factor(); }

  bool fresh_is_finite() const override {
    return factors_.fresh_is_finite() && moments_.fresh_is_finite();
  }

 private:
  /// What a pass over the data feeds.
  enum class Stage { Both, Factors, Moments };

  void do_add_input(const SharedBatch<S>& input, const PositionMask* mask) override {
    if (stage_ != Stage::Moments) factors_.add_input(input, mask);
  }
  void do_add_output_gradient(const SharedBatch<S>& input, const SharedBatch<S>& gradient,
                              S weight) override {
    if (stage_ != Stage::Moments) factors_.add_output_gradient(gradient, weight);
    if (!adds_moments()) return;
    const linalg::KroneckerEigen<S>& eigen = this->eigen();
    gradients_.add_squares(input, gradient, weight, &eigen.input_basis().vectors,
                           &eigen.output_basis().vectors, moments_.fresh());
  }
  void do_commit(S scale, Index examples) override {
    if (stage_ != Stage::Moments) {
      factors_.commit(scale, examples);
      ++factor_commits_;
    }
    if (!adds_moments()) return;
    moments_.commit(examples, Base::options().factor_decay);
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
      stage_ = Stage::Factors;
    } else if (pass == 1) {
      if (!this->eigen().compute(input_factor(), output_gradient_factor()))
        raise<ValueError>("kfac::EkfacBlock::begin_pass: a factor is not finite (layer '" +
                          Base::name() + "')");
      on_new_basis();
      stage_ = Stage::Moments;
    } else {
      stage_ = Stage::Both;
    }
    return pass < 2;
  }

  bool decompose(linalg::KroneckerEigen<S>& eigen) const override {
    if (!basis_is_current()) return eigen.compute(input_factor(), output_gradient_factor());
    eigen = this->eigen();
    return true;
  }
  bool estimate(linalg::KroneckerEigen<S>& eigen) const override {
    if (this->eigen().empty()) return decompose(eigen);
    eigen = this->eigen();
    return true;
  }
  void on_new_basis() override {
    if (basis_is_current()) return;
    basis_commits_ = factor_commits_;
    moments_.reset();
  }
  /// Whether the factors are those that the basis in use was made of.
  bool basis_is_current() const {
    return !this->eigen().empty() && basis_commits_ == factor_commits_;
  }
  bool adds_moments() const { return stage_ != Stage::Factors && !this->eigen().empty(); }

  KroneckerFactors<S> factors_;
  ExampleGradients<S> gradients_;
  RunningMean<S> moments_;  // of one example's criterion, in the basis
  Matrix<S> grid_;          // the same with the scale of the loss
  Stage stage_ = Stage::Both;
  Index factor_commits_ = 0;
  Index basis_commits_ = -1;
};

}  // namespace kfac
