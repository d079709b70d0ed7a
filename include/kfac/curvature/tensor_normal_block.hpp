#pragma once

#include <memory>
#include <utility>

#include <kfac/curvature/gradient_moments_block.hpp>

namespace kfac {

/// TNT, the covariance of a tensor-normal distribution of the examples' gradients:
/// E[P^T P] (x) E[P P^T] / E[|P|^2], with the trace of the exact block.
/// \source Ren and Goldfarb 2021, Tensor normal training for deep learning models, arXiv 2106.02925
template <RealScalar S>
class TensorNormalBlock : public GradientMomentsBlock<S> {
  using Base = CurvatureBlock<S>;
  using Moments = GradientMomentsBlock<S>;

 public:
  /// \throws OptionError
  explicit TensorNormalBlock(BlockOptions<S> options)
      : Moments("kfac::TensorNormalBlock", std::move(options)) {}
  std::unique_ptr<Base> clone() const override {
    return std::unique_ptr<Base>(new TensorNormalBlock(*this));
  }
  void assign(const Base& other) override { *this = static_cast<const TensorNormalBlock&>(other); }
  const char* kind() const override { return "TNT"; }
  BlockCost cost() const override {
    BlockCost cost = Moments::cost();
    const auto a = static_cast<double>(Base::columns());
    const auto g = static_cast<double>(Base::outputs());
    cost.bytes += (a * a + g * g) * sizeof(S);
    return cost;
  }

 private:
  void do_add_output_gradient(const SharedBatch<S>& input, const SharedBatch<S>& gradient,
                              S weight) override {
    Moments::add_input_moment(input, gradient, weight);
    Moments::add_output_moment(input, gradient, weight);
  }
  void do_commit(S scale, Index examples, S decay) override {
    this->input_.commit(examples, decay);
    this->output_.commit(examples, decay);
    this->input_.copy_to(a_);
    this->output_.copy_to(g_);
    const S trace = a_.trace();
    Moments::set_factors(a_, g_, trace > 0 ? scale / trace : S(0));
  }
  bool do_begin_pass(Index pass) override {
    if (pass == 0) {
      this->input_.reset();
      this->output_.reset();
    }
    return pass == 0;
  }

  Matrix<S> a_, g_;  // the moments
};

}  // namespace kfac
