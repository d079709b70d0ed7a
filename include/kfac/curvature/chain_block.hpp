#pragma once

#include <memory>
#include <optional>
#include <utility>

#include <kfac/curvature/block_factory.hpp>
#include <kfac/curvature/chain_factors.hpp>
#include <kfac/curvature/chain_matrix.hpp>

namespace kfac {

/// The curvature of a linear map that is applied at each step of a sequence, as in a recurrent
/// network: K-FAC with the correlations between steps, which `KroneckerBlock` leaves out. With
/// inputs a_t and output gradients g_t (independent of each other) the block is the sum over pairs
/// of steps, lag by lag,
///
///     C = sum_{t,s} E[a_t a_s^T] (x) E[g_t g_s^T],
///
/// where the moments of lag d are modelled by those of lag 1: A_d = Psi_A^d A_0, Psi_A = A_1
/// A_0^-1. `ChainStructure` says how the sum is taken. For one step it is a `KroneckerBlock`.
/// Positions are taken for steps in time, in order (`LayerView::recurrent`);
/// `BlockOptions::sharing` does not concern it, and several uses of the parameters count as one
/// sequence.
///
/// It is in a header of its own because Eigen's eigensolver takes seconds to compile.
/// \source Martens, Ba and Johnson, Kronecker-factored curvature approximations for recurrent
///         neural networks, ICLR 2018
template <RealScalar S>
class ChainBlock : public CurvatureBlock<S> {
  using Base = CurvatureBlock<S>;

 public:
  /// \throws OptionError
  explicit ChainBlock(BlockOptions<S> options, ChainStructure structure = ChainStructure::Symmetric)
      : Base("kfac::ChainBlock", std::move(options)),
        structure_(structure),
        factors_(Base::options()) {}
  std::unique_ptr<Base> clone() const override {
    return std::unique_ptr<Base>(new ChainBlock(*this));
  }
  void assign(const Base& other) override { *this = static_cast<const ChainBlock&>(other); }
  const char* kind() const override {
    return structure_ == ChainStructure::Symmetric ? "K-FAC (symmetric chain)"
                                                   : "K-FAC (long chain)";
  }
  BlockCost cost() const override {
    const auto a = static_cast<double>(Base::columns());
    const auto g = static_cast<double>(Base::outputs());
    const bool is_long = structure_ == ChainStructure::LongSequence;
    BlockCost cost;
    cost.factors = detail::square_text("A", Base::columns()) + ", " +
                   detail::square_text("G", Base::outputs()) + ", twice";
    // That in use and that being made, and the moments that it is made of.
    cost.inverse_bytes = ((is_long ? 4 : 2) * (a * a + g * g) + 2 * a * g) * sizeof(S) +
                         2 * (a * a + g * g) * sizeof(double);
    cost.bytes = 3 * (a * a + g * g) * sizeof(S) + cost.inverse_bytes;
    cost.update = 3 * (a * a + g * g) / 2;
    cost.inverse = 22 * (a * a * a + g * g * g);
    cost.precondition = (is_long ? 4 : 2) * a * g * (a + g);
    return cost;
  }

  ChainStructure structure() const { return structure_; }
  /// The moments, with the scale of the loss.
  ChainMoments moments() const { return factors_.moments(); }

  bool fresh_is_finite() const override { return factors_.fresh_is_finite(); }

 private:
  void do_add_input(const SharedBatch<S>& input, const PositionMask* mask) override {
    factors_.add_input(input, mask);
  }
  void do_add_output_gradient(const SharedBatch<S>&, const SharedBatch<S>& gradient,
                              S weight) override {
    factors_.add_output_gradient(gradient, weight);
  }
  void do_commit(S scale, Index examples, S decay) override {
    factors_.commit(scale, examples, decay);
    undamped_.reset();
  }
  void do_discard() override { factors_.discard(); }
  bool do_begin_pass(Index pass) override {
    if (pass == 0) factors_.reset();
    return pass == 0;
  }
  void do_prepare_inverse(S damping) override {
    inverse_.prepare(factors_.moments(), damping, Base::options().pi, structure_);
  }
  bool do_compute_inverse() override { return inverse_.compute(); }
  void do_adopt_inverse() override { inverse_.adopt(); }
  void do_precondition(MatrixRef<S> v) override { inverse_.apply(v); }
  void do_multiply(MatrixRef<S> v) override {
    if (!undamped_) undamped_.emplace(decompose(S(0)));
    undamped_->multiply(v);
  }
  std::unique_ptr<CurvatureMatrix<S>> do_matrix(S damping) const override {
    return std::make_unique<ChainMatrix<S>>(decompose(damping));
  }
  ChainDecomposition decompose(S damping) const {
    ChainDecomposition chain;
    if (!chain.compute(factors_.moments(), static_cast<double>(damping), Base::options().pi,
                       structure_))
      raise<ValueError>("kfac::CurvatureBlock::matrix: the estimate is not finite (layer '" +
                        Base::name() + "')");
    return chain;
  }
  void do_visit_state(StateVisitor& visitor) override {
    visitor.in("factors", factors_);
    visitor.in("inverse", inverse_, Base::columns(), Base::outputs());
    if (visitor.overwrites()) undamped_.reset();
  }

  ChainStructure structure_;
  ChainFactors<S> factors_;
  ChainInverse<S> inverse_;
  std::optional<ChainMatrix<S>> undamped_;  // of the estimate, once `multiply` wanted it
};

/// Chain-structured blocks for the layers of recurrent networks, and other kinds for the rest:
///
///     kfac::KfacOptimizer optimizer(model, loss, {}, kfac::chain_blocks<float>());
template <RealScalar S>
BlockFactory<S> chain_blocks(ChainStructure structure = ChainStructure::Symmetric,
                             BlockFactory<S> others = block_factory<KroneckerBlock<S>>()) {
  return [structure, others = std::move(others)](
             const LayerView<S>& layer,
             const BlockOptions<S>& options) -> std::unique_ptr<CurvatureBlock<S>> {
    if (layer.recurrent && layer.kronecker)
      return std::make_unique<ChainBlock<S>>(options, structure);
    return others(layer, options);
  };
}

}  // namespace kfac
