#pragma once

#include <cmath>
#include <memory>
#include <utility>

#include <kfac/curvature/gradient_moments_block.hpp>

namespace kfac {

/// KFOC, the Kronecker product nearest to the exact block C in the Frobenius norm, by power
/// iteration on C rearranged so that Kronecker products are of rank one:
/// A <- sum_n P_n^T G P_n / |G|^2, then G <- sum_n P_n A P_n^T / |A|^2, and so on, each the best
/// given the other. It starts from TNT, and since A and G are sums of positive semi-definite
/// matrices, so is every iterate.
///
/// Over a data set (`CurvatureEstimator::fit`) each half-step is a pass, until the norm of the fit
/// grows by less than `tolerance` relatively. In training each update is a half-step, with running
/// averages of the moments.
/// \source Van Loan and Pitsianis, Approximation with Kronecker products, 1993
template <RealScalar S>
class KroneckerFitBlock : public GradientMomentsBlock<S> {
  using Base = CurvatureBlock<S>;
  using Moments = GradientMomentsBlock<S>;

 public:
  /// \throws OptionError unless max_passes >= 1 and tolerance >= 0
  explicit KroneckerFitBlock(BlockOptions<S> options, Index max_passes = 60, S tolerance = S(1e-6))
      : Moments("kfac::KroneckerFitBlock", std::move(options)),
        a_(Matrix<S>::Identity(Base::columns(), Base::columns())),
        g_(Matrix<S>::Identity(Base::outputs(), Base::outputs())),
        max_passes_(max_passes),
        tolerance_(tolerance) {
    static constexpr const char* kWhere = "kfac::KroneckerFitBlock";
    detail::check_option(max_passes >= 1, kWhere, "max_passes", max_passes, ">= 1");
    detail::check_option(tolerance >= 0, kWhere, "tolerance", tolerance, ">= 0");
  }
  std::unique_ptr<Base> clone() const override {
    return std::unique_ptr<Base>(new KroneckerFitBlock(*this));
  }
  void assign(const Base& other) override { *this = static_cast<const KroneckerFitBlock&>(other); }
  const char* kind() const override { return "KFOC"; }
  BlockCost cost() const override {
    BlockCost cost = Moments::cost();
    cost.bytes += static_cast<double>(a_.size() + g_.size()) * sizeof(S);
    return cost;
  }

 private:
  /// Which factor's moment the next commit fits.
  enum class Side { Both, Input, Output };

  void do_add_output_gradient(const SharedBatch<S>& input, const SharedBatch<S>& gradient,
                              S weight) override {
    if (side_ != Side::Output) Moments::add_input_moment(input, gradient, weight, &g_);
    if (side_ != Side::Input) Moments::add_output_moment(input, gradient, weight, &a_);
  }
  void do_commit(S scale, Index examples, S decay) override {
    if (side_ != Side::Output) this->input_.commit(examples, decay);
    if (side_ != Side::Input) this->output_.commit(examples, decay);
    // a_ and g_ have norm 1 but at the start, so the fit's norm is that of the newest moment.
    S size = 0;
    if (side_ == Side::Both) {
      this->input_.copy_to(a_);
      this->output_.copy_to(g_);
      const S trace = a_.trace();
      size = trace > 0 ? a_.norm() * g_.norm() / trace : S(0);
    } else {
      Matrix<S>& newest = side_ == Side::Input ? a_ : g_;
      (side_ == Side::Input ? this->input_ : this->output_).copy_to(newest);
      size = newest.norm();
    }
    if (!(size > 0)) return Moments::set_factors(Matrix<S>::Zero(a_.rows(), a_.cols()), g_, scale);
    a_ /= a_.norm();
    g_ /= g_.norm();
    Moments::set_factors(a_, g_, scale * size);
    converged_ = side_ != Side::Both && std::abs(size - size_) <= tolerance_ * size;
    size_ = size;
    side_ = side_ == Side::Input ? Side::Output : Side::Input;
  }
  bool do_begin_pass(Index pass) override {
    if (pass == 0) {
      a_.setIdentity();
      g_.setIdentity();
      side_ = Side::Both;
      converged_ = false;
      size_ = 0;
    }
    if (in_fit_ended(pass)) return false;
    // A pass replaces the moment it fits.
    this->input_.reset();
    this->output_.reset();
    return true;
  }
  bool in_fit_ended(Index pass) const {
    return pass > 0 && (pass >= max_passes_ || converged_ || !(size_ > 0));
  }

  void visit_fit(StateVisitor& visitor) override {
    auto side = static_cast<int>(side_);
    visitor.visit("side", side);
    side_ = static_cast<Side>(side);
    visitor.visit("direction_a", a_);
    visitor.visit("direction_g", g_);
    visitor.visit("size", size_);
  }

  Matrix<S> a_, g_;  // the fit's direction, norms 1
  Index max_passes_;
  S tolerance_;
  Side side_ = Side::Both;
  bool converged_ = false;
  S size_ = 0;  // of the fit
};

}  // namespace kfac
