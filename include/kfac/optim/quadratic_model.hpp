#pragma once

#include <cmath>
#include <limits>
#include <optional>

#include <Eigen/Core>

namespace kfac {

/// The quadratic model of an objective along two directions V = (v, d), around where it is now:
/// q(w) = w^T V^T g + 1/2 w^T V^T (C + eta L) V w for the change V w of the parameters, where g is
/// the gradient with weight decay, C the exact curvature, eta the weight decay and L the identity
/// of the parameters that decay. In double, whatever the scalar of V.
/// \source Martens and Grosse 2015, arXiv 1503.05671, sections 6.4 and 7
struct QuadraticModel {
  Eigen::Vector2d slope = Eigen::Vector2d::Zero();           ///< V^T g
  Eigen::Matrix2d curvature = Eigen::Matrix2d::Zero();       ///< V^T (C + eta L) V
  Eigen::Matrix2d gram = Eigen::Matrix2d::Zero();            ///< V^T V
  double accuracy = std::numeric_limits<double>::epsilon();  ///< relative, of their entries

  /// q(w).
  double change(const Eigen::Vector2d& w) const {
    return slope.dot(w) + 0.5 * w.dot(curvature * w);
  }
  /// q(w) + 1/2 damping |V w|^2, which steps are chosen by.
  double damped_change(const Eigen::Vector2d& w, double damping) const {
    return change(w) + 0.5 * damping * w.dot(gram * w);
  }

  /// The minimum of `damped_change`, with either or both coefficients fixed. A direction that is
  /// zero, or no more than a multiple of the first in the accuracy of its entries, gets 0.
  Eigen::Vector2d minimum(double damping, std::optional<double> first,
                          std::optional<double> second) const {
    const Eigen::Matrix2d m = curvature + damping * gram;
    Eigen::Vector2d w(first.value_or(0.0), second.value_or(0.0));
    const auto along = [&](int i) {
      const int other = 1 - i;
      return m(i, i) > 0 ? -(slope(i) + m(i, other) * w(other)) / m(i, i) : 0.0;
    };
    if (first && second) return w;
    if (first) {
      w(1) = along(1);
    } else if (second) {
      w(0) = along(0);
    } else {
      const double determinant = m(0, 0) * m(1, 1) - m(0, 1) * m(1, 0);
      if (determinant > 1e3 * accuracy * m(0, 0) * m(1, 1)) {
        w(0) = -(m(1, 1) * slope(0) - m(0, 1) * slope(1)) / determinant;
        w(1) = -(m(0, 0) * slope(1) - m(1, 0) * slope(0)) / determinant;
      } else {
        const int longer = m(0, 0) > 0 ? 0 : 1;
        w(longer) = along(longer);
      }
    }
    return w;
  }
};

}  // namespace kfac
