#pragma once

#include <algorithm>

#include <Eigen/QR>

#include <kfac/nn/initializers.hpp>

namespace kfac {
namespace detail {

/// Orthonormal columns, or rows where there are fewer, all such matrices being as likely.
template <RealScalar S>
Matrix<S> random_orthogonal(Index rows, Index columns, Rng& rng) {
  Matrix<S> normal(std::max(rows, columns), std::min(rows, columns));
  rng.fill_normal(normal);
  const Eigen::HouseholderQR<Matrix<S>> qr(normal);
  Matrix<S> q = Matrix<S>::Identity(normal.rows(), normal.cols());
  q.applyOnTheLeft(qr.householderQ());
  // What R's diagonal has of signs is not of the normal matrix but of how it was reduced.
  for (Index j = 0; j < q.cols(); ++j)
    if (qr.matrixQR()(j, j) < 0) q.col(j) *= S(-1);
  if (rows < columns) return q.transpose();
  return q;
}

}  // namespace detail

/// gain times a matrix of orthonormal columns, or rows where there are fewer; a convolution's has
/// columns as `Weight` says.
/// \source Saxe, McClelland and Ganguli, Exact solutions to the nonlinear dynamics of learning in
///         deep linear neural networks, 2014; Mezzadri, How to generate random matrices from the
///         classical compact groups, 2007
struct Orthogonal {
  double gain = 1;

  template <RealScalar S>
  void operator()(const Weight<S>& weight, Rng& rng) const {
    MatrixMap<S> values = weight.values;
    values = detail::random_orthogonal<S>(values.rows(), values.cols(), rng) * static_cast<S>(gain);
  }
};

/// For convolutions: zero but for the entry in the middle of the kernel ((size - 1) / 2 on each
/// axis), which is gain times a matrix of orthonormal columns. Then a convolution of stride 1 that
/// pads so as to keep the size of images keeps their norm too, if it has as many channels out as in
/// or more; with fewer its rows are orthonormal. Of other layers it is `Orthogonal`.
/// \source Xiao, Bahri, Sohl-Dickstein, Schoenholz and Pennington, Dynamical isometry and a mean
///         field theory of CNNs, 2018, algorithm 1
struct DeltaOrthogonal {
  double gain = 1;

  template <RealScalar S>
  void operator()(const Weight<S>& weight, Rng& rng) const {
    MatrixMap<S> values = weight.values;
    const Index taps = weight.taps();
    Index middle = 0;
    for (int axis = 0; axis < weight.kernel.rank(); ++axis)
      middle = middle * weight.kernel[axis] + (weight.kernel[axis] - 1) / 2;
    const Matrix<S> map = detail::random_orthogonal<S>(values.rows(), values.cols() / taps, rng);
    values.setZero();
    for (Index channel = 0; channel < map.cols(); ++channel)
      values.col(channel * taps + middle) = map.col(channel) * static_cast<S>(gain);
  }
};

}  // namespace kfac
