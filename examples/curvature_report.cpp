/// How good are the approximations of curvature? Takes a small convolutional network, trained on
/// Fashion-MNIST with images of 7x7 pixels, whose exact curvature matrix is small enough to write
/// down, and compares the two: errors, eigenvalues, and conjugate gradients with each approximation
/// as the preconditioner.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <kfac/curvature/curvature_estimator.hpp>
#include <kfac/curvature/jacobian.hpp>
#include <kfac/data/metrics.hpp>
#include <kfac/linalg/krylov.hpp>
#include <kfac/linalg/spectral_density.hpp>

#include "support/block_kinds.hpp"
#include "support/curvature_study.hpp"
#include "support/exact_curvature.hpp"
#include "support/flags.hpp"
#include "support/small_images.hpp"
#include "support/table.hpp"

namespace {

using examples::CurvatureProblem;
using examples::CurvatureStudy;
using kfac::Dataset;
using kfac::Index;
using Loss = kfac::SoftmaxCrossEntropy<double>;

constexpr double kTolerance = 1e-6;
constexpr Index kMaxIterations = 20000;
constexpr Index kLanczosProbes = 8;
constexpr Index kLanczosSteps = 48;

struct Settings {
  std::string data = "/usr/share/datasets/fashion-mnist";
  Index channels = 5;
  Index epochs = 2;
  Index examples = 1000;
  std::string fisher = "type2";
  Index samples = 1;
  std::string sharing = "expand";
  std::vector<double> dampings = {1e-1, 1e-2, 1e-3, 1e-4};
  std::uint64_t seed = 0;
  std::string plot = {};
  std::string layer = "3";

  void add_flags(examples::Flags& flags) {
    flags.add("--data", data, "folder with the four files of the data set");
    flags.add("--channels", channels, "of both convolutions");
    flags.add("--epochs", epochs, "of training by K-FAC; 0: none, the initial weights", 0);
    flags.add("--examples", examples, "training images that the curvature is of");
    flags.add("--fisher", fisher, "which curvature: the GGN, or a Fisher matrix",
              {"type2", "monte-carlo", "empirical"});
    flags.add("--samples", samples, "labels drawn for each image (Monte-Carlo Fisher)");
    flags.add("--sharing", sharing, "what K-FAC and EKFAC make of a convolution's positions",
              {"expand", "reduce"});
    flags.add("--damping", dampings, "added to the curvature in the systems to solve");
    flags.add("--seed", seed, "of the initial weights, the order of the batches and all samples");
    flags.add("--plot", plot, "file to draw to by gnuplot: .svg or .png");
    flags.add("--layer", layer, "which one to draw: a convolution, 1 or 3, or the last, 6",
              {"1", "3", "6"});
  }

  kfac::FisherType fisher_type() const {
    return fisher == "type2"         ? kfac::FisherType::Type2
           : fisher == "monte-carlo" ? kfac::FisherType::MonteCarlo
                                     : kfac::FisherType::Empirical;
  }
  kfac::WeightSharing weight_sharing() const {
    return sharing == "expand" ? kfac::WeightSharing::Expand : kfac::WeightSharing::Reduce;
  }
  std::string matrix_name() const {
    return fisher == "type2"         ? "generalised Gauss-Newton matrix (GGN)"
           : fisher == "monte-carlo" ? "Monte-Carlo Fisher matrix"
                                     : "empirical Fisher matrix";
  }
};

/// The blocks of all layers, of one kind.
class Blocks {
 public:
  Blocks(const CurvatureProblem& problem, kfac::WeightSharing sharing,
         const kfac::BlockFactory<double>& kind)
      : estimator_(problem.model, problem.loss, {.fisher = problem.fisher, .sharing = sharing},
                   kind) {
    estimator_.fit(problem.data.inputs, problem.data.targets, {.samples = problem.samples});
  }

  std::vector<std::unique_ptr<kfac::CurvatureMatrix<double>>> matrices(double damping) const {
    std::vector<std::unique_ptr<kfac::CurvatureMatrix<double>>> result;
    for (const auto& layer : estimator_.layers())
      result.push_back(layer->blocks().front()->matrix(damping));
    return result;
  }

  std::vector<Eigen::MatrixXd> dense() const {
    std::vector<Eigen::MatrixXd> result;
    for (const auto& matrix : matrices(0)) result.push_back(matrix->dense());
    return result;
  }

  /// Multiplies a vector of all parameters with the damped inverse, in place.
  kfac::BlockDiagonalInverse<double> preconditioner(double damping) const {
    return estimator_.inverse(damping);
  }

