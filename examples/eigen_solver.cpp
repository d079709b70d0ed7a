/// Damped Gauss-Newton steps: each solves (GGN + damping I) s = gradient with Eigen's conjugate
/// gradients, to which the GGN of the whole data set is a matrix of which only products are known.

#include <iostream>

#include <kfac/curvature/eigen_operator.hpp>
#include <kfac/curvature/ggn.hpp>
#include <kfac/data/metrics.hpp>
#include <kfac/data/two_moons.hpp>
#include <kfac/loss/softmax_cross_entropy.hpp>
#include <kfac/nn/activations.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/sequential.hpp>

int main() {
  constexpr double kDamping = 1e-2;

  kfac::Rng rng(42);
  const auto moons = kfac::datasets::two_moons<double>({.examples = 400, .noise = 0.12}, rng);
  const auto [train, test] = kfac::split(moons, 0.8, rng);
  kfac::Sequential model{kfac::Linear<double>(2, 16, rng), kfac::Tanh<double>{},
                         kfac::Linear<double>(16, 16, rng), kfac::Tanh<double>{},
                         kfac::Linear<double>(16, 2, rng)};
  const kfac::SoftmaxCrossEntropy<double> loss;

  for (int step = 1; step <= 8; ++step) {
    model.backward(loss.gradient(model.forward(train.inputs), train.targets));

    // The slices bound the memory of a product; the matrix is that of all examples.
    kfac::Ggn ggn(model, loss, kfac::slices(train, 128));
    kfac::EigenOperator damped(ggn, kDamping);
    // Both triangles are there, and there are no entries for a preconditioner to look at.
    Eigen::ConjugateGradient<decltype(damped), Eigen::Lower | Eigen::Upper,
                             Eigen::IdentityPreconditioner>
        solver(damped);
    solver.setTolerance(1e-6);
    const Eigen::VectorXd direction = solver.solve(model.gradient());
    if (solver.info() != Eigen::Success) {
      std::cerr << "the conjugate gradients did not converge\n";
      return 1;
    }

    Eigen::Index offset = 0;
    for (auto& layer : model.layers()) {
      layer.parameters -= direction.segment(offset, layer.parameters.size());
      offset += layer.parameters.size();
    }
    std::cout << "step " << step << ": " << solver.iterations() << " iterations, loss "
              << kfac::dataset_loss(model, loss, train) << ", test accuracy "
              << kfac::accuracy(model, test) << '\n';
  }
}
