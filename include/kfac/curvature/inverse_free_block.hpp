#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include <kfac/curvature/curvature_block.hpp>
#include <kfac/curvature/inverse_free_factors.hpp>
#include <kfac/curvature/inverse_free_matrix.hpp>

namespace kfac {

/// Kronecker-factored curvature whose damped inverse is learned along with the parameters
/// (`InverseFreeFactors`): every `refresh_inverse` moves K and C by one step, with what was
/// committed since the one before, and `precondition` is V <- C C^T V K K^T. Structures other than
/// dense keep the factors in little memory:
///
///     kfac::InverseFreeBlock<float> block({.inputs = 784, .outputs = 100},
///                                         {.input_structure = kfac::linalg::Structure::Diagonal});
///
/// The past is in K and C alone: `factor_decay` is not used. It is made for training, where there
/// are many refreshes; after the few of a pass over a data set it is near its start. `matrix` is
/// (K K^T)^-1 (x) (C C^T)^-1, in which the damping is that of the refreshes: its argument changes
/// nothing.
/// \source Lin et al. 2024, arXiv 2312.05705
template <RealScalar S>
class InverseFreeBlock : public CurvatureBlock<S> {
  using Base = CurvatureBlock<S>;

 public:
  /// \throws OptionError
  explicit InverseFreeBlock(BlockOptions<S> options, InverseFreeOptions<S> inverse_options = {})
      : Base("kfac::InverseFreeBlock", std::move(options)),
        factors_(Base::columns(), Base::outputs(),
                 (inverse_options.validate("kfac::InverseFreeBlock"), inverse_options),
                 Base::options().pi != FactorBalance::None) {}
  std::unique_ptr<Base> clone() const override {
    return std::unique_ptr<Base>(new InverseFreeBlock(*this));
  }
  void assign(const Base& other) override { *this = static_cast<const InverseFreeBlock&>(other); }
  const char* kind() const override { return "inverse-free K-FAC"; }
  BlockCost cost() const override {
    const auto a = static_cast<double>(input_root().entries());
    const auto g = static_cast<double>(output_root().entries());
    const auto columns = static_cast<double>(Base::columns());
    const auto outputs = static_cast<double>(Base::outputs());
    return {.factors = "K of " + std::to_string(input_root().entries()) + ", C of " +
                       std::to_string(output_root().entries()) + " entries",
            .bytes = 7 * (a + g) * sizeof(S),
            .update = 1.5 * (a + g),
            .inverse = 2 * (a * columns + g * outputs),
            .precondition = 2 * (a * outputs + g * columns)};
  }

  /// K, `columns() x columns()`, with K K^T near the inverse of the damped A.
  const linalg::StructuredMatrix<S>& input_root() const { return factors_.input().root(); }
  /// C, `outputs x outputs`, with C C^T near the inverse of the damped G.
  const linalg::StructuredMatrix<S>& output_root() const { return factors_.output().root(); }

  bool fresh_is_finite() const override {
    return factors_.input().fresh_is_finite() && factors_.output().fresh_is_finite();
  }

 private:
  /// Columns are copied (to append the 1, and in order) and transformed this many at a time.
  static constexpr Index kColumnsAtOnce = 256;

  void do_add_input(const SharedBatch<S>& input, const PositionMask* mask) override {
    const detail::FactorInput<S> taken =
        detail::factor_input(Base::options().sharing, input, mask, scratch_);
    add(factors_.input(), taken.columns, S(1));
    input_columns_ += taken.columns.columns();
    identity_weight_ += taken.identity_weight;
  }
  void do_add_output_gradient(const SharedBatch<S>&, const SharedBatch<S>& gradient,
                              S weight) override {
    add(factors_.output(), detail::factor_gradient(Base::options().sharing, gradient, scratch_),
        weight);
  }
  void do_add_output_identity() override {
    factors_.output().add_identity(identity_weight_);
    identity_weight_ = 0;
  }
  void do_commit(S scale, Index examples, S) override {
    factors_.input().commit(S(1) / static_cast<S>(input_columns_));
    factors_.output().commit(scale / static_cast<S>(examples));
    forget_counts();
  }
  void do_discard() override {
    factors_.input().discard();
    factors_.output().discard();
    forget_counts();
  }
  bool do_begin_pass(Index pass) override {
    if (pass == 0) factors_.reset();
    return pass == 0;
  }
  // A step of K and C is a few products: there is nothing to leave to another thread.
  void do_prepare_inverse(S damping) override { updated_ = factors_.update(damping); }
  bool do_compute_inverse() override { return updated_; }
  void do_adopt_inverse() override {}
  void do_precondition(MatrixRef<S> v) override { factors_.apply(v); }
  std::unique_ptr<CurvatureMatrix<S>> do_matrix(S) const override {
    return std::make_unique<InverseFreeMatrix<S>>(input_root().dense(), output_root().dense());
  }

  void do_visit_state(StateVisitor& visitor) override {
    visitor.in("factors", factors_);
    visitor.visit("updated", updated_);
  }

  /// Adds the columns of a batch to a root, below which a 1 is appended where the root has a row
  /// more.
  void add(InverseFreeRoot<S>& root, const SharedBatch<S>& batch, S weight) {
    const Index features = batch.features();
    batch.for_each_block([&](const SharedBatch<S>& block, Index) {
      block.visit([&](const auto& columns) {
        for (Index first = 0; first < columns.cols(); first += kColumnsAtOnce) {
          const Index count = std::min(kColumnsAtOnce, columns.cols() - first);
          MatrixMap<S> copy = columns_.map(root.size(), count);
          copy.topRows(features) = columns.middleCols(first, count);
          copy.bottomRows(root.size() - features).setOnes();
          root.add(copy, weight);
        }
      });
    });
  }
  void forget_counts() {
    input_columns_ = 0;
    identity_weight_ = 0;
  }

  InverseFreeFactors<S> factors_;
  bool updated_ = false;
  Index input_columns_ = 0;
  S identity_weight_ = 0;  // as in `FactorInput`
  Buffer<S> columns_, scratch_;
};

}  // namespace kfac
