/// The largest eigenvalues of the Hessian and of the GGN of a trained network, by Spectra, for
/// whose solvers every exact operator is a matrix as it stands.

#include <Spectra/SymEigsSolver.h>
#include <iostream>

#include <kfac/curvature/hessian.hpp>
#include <kfac/kfac.hpp>

namespace {

constexpr Eigen::Index kPairs = 5;
constexpr Eigen::Index kKrylovDimension = 30;

/// Prints the largest eigenvalues; whether the solver found them.
template <class Operator>
bool print_eigenvalues(const char* name, Operator& matrix) {
  Spectra::SymEigsSolver<Operator> solver(matrix, kPairs, kKrylovDimension);
  solver.init();
  if (solver.compute(Spectra::SortRule::LargestAlge) != kPairs) return false;
  const Eigen::VectorXd values = solver.eigenvalues();
  const Eigen::MatrixXd vectors = solver.eigenvectors();
  // A product with all eigenvectors at once.
  const Eigen::MatrixXd residuals = matrix * vectors - vectors * values.asDiagonal();
  std::cout << name << ": " << values.transpose() << "  (largest residual "
            << residuals.colwise().norm().maxCoeff() << ")\n";
  return true;
}

}  // namespace

int main() {
  kfac::Rng rng(42);
  const auto moons = kfac::datasets::two_moons<double>({.examples = 400, .noise = 0.12}, rng);
  kfac::Sequential model{kfac::Linear<double>(2, 16, rng), kfac::Tanh<double>{},
                         kfac::Linear<double>(16, 16, rng), kfac::Tanh<double>{},
                         kfac::Linear<double>(16, 2, rng)};
  const kfac::SoftmaxCrossEntropy<double> loss;
  kfac::KfacOptimizer optimizer(model, loss, {.learning_rate = 0.3, .damping = 1e-2});
  for (int epoch = 0; epoch < 3; ++epoch)
    for (const auto& [x, y] : kfac::batches(moons, 64, rng)) optimizer.step(x, y);

  kfac::Hessian hessian(model, loss, moons.inputs, moons.targets);
  kfac::Ggn ggn(model, loss, moons.inputs);
  auto layer = ggn.block(2);
  const bool found = print_eigenvalues("Hessian", hessian) && print_eigenvalues("GGN", ggn) &&
                     print_eigenvalues("GGN of layer 2", layer);
  return found ? 0 : 1;
}
