#pragma once

#include <cmath>
#include <cstddef>
#include <deque>
#include <vector>

#include <Eigen/Core>

namespace examples {

/// L-BFGS with an Armijo line search, as a baseline.
/// \source Nocedal and Wright, Numerical Optimization, 2006, algorithms 3.1 and 7.4
class Lbfgs {
 public:
  explicit Lbfgs(std::size_t memory = 30) : memory_(memory) {}

  /// Moves x along a direction in which `objective(x, gradient)`, which also writes the gradient,
  /// goes down. Returns the value at the new x, or at the old one if no step was found.
  template <class Objective>
  double step(Eigen::VectorXd& x, Objective&& objective) {
    if (gradient_.size() == 0) value_ = objective(x, gradient_);
    Eigen::VectorXd direction = -inverse_hessian_product(gradient_);
    double slope = direction.dot(gradient_);
    if (!(slope < 0)) {
      pairs_.clear();
      direction = -gradient_;
      slope = -gradient_.squaredNorm();
    }
    double length = pairs_.empty() ? 1 / (1 + gradient_.norm()) : 1.0;
    Eigen::VectorXd next_gradient;
    for (int attempt = 0; attempt < 40; ++attempt, length /= 2) {
      const Eigen::VectorXd next = x + length * direction;
      const double next_value = objective(next, next_gradient);
      if (!(next_value <= value_ + 1e-4 * length * slope)) continue;
      const Pair pair{next - x, next_gradient - gradient_};
      if (pair.step.dot(pair.change) > 1e-12 * pair.step.norm() * pair.change.norm())
        pairs_.push_back(pair);
      if (pairs_.size() > memory_) pairs_.pop_front();
      x = next;
      value_ = next_value;
      gradient_ = next_gradient;
      return value_;
    }
    pairs_.clear();
    return value_;
  }

 private:
  struct Pair {
    Eigen::VectorXd step, change;
  };

  Eigen::VectorXd inverse_hessian_product(Eigen::VectorXd v) const {
    std::vector<double> weights(pairs_.size());
    for (std::size_t i = pairs_.size(); i-- > 0;) {
      weights[i] = pairs_[i].step.dot(v) / pairs_[i].step.dot(pairs_[i].change);
      v -= weights[i] * pairs_[i].change;
    }
    if (!pairs_.empty())
      v *= pairs_.back().step.dot(pairs_.back().change) / pairs_.back().change.squaredNorm();
    for (std::size_t i = 0; i < pairs_.size(); ++i) {
      const Pair& pair = pairs_[i];
      v += (weights[i] - pair.change.dot(v) / pair.step.dot(pair.change)) * pair.step;
    }
    return v;
  }

  std::size_t memory_;
  std::deque<Pair> pairs_;
  Eigen::VectorXd gradient_;
  double value_ = 0;
};

}  // namespace examples
