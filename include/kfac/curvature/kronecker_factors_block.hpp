#pragma once

#include <utility>

#include <kfac/curvature/curvature_block.hpp>
#include <kfac/curvature/kronecker_factors.hpp>

namespace kfac {

/// A block whose estimate is K-FAC's two factors, whatever `Base` makes of them:
/// `CurvatureBlock<S>` or `SpectralBlock<S>`.
template <RealScalar S, class Base>
class KroneckerFactorsBlock : public Base {
 public:
  /// A, `columns() x columns()`: the mean second moment of the inputs.
  Matrix<S> input_factor() const { return factors_.input_factor(); }
  /// G, `outputs x outputs`, which carries the scale of the loss.
  Matrix<S> output_gradient_factor() const { return factors_.output_gradient_factor(); }

  bool fresh_is_finite() const override { return factors_.fresh_is_finite(); }

 protected:
  KroneckerFactorsBlock(const char* where, BlockOptions<S> options)
      : Base(where, std::move(options)), factors_(Base::options()) {}

  KroneckerFactors<S>& factors() { return factors_; }
  const KroneckerFactors<S>& factors() const { return factors_; }
  void visit_factors(StateVisitor& visitor) { visitor.in("factors", factors_); }

  /// Without what a kind adds for its inverse.
  BlockCost factor_cost() const {
    const auto a = static_cast<double>(this->columns());
    const auto g = static_cast<double>(this->outputs());
    BlockCost cost;
    cost.factors = detail::square_text("A", this->columns()) + ", " +
                   detail::square_text("G", this->outputs());
    cost.bytes = (a * (a + 1) + g * (g + 1)) * sizeof(S);
    cost.update = (a * a + g * g) / 2;
    cost.precondition = a * g * (a + g);
    return cost;
  }

 private:
  void do_add_input(const SharedBatch<S>& input, const PositionMask* mask) override {
    factors_.add_input(input, mask);
  }
  void do_add_output_gradient(const SharedBatch<S>&, const SharedBatch<S>& gradient,
                              S weight) override {
    factors_.add_output_gradient(gradient, weight);
  }
  void do_add_output_identity() override { factors_.add_output_identity(); }
  void do_commit(S scale, Index examples, S decay) override {
    factors_.commit(scale, examples, decay);
  }
  void do_discard() override { factors_.discard(); }
  bool do_begin_pass(Index pass) override {
    if (pass == 0) factors_.reset();
    return pass == 0;
  }

  KroneckerFactors<S> factors_;
};

}  // namespace kfac
