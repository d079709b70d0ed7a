#pragma once

#include <algorithm>
#include <cmath>

#include <kfac/core/state.hpp>
#include <kfac/linalg/spd_inverse.hpp>
#include <kfac/nn/shared_batch.hpp>

namespace kfac {

/// The weight that the past keeps at the k-th update of a running average, from 1: min(1 - 1/k,
/// decay), so that the first update gives the fresh value itself, the average is unbiased from the
/// start, and becomes exponential after 1/(1 - decay) updates.
/// \source Martens and Grosse 2015, arXiv 1503.05671, section 5
template <RealScalar S>
S running_weight(Index update, S decay) {
  return std::min(S(1) - S(1) / static_cast<S>(update), decay);
}

/// A running average of second moments E[x x^T], symmetric, fed in two stages: `add` sums over any
/// number of batches, `commit` takes their mean into the average with `running_weight`.
template <RealScalar S>
class RunningCovariance {
 public:
  /// With `bias`, a constant 1 is appended to every x.
  RunningCovariance(Index features, bool bias)
      : features_(features),
        bias_(bias),
        fresh_(Matrix<S>::Zero(features + bias, features + bias)),
        value_(fresh_) {}

  /// Adds weight * sum of x x^T over the columns of `x`: a symmetric rank-k update of one triangle.
  void add(const SharedBatch<S>& x, S weight) {
    x.for_each_block([&](const SharedBatch<S>& block, Index) {
      block.visit([&](const auto& columns) {
        auto corner = fresh_.topLeftCorner(features_, features_);
        corner.template selfadjointView<Eigen::Lower>().rankUpdate(columns, weight);
        if (!bias_) return;
        add_column_sums(columns, weight);
        fresh_(features_, features_) += weight * static_cast<S>(columns.cols());
      });
    });
  }
  /// The sum so far, of which the lower triangle counts: for what is added in other ways.
  Matrix<S>& fresh() { return fresh_; }
  /// Adds weight * I.
  void add_identity(S weight) { fresh_.diagonal().array() += weight; }

  /// Whether what was added since the last commit is finite. (A NaN or infinity in x reaches the
  /// diagonal, which is a sum of squares.)
  bool fresh_is_finite() const { return std::isfinite(fresh_.diagonal().sum()); }

  /// Takes the sum of what was added, divided by `count`, into the average.
  void commit(Index count, S decay) {
    const S keep = running_weight(++commits_, decay);
    const S take = (S(1) - keep) / static_cast<S>(count);
    value_.template triangularView<Eigen::Lower>() = keep * value_ + take * fresh_;
    linalg::symmetrize_from_lower<S>(value_);
    discard();
  }

  /// Forgets what was added since the last commit.
  void discard() { fresh_.setZero(); }
  /// Forgets the average too.
  void reset() {
    discard();
    value_.setZero();
    commits_ = 0;
  }

  const Matrix<S>& value() const { return value_; }
  Index commits() const { return commits_; }

  void visit_state(StateVisitor& visitor) {
    visitor.visit("commits", commits_);
    visitor.visit("value", value_);
  }

 private:
  /// Walks memory in order, whichever way the columns are stored.
  template <class Columns>
  void add_column_sums(const Columns& columns, S weight) {
    auto sums = fresh_.row(features_).head(features_);
    if constexpr (Columns::IsRowMajor)
      for (Index i = 0; i < features_; ++i) sums(i) += weight * columns.row(i).sum();
    else
      for (Index n = 0; n < columns.cols(); ++n) sums += weight * columns.col(n).transpose();
  }

  Index features_;
  bool bias_;
  Index commits_ = 0;
  Matrix<S> fresh_;  // lower triangle only
  Matrix<S> value_;
};

}  // namespace kfac
