#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <utility>

#include <kfac/curvature/curvature_block.hpp>
#include <kfac/curvature/diagonal_input_matrix.hpp>
#include <kfac/curvature/running_covariance.hpp>
#include <kfac/curvature/running_mean.hpp>
#include <kfac/linalg/matrix_product.hpp>
#include <kfac/linalg/spd_inverse.hpp>

namespace kfac {

/// K-FAC where the input factor A is diagonal, as it is for an embedding, whose inputs are one-hot
/// columns: A holds the frequencies of the tokens, G is as in `KroneckerBlock`, and so is the
/// damping (split over the factors; dim A counts the vocabulary). Memory and work of A grow with
/// the vocabulary instead of its square and cube, and of a gradient only those columns are
/// multiplied that are not zero: the tokens of the batch.
///
///     kfac::DiagonalInputBlock<float> block({.inputs = 32000, .outputs = 64, .bias = false});
///
/// For one-hot columns (`SharedBatch::one_hot`) that each count (`WeightSharing::Expand`) it is
/// K-FAC itself; for any other inputs, also means of one-hot columns (`Reduce`) and a bias, A is
/// the diagonal of K-FAC's.
/// \source Martens and Grosse 2015, arXiv 1503.05671; the diagonal factor is that of
///         tensorflow/kfac's blocks for embeddings
template <RealScalar S>
class DiagonalInputBlock : public CurvatureBlock<S> {
  using Base = CurvatureBlock<S>;

 public:
  /// \throws OptionError
  explicit DiagonalInputBlock(BlockOptions<S> options)
      : Base("kfac::DiagonalInputBlock", std::move(options)),
        input_(Base::columns(), 1),
        output_gradient_(Base::outputs(), false) {}
  std::unique_ptr<Base> clone() const override {
    return std::unique_ptr<Base>(new DiagonalInputBlock(*this));
  }
  void assign(const Base& other) override { *this = static_cast<const DiagonalInputBlock&>(other); }
  const char* kind() const override { return "K-FAC with diagonal A"; }
  BlockCost cost() const override {
    const auto a = static_cast<double>(Base::columns());
    const auto g = static_cast<double>(Base::outputs());
    return {.factors = "A diagonal of " + std::to_string(Base::columns()) + ", " +
                       detail::square_text("G", Base::outputs()),
            .bytes = (4 * a + 4 * g * g) * sizeof(S),
            .update = 1 + g * g / 2,
            .inverse = a + g * g * g,
            .precondition = a * g * g,
            .inverse_bytes = (a + g * g) * sizeof(S)};
  }

  /// The diagonal of A, `columns()`: the mean square of each input.
  Vector<S> input_factor() const { return input_.value(); }
  /// G, `outputs x outputs`, which carries the scale of the loss.
  const Matrix<S>& output_gradient_factor() const { return g_; }

  bool fresh_is_finite() const override {
    return input_.fresh_is_finite() && output_gradient_.fresh_is_finite();
  }

 private:
  void do_add_input(const SharedBatch<S>& input, const PositionMask* mask) override {
    if (const S* const rows = input.one_hot()) return add_one_hot(rows, input, mask);
    const detail::FactorInput<S> taken =
        detail::factor_input(Base::options().sharing, input, mask, scratch_);
    taken.columns.for_each_block([&](const SharedBatch<S>& block, Index) {
      block.visit([&](const auto& values) {
        for (Index n = 0; n < values.cols(); ++n)
          squares().head(values.rows()) += values.col(n).array().square();
      });
    });
    count(taken.columns.columns(), taken.identity_weight);
  }
  /// The same, given the row of the 1 in each column.
  void add_one_hot(const S* rows, const SharedBatch<S>& input, const PositionMask* mask) {
    const Index positions = input.positions();
    const bool reduces = Base::options().sharing == WeightSharing::Reduce && positions > 1;
    if (reduces && weights_.size() == 0) weights_.setZero(Base::inputs());
    for (Index n = 0; n < input.batch(); ++n) {
      const S* const example = rows + n * positions;
      const auto each = [&](auto&& body) {
        for (Index s = 0; s < positions; ++s)
          if (example[s] >= 0 && (!mask || (*mask)(s, n))) body(static_cast<Index>(example[s]));
      };
      const Index real = mask ? mask->col(n).count() : positions;
      if (!reduces) {
        each([&](Index row) { squares()(row) += S(1); });
        count(real, static_cast<S>(real));
        continue;
      }
      each([&](Index row) { weights_(row) += S(1) / static_cast<S>(real); });
      each([&](Index row) {
        squares()(row) += weights_(row) * weights_(row);
        weights_(row) = 0;  // for where the row comes again, and the next example
      });
      count(1, static_cast<S>(real * real));
    }
  }
  Eigen::Map<Eigen::Array<S, Eigen::Dynamic, 1>> squares() {
    return {input_.fresh().data(), input_.fresh().size()};
  }
  void count(Index columns, S identity_weight) {
    columns_ += columns;
    identity_weight_ += identity_weight;
    if (Base::has_bias()) squares()(Base::inputs()) += static_cast<S>(columns);
  }

