#include "support/principal_components.hpp"

#include <Eigen/Eigenvalues>

namespace examples {

Eigen::Matrix2Xd first_two_components(const Eigen::MatrixXd& points) {
  const Eigen::MatrixXd centered = points.colwise() - points.rowwise().mean();
  // There are fewer points than dimensions, so their Gram matrix is the smaller problem: its
  // eigenvectors times the singular values are the coordinates.
  const Eigen::MatrixXd gram = centered.transpose() * centered;
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> eigen(gram);
  const Eigen::Vector2d largest = eigen.eigenvalues().tail<2>().reverse().cwiseMax(0.0);
  const Eigen::MatrixXd directions = eigen.eigenvectors().rightCols<2>().rowwise().reverse();
  return largest.cwiseSqrt().asDiagonal() * directions.transpose();
}

}  // namespace examples
