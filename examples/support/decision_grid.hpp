#pragma once

#include <kfac/data/dataset.hpp>

#include "support/plot.hpp"

namespace examples {

/// What a classifier of points of the plane, with two classes, decides around given examples.
class DecisionGrid {
 public:
  /// Keeps a reference to the examples.
  explicit DecisionGrid(const kfac::Dataset<float>& data);

  /// Points that cover the examples, to be given to the classifier: `2 x points`.
  const kfac::Matrix<float>& inputs() const { return inputs_; }
  /// The probability that softmax makes of the classifier's outputs for `inputs()`, `2 x points`,
  /// and the examples on top.
  Panel panel(const std::string& classifier, const kfac::Matrix<float>& outputs) const;

 private:
  const kfac::Dataset<float>& data_;
  Eigen::VectorXf xs_, ys_;
  kfac::Matrix<float> inputs_;
};

}  // namespace examples
