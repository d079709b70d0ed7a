#pragma once

#include <cmath>

#include <kfac/curvature/running_covariance.hpp>

namespace kfac {

/// A running average of a matrix, fed as `RunningCovariance` is: sums are added to `fresh()`, and
/// `commit` takes their mean into the average.
template <RealScalar S>
class RunningMean {
 public:
  RunningMean(Index rows, Index columns) : fresh_(Matrix<S>::Zero(rows, columns)), value_(fresh_) {}

  Matrix<S>& fresh() { return fresh_; }
  bool fresh_is_finite() const { return std::isfinite(fresh_.sum()); }

  /// Takes the sum, divided by `count`, into the average.
  void commit(Index count, S decay) {
    const S keep = running_weight(++commits_, decay);
    value_ = keep * value_ + ((S(1) - keep) / static_cast<S>(count)) * fresh_;
    discard();
  }
  void discard() { fresh_.setZero(); }
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
  Matrix<S> fresh_, value_;
  Index commits_ = 0;
};

}  // namespace kfac
