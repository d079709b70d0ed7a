#include <cmath>
#include <limits>

#include <kfac/curvature/diagonal_block.hpp>
#include <kfac/curvature/ekfac_block.hpp>
#include <kfac/curvature/kronecker_eigen_block.hpp>

#include "optim/dense_objective.hpp"
#include "support/catch.hpp"
#include "support/eigensolver.hpp"

// How each kind of block uses the damping that the optimizer gives it.

namespace kfac::test::block_damping_test {

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

using Net = Sequential<Linear<double>, Tanh<double>, Linear<double>>;
using Optimizer = KfacOptimizer<Net, MeanSquaredError<double>>;

Net network(Rng& rng) {
  return Net(Linear<double>(3, 4, rng), Tanh<double>{}, Linear<double>(4, 2, rng));
}

}  // namespace

TEST_CASE("KfacOptimizer: damping is split over the factors as the balance says") {
  constexpr double kDamping = 0.3;
  const auto norm_of = [](FactorBalance balance, const Matrix<double>& factor) {
    const Vector<double> values =
        Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd>(factor).eigenvalues();
    switch (balance) {
      case FactorBalance::None:
        return 1.0;
      case FactorBalance::Trace:
        return values.mean();
      case FactorBalance::Frobenius:
        return std::sqrt(values.cwiseAbs2().mean());
      case FactorBalance::OneNorm:
        return factor.cwiseAbs().colwise().sum().maxCoeff();
      case FactorBalance::Spectral:
        return values.maxCoeff();
    }
    return kNaN;
  };
  for (const FactorBalance balance :
       {FactorBalance::None, FactorBalance::Trace, FactorBalance::Frobenius, FactorBalance::OneNorm,
        FactorBalance::Spectral}) {
    CAPTURE(static_cast<int>(balance));
    Rng rng(13);
    Sequential model{Linear<double>(3, 2, rng)};
    const MeanSquaredError<double> loss;
    KfacOptimizer optimizer(
        model, loss,
        {.learning_rate = 1, .momentum = 0, .damping = kDamping, .pi = balance, .kl_clip = 0});
    Matrix<double> x = random_matrix(3, 7, rng);
    x.row(1) *= 6;  // a gap in the spectrum, for power iterations to converge
    const Matrix<double> y = random_matrix(2, 7, rng);
    const DenseObjective before(model, loss, x, y);
    REQUIRE(optimizer.step(x, y).ok());
    Matrix<double> augmented = Matrix<double>::Ones(4, 7);
    augmented.topRows(3) = x;
    Matrix<double> a = augmented * augmented.transpose() / 7;
    Matrix<double> g = Matrix<double>::Identity(2, 2);  // R N = 2 / (2 * 7) * 7
    const double pi = std::sqrt(norm_of(balance, a) / norm_of(balance, g));
    a.diagonal().array() += pi * std::sqrt(kDamping);
    g.diagonal().array() += std::sqrt(kDamping) / pi;
    const Vector<double> v = solve(linalg::kronecker_product<double>(a, g), before.gradient);
    CHECK(relative_error(Vector<double>(before.theta - parameters(model)), v) < 1e-10);
  }
}

TEST_CASE("KfacOptimizer: kinds with a spectrum follow a schedule of the damping at every step") {
  constexpr Index kPeriod = 4;
  const auto schedule = [](Index step) { return 0.02 * std::pow(3.0, static_cast<double>(step)); };
  enum class Kind { Eigen, Ekfac, Diagonal, Cholesky };
  for (const Kind kind : {Kind::Eigen, Kind::Ekfac, Kind::Diagonal, Kind::Cholesky}) {
    CAPTURE(static_cast<int>(kind));
    const BlockFactory<double> factory =
        kind == Kind::Eigen      ? block_factory<KroneckerEigenBlock<double>>()
        : kind == Kind::Ekfac    ? block_factory<EkfacBlock<double>>()
        : kind == Kind::Diagonal ? block_factory<DiagonalBlock<double>>()
                                 : block_factory<KroneckerBlock<double>>();
    Rng rng(14);
    Net model = network(rng);
    const MeanSquaredError<double> loss;
    const KfacOptions<double> options{.learning_rate = 1,
                                      .momentum = 0,
                                      .damping = schedule,
                                      .inverse_every = kPeriod,
                                      .kl_clip = 0};
    Optimizer optimizer(model, loss, options, factory);
    Matrix<double> estimate, damped;
    for (Index step = 0; step < 2 * kPeriod; ++step) {
      CAPTURE(step);
      const Matrix<double> x = random_matrix(3, 6, rng), y = random_matrix(2, 6, rng);
      const DenseObjective before(model, loss, x, y);
      REQUIRE(optimizer.step(x, y).ok());
      const double damping = schedule(step);
      // EKFAC's second moments are up to date at every step, in the basis there is.
      if (step % kPeriod == 0 || kind == Kind::Ekfac)
        estimate = dense_estimate(optimizer, model, 0);
      if (step % kPeriod == 0) damped = dense_estimate(optimizer, model, damping);
      if (kind != Kind::Cholesky) {
        damped = estimate;
        damped.diagonal().array() += damping;
      }
      const Vector<double> v = solve(damped, before.gradient);
      CHECK(relative_error(Vector<double>(before.theta - parameters(model)), v) < 1e-9);
    }
  }
}

}  // namespace kfac::test::block_damping_test