  void do_add_output_gradient(const SharedBatch<S>&, const SharedBatch<S>& gradient,
                              S weight) override {
    output_gradient_.add(detail::factor_gradient(Base::options().sharing, gradient, scratch_),
                         weight);
  }
  void do_add_output_identity() override {
    output_gradient_.add_identity(identity_weight_);
    identity_weight_ = 0;
  }
  void do_commit(S scale, Index examples, S decay) override {
    input_.commit(columns_, decay);
    output_gradient_.commit(examples, decay);
    output_gradient_.copy_to(g_, scale);
    forget();
  }
  void do_discard() override {
    input_.discard();
    output_gradient_.discard();
    forget();
  }
  bool do_begin_pass(Index pass) override {
    if (pass == 0) {
      input_.reset();
      output_gradient_.reset();
    }
    return pass == 0;
  }
  void forget() {
    columns_ = 0;
    identity_weight_ = 0;
  }

  void do_prepare_inverse(S damping) override {
    next_a_ = input_.value();
    next_g_ = g_;
    detail::damp_factors<S>(Base::options().pi, damping, next_a_, next_g_, scratch_);
    is_damped_ = damping > 0;
  }
  bool do_compute_inverse() override {
    const S ratio = next_a_.minCoeff() / next_a_.maxCoeff();
    if (!is_regular(ratio, next_a_.size())) return false;
    next_a_ = next_a_.cwiseInverse();
    return is_regular(linalg::invert_spd<S>(next_g_), next_g_.rows()) && next_a_.allFinite();
  }
  /// As `FactoredInverse` has it.
  bool is_regular(S ratio, Index size) const {
    return ratio > (is_damped_ ? S(0) : static_cast<S>(size) * std::numeric_limits<S>::epsilon());
  }
  void do_adopt_inverse() override {
    inverse_a_.swap(next_a_);
    inverse_g_.swap(next_g_);
  }

  void do_precondition(MatrixRef<S> v) override { multiply(v, inverse_g_, inverse_a_.data()); }
  S do_precondition_with_dot(MatrixRef<S> v) override {
    return multiply(v, inverse_g_, inverse_a_.data());
  }
  void do_multiply(MatrixRef<S> v) override { multiply(v, g_, input_.value().data()); }
  /// V <- G V diag(a), where columns that are zero stay; returns the inner product of what V was
  /// and is then.
  S multiply(MatrixRef<S> v, const Matrix<S>& g, const S* a) {
    constexpr Index kColumns = 256;  // at a time
    std::array<Index, static_cast<std::size_t>(kColumns)> columns{};
    MatrixMap<S> before = before_.map(v.rows(), kColumns);
    MatrixMap<S> after = after_.map(v.rows(), kColumns);
    S dot = 0;
    Index next = 0;
    while (next < v.cols()) {
      Index taken = 0;
      for (; next < v.cols() && taken < kColumns; ++next) {
        if ((v.col(next).array() == S(0)).all()) continue;
        columns[static_cast<std::size_t>(taken)] = next;
        before.col(taken++) = v.col(next);
      }
      if (taken == 0) break;
      linalg::multiply(g, before.leftCols(taken), after.leftCols(taken));
      for (Index i = 0; i < taken; ++i) {
        const Index column = columns[static_cast<std::size_t>(i)];
        v.col(column) = a[column] * after.col(i);
        dot += v.col(column).dot(before.col(i));
      }
    }
    return dot;
  }

  std::unique_ptr<CurvatureMatrix<S>> do_matrix(S damping) const override {
    return std::make_unique<DiagonalInputMatrix<S>>(input_.value(), g_, damping,
                                                    Base::options().pi);
  }
  void do_visit_state(StateVisitor& visitor) override {
    visitor.in("a", input_);
    visitor.in("g", output_gradient_);
    visitor.visit_optional("scaled_g", g_, Base::outputs(), Base::outputs());
    visitor.visit_optional("inverse_a", inverse_a_, Base::columns());
    visitor.visit_optional("inverse_g", inverse_g_, Base::outputs(), Base::outputs());
    visitor.visit_optional("next_a", next_a_, Base::columns());
    visitor.visit_optional("next_g", next_g_, Base::outputs(), Base::outputs());
    visitor.visit("is_damped", is_damped_);
  }

  RunningMean<S> input_;                  // the diagonal of A
  RunningCovariance<S> output_gradient_;  // of the criterion of one example
  Matrix<S> g_;                           // with the scale of the loss
  Vector<S> inverse_a_, next_a_;
  Matrix<S> inverse_g_, next_g_;
  bool is_damped_ = false;  // next_a_ and next_g_
  Index columns_ = 0;
  S identity_weight_ = 0;  // as in `FactorInput`
  Vector<S> weights_;      // zero between examples
  Buffer<S> scratch_, before_, after_;
};

}  // namespace kfac
