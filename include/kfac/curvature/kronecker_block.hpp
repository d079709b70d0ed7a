#pragma once

#include <memory>
#include <utility>

#include <kfac/curvature/factored_matrix.hpp>
#include <kfac/curvature/kronecker_factors_block.hpp>
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
class KroneckerBlock : public KroneckerFactorsBlock<S, CurvatureBlock<S>> {
  using Base = CurvatureBlock<S>;
  using Factors = KroneckerFactorsBlock<S, Base>;

 public:
  /// \throws OptionError
  explicit KroneckerBlock(BlockOptions<S> options)
      : Factors("kfac::KroneckerBlock", std::move(options)) {}
  std::unique_ptr<Base> clone() const override {
    return std::unique_ptr<Base>(new KroneckerBlock(*this));
  }
  void assign(const Base& other) override { *this = static_cast<const KroneckerBlock&>(other); }
  const char* kind() const override { return "K-FAC"; }
  BlockCost cost() const override {
    BlockCost cost = Factors::factor_cost();
    const auto a = static_cast<double>(Base::columns());
    const auto g = static_cast<double>(Base::outputs());
    cost.inverse_bytes = static_cast<double>((linalg::PackedInverse<S>::entries(Base::columns()) +
                                              linalg::PackedInverse<S>::entries(Base::outputs())) *
                                             Index{sizeof(S)});
    cost.bytes += cost.inverse_bytes;
    cost.inverse = (a * a * a + g * g * g) / 3;
    return cost;
  }

 private:
  bool do_refresh_inverse(S damping) override {
    return Factors::factors().with_copies([&](MatrixRef<S> a, MatrixRef<S> g) {
      return inverse_.refresh_in_place(a, g, damping, Base::options().pi);
    });
  }
  void do_prepare_inverse(S damping) override {
    Factors::factors().with_copies([&](const MatrixRef<S>& a, const MatrixRef<S>& g) {
      inverse_.prepare(a, g, damping, Base::options().pi);
    });
  }
  bool do_compute_inverse() override { return inverse_.compute(); }
  void do_adopt_inverse() override { inverse_.adopt(); }
  void do_precondition(MatrixRef<S> v) override { inverse_.apply(v); }
  S do_precondition_with_dot(MatrixRef<S> v) override { return inverse_.apply(v); }
  void do_multiply(MatrixRef<S> v) override { Factors::factors().multiply(v, product_); }
  std::unique_ptr<CurvatureMatrix<S>> do_matrix(S damping) const override {
    return std::make_unique<FactoredMatrix<S>>(
        Factors::input_factor(), Factors::output_gradient_factor(), damping, Base::options().pi);
  }

  void do_visit_state(StateVisitor& visitor) override {
    Factors::visit_factors(visitor);
    visitor.in("inverse", inverse_, Base::columns(), Base::outputs());
  }

  FactoredInverse<S> inverse_;
  Buffer<S> product_;
};

}  // namespace kfac
