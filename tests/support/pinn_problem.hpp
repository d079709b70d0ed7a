#pragma once

#include <cstdint>

#include <kfac/curvature/jacobian.hpp>
#include <kfac/data/dataset.hpp>
#include <kfac/nn/jet_network.hpp>

#include "support/random.hpp"

/// What the tests of differential equations share.
namespace kfac::test {

template <RealScalar S>
using Points = Dataset<S, Matrix<S>>;

/// -(u_xx + u_yy) + x u^2
struct ReactionDiffusion {
  template <class X, class U>
  auto operator()(const X& x, const U& u) const {
    return -u.laplacian() + x[0] * u.value() * u.value();
  }
};

/// A small problem: a network, and points of the interior and the boundary with targets.
template <RealScalar S = double>
struct PinnProblem {
  explicit PinnProblem(std::uint64_t seed)
      : rng(seed),
        model({Linear<S>(2, 5, rng), Tanh<S>{}, Linear<S>(5, 4, rng), Tanh<S>{},
               Linear<S>(4, 1, rng)}),
        residual(jet_network(model, JetSlots<S>::laplacian(2), ReactionDiffusion{})),
        interior{normal<S>(2, 12, rng), normal<S>(1, 12, rng)},
        boundary{normal<S>(2, 7, rng), normal<S>(1, 7, rng)} {}

  Rng rng;
  DynamicSequential<S> model;
  JetNetwork<DynamicSequential<S>, ReactionDiffusion, NoFeatures> residual;
  Points<S> interior, boundary;
};

/// The gradient, Gauss-Newton matrix and value of the weighted sum of both terms, from dense
/// Jacobians alone.
struct DensePinn {
  Vector<double> gradient;
  Matrix<double> ggn;
  double loss = 0;

  DensePinn(PinnProblem<>& problem, double interior_weight, double boundary_weight)
      : gradient(Vector<double>::Zero(problem.model.parameter_count())),
        ggn(Matrix<double>::Zero(gradient.size(), gradient.size())) {
    add(problem.residual, problem.interior, interior_weight);
    add(problem.model, problem.boundary, boundary_weight);
  }

 private:
  template <class Network>
  void add(Network& network, const Points<double>& data, double weight) {
    const Jacobian jacobian(network, data.inputs);
    const Matrix<double> j = jacobian.dense();
    const Vector<double> r = (jacobian.outputs() - data.targets).reshaped();
    const double factor = weight / static_cast<double>(data.examples());
    gradient += factor * j.transpose() * r;
    ggn += factor * j.transpose() * j;
    loss += factor / 2 * r.squaredNorm();
  }
};

}  // namespace kfac::test