 private:
  kfac::CurvatureEstimator<examples::SmallNetwork, Loss> estimator_;
};

/// Solves (C + damping I) x = gradient with each damping. `preconditioner(damping)` is one as
/// `conjugate_gradients` takes it. C could be the exact operator as well, for any size of network;
/// its matrix is at hand here.
template <class MakePreconditioner>
examples::Solves solve(const std::string& name, const Eigen::MatrixXd& curvature,
                       const Eigen::VectorXd& gradient, const std::vector<double>& dampings,
                       MakePreconditioner&& preconditioner) {
  examples::Solves solves{name, {}, {}};
  for (const double damping : dampings) {
    const auto apply = preconditioner(damping);
    const auto result = kfac::linalg::conjugate_gradients(
        curvature, gradient,
        {.tolerance = kTolerance, .max_iterations = kMaxIterations, .damping = damping}, apply);
    Eigen::VectorXd step = gradient;
    apply(step);
    const double slope = gradient.dot(step);
    const double bend = step.dot(curvature * step) + damping * step.squaredNorm();
    solves.first_steps.push_back(slope * slope / bend / gradient.dot(result.x));
    solves.at_dampings.push_back(result);
  }
  return solves;
}

CurvatureStudy study_curvature(examples::SmallNetwork& model, const Loss& loss,
                               const Dataset<double>& data, const Settings& settings) {
  kfac::Rng rng(settings.seed);
  const kfac::Jacobian jacobian(model, data.inputs);
  const Eigen::MatrixXd outputs = jacobian.outputs();
  CurvatureProblem problem{model, loss, data, settings.fisher_type(), {}};
  if (problem.fisher == kfac::FisherType::MonteCarlo)
    for (Index m = 0; m < settings.samples; ++m)
      problem.samples.push_back(loss.sample(outputs, rng));

  CurvatureStudy study;
  study.dampings = settings.dampings;
  Index first = 0;
  for (const auto& layer : model.layers()) {
    const Index size = layer.parameters.size();
    if (layer.kronecker)
      study.layers.push_back(
          {layer.name + ' ' + layer.kind, first, size, layer.kronecker->outputs});
    first += size;
  }
  study.exact = examples::exact_curvature(problem);
  study.lanczos = kfac::linalg::spectral_measure(
      study.exact,
      {.probes = kLanczosProbes, .steps = kLanczosSteps, .probe = kfac::linalg::Probe::Rademacher},
      rng);
  study.lanczos_products = kLanczosProbes * kLanczosSteps;

  const Eigen::VectorXd gradient =
      jacobian.transpose() * loss.gradient(outputs, data.targets).reshaped();
  study.solves.push_back(solve("none", study.exact, gradient, settings.dampings,
                               [](double) { return kfac::linalg::NoPreconditioner{}; }));
  for (const examples::BlockKind& kind : examples::block_kinds()) {
    const Blocks blocks(problem, settings.weight_sharing(), kind.factory);
    study.solves.push_back(solve(kind.name, study.exact, gradient, settings.dampings,
                                 [&](double damping) { return blocks.preconditioner(damping); }));
    if (!kind.differs_in_damping) study.approximations.push_back({kind.name, blocks.dense()});
  }
  return study;
}

void run(const Settings& settings) {
  const examples::SmallImages images = examples::small_images(settings.data);
  const Loss loss;
  kfac::Rng rng(settings.seed);
  examples::SmallNetwork model = examples::small_network(settings.channels, rng);
  examples::train(model, loss, images.train, settings.epochs, settings.seed);

  const Index count = std::min(settings.examples, images.train.examples());
  const Dataset<double> data{images.train.inputs.leftCols(count), images.train.targets.head(count)};
  std::cout << "Network: " << model.parameter_count() << " parameters, epochs of training "
            << settings.epochs << ", training loss "
            << examples::fixed(kfac::dataset_loss(model, loss, images.train), 3)
            << " nats, test accuracy " << examples::fixed(kfac::accuracy(model, images.test), 3)
            << "\nC: its " << settings.matrix_name() << " on " << count << " training images\n";

  const CurvatureStudy study = study_curvature(model, loss, data, settings);
  std::cout << "\nRelative error |approximation - C| / |C| in the Frobenius norm. The whole "
               "network's C also has the\nparts between layers, which no approximation has.\n";
  examples::print_errors(std::cout, study);
  std::cout << "\nEigenvalues, in nats per squared unit of the parameters\n\n";
  examples::print_spectra(std::cout, study);
  std::cout << "\nIterations of conjugate gradients to solve (C + damping I) x = gradient, to a "
               "relative residual of "
            << examples::significant(kTolerance, 1)
            << ",\nwith (approximation + damping I)^-1 as the preconditioner; (split): with the "
               "damping split over the factors\n";
  examples::print_iterations(std::cout, study);
  std::cout
      << "\nThe first of these steps alone: its share of the decrease of the quadratic "
         "1/2 x^T (C + damping I) x\n- gradient^T x that x brings; 1 is a whole Newton step\n";
  examples::print_first_steps(std::cout, study);

  if (settings.plot.empty()) return;
  std::size_t layer = 0;
  while (!study.layers[layer].name.starts_with(settings.layer)) ++layer;
  examples::draw(settings.plot, examples::curvature_panels(study, layer), 3);
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  examples::Flags flags(
      "How good are the approximations of curvature? Takes a small convolutional network, trained "
      "on Fashion-MNIST with images of 7x7 pixels, whose exact curvature matrix is small enough to "
      "write down, and compares the two: errors, eigenvalues, and conjugate gradients with each "
      "approximation as the preconditioner.");
  settings.add_flags(flags);
  if (const auto exit_code = flags.parse(argc, argv)) return *exit_code;

  try {
    run(settings);
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
