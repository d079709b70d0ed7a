#pragma once

#include <Eigen/Core>

namespace examples {

/// The coordinates of each column of `points` along the two directions of largest variance,
/// relative to the mean: `2 x points`.
Eigen::Matrix2Xd first_two_components(const Eigen::MatrixXd& points);

}  // namespace examples
