#include <fstream>

#include <kfac/posterior/tune_evidence.hpp>
#include <kfac/posterior/tune_grid.hpp>

#include "support/catch.hpp"
#include "support/laplace_cases.hpp"
#include "support/message_of.hpp"

namespace kfac::test::tune_evidence_test {

namespace {

using Options = LaplaceOptions<double>;
using Data = Dataset<double, Matrix<double>>;

/// The diabetes data, each column with mean 0 and variance 1: ten inputs and the target.
Data diabetes() {
  std::ifstream file(KFAC_EXAMPLES_DATA "/diabetes.csv");
  std::string line;
  std::getline(file, line);
  constexpr Index kPatients = 442;
  Matrix<double> numbers(11, kPatients);
  for (double& number : numbers.reshaped()) {
    file >> number;
    file.ignore();
  }
  REQUIRE(file);
  for (auto row : numbers.rowwise()) {
    row.array() -= row.mean();
    row /= std::sqrt(row.squaredNorm() / kPatients);
  }
  return {numbers.topRows(10), numbers.bottomRows(1)};
}

/// A regression whose data determine noise and precisions: outputs of a small network, with noise.
struct Regression {
  explicit Regression(std::uint64_t seed) : rng(seed) {
    append_linear(model, {3, 4}, rng, true);
    model.push_back(Tanh<double>{});
    append_linear(model, {4, 2}, rng, true);
    const Matrix<double> x = random_matrix(3, 60, rng);
    const Matrix<double> y = model.forward(x) + 0.3 * random_matrix(2, 60, rng);
    data = {x, y};
  }
  Laplace<double> laplace(PriorGrouping grouping = PriorGrouping::Scalar,
                          CurvatureStructure structure = CurvatureStructure::Kronecker) {
    return fit_laplace(model, MeanSquaredError<double>(), slices(data, 25),
                       {.likelihood = Likelihood::Regression, .prior_grouping = grouping},
                       {.structure = structure});
  }

  Rng rng;
  AnyModel model;
  Data data;
};

double norm_of_gradient(const Laplace<double>& posterior) {
  const Evidence at = evidence(posterior);
  return std::sqrt(at.prior_gradient.squaredNorm() + at.noise_gradient * at.noise_gradient);
}

}  // namespace

TEST_CASE("Tuning: on the diabetes data it is Bayesian ridge regression to eight digits") {
  // scikit-learn's BayesianRidge, without intercept and with flat priors of the precisions.
  constexpr double kNoisePrecision = 2.0222064163942663;
  constexpr double kPriorPrecision = 30.04277533440799;
  constexpr double kLogEvidence = -485.77632959352087;
  constexpr std::array<double, 3> kDeviations{0.70812185, 0.70920578, 0.71010757};
  const Data data = diabetes();
  Rng rng(0);
  AnyModel model;
  append_linear(model, {10, 1}, rng, false);
  for (const bool full : {false, true})
    for (const bool newton : {false, true}) {
      const MeanSquaredError<double> loss;
      const Options options{.likelihood = Likelihood::Regression};
      Laplace<double> posterior = full ? fit_full_laplace(model, loss, slices(data, 100), options)
                                       : fit_laplace(model, loss, slices(data, 100), options);
      const TuningOptions tuning{.recentre = true, .tolerance = 1e-13};
      const TuningResult result =
          newton ? tune_by_newton(posterior, tuning) : tune_by_fixed_point(posterior, tuning);
      CHECK(result.status != TuningStatus::IterationLimit);
      const double noise = posterior.observation_noise();
      CHECK(1 / (noise * noise) == Approx(kNoisePrecision).epsilon(1e-9));
      CHECK(posterior.prior().precision()(0) == Approx(kPriorPrecision).epsilon(1e-9));
      CHECK(posterior.log_marginal_likelihood() == Approx(kLogEvidence).epsilon(1e-12));
      for (std::size_t n = 0; n < kDeviations.size(); ++n) {
        const Vector<double> x = data.inputs.col(static_cast<Index>(n));
        Vector<double> product = x;
        posterior.multiply_covariance(product);
        CHECK(std::abs(std::sqrt(x.dot(product) + noise * noise) - kDeviations[n]) < 1e-8);
      }
    }
}

TEST_CASE("Tuning: fixed point and Newton reach one optimum, from far away too") {
  for (const PriorGrouping grouping :
       {PriorGrouping::Scalar, PriorGrouping::Layer, PriorGrouping::Tensor}) {
    Regression of(1);
    const Laplace<double> start = of.laplace(grouping);
    Laplace<double> reference = start;
    CHECK(tune_by_fixed_point(reference, {.max_iterations = 2000, .tolerance = 1e-12}).status ==
          TuningStatus::Converged);
    CHECK(norm_of_gradient(reference) < 1e-8);
    for (const double precision : {1e-8, 1.0, 1e8})
      for (const double noise : {1e-3, 1.0, 1e3}) {
        INFO("from " << precision << ", " << noise);
        Laplace<double> posterior = start;
        posterior.set_prior_precision(precision);
        posterior.set_observation_noise(noise);
        const TuningResult result = tune_by_newton(posterior, {.tolerance = 1e-11});
        CHECK(result.status == TuningStatus::Converged);
        CHECK(result.iterations <= 30);
        CHECK(result.log_marginal_likelihood == posterior.log_marginal_likelihood());
        CHECK(norm_of_gradient(posterior) < 1e-8);
        CHECK(relative_error(posterior.prior().precision(), reference.prior().precision()) < 1e-6);
        CHECK(posterior.observation_noise() == Approx(reference.observation_noise()).epsilon(1e-7));
      }
  }
}

TEST_CASE("Tuning: no hyperparameters near or far have more evidence") {
  Regression of(2);
  Laplace<double> posterior = of.laplace();
  tune_by_newton(posterior);
  const double best = posterior.log_marginal_likelihood();
  double most = -1e300;
  for (int i = -40; i <= 40; ++i)
    for (int j = -20; j <= 20; ++j) {
      Laplace<double> other = posterior;
      other.set_hyperparameters(posterior.prior().precision() * std::exp(0.2 * i),
                                posterior.observation_noise() * std::exp(0.1 * j), 1);
      most = std::max(most, other.log_marginal_likelihood());
    }
  CHECK(most == Approx(best).epsilon(1e-14));
  CHECK(most <= best + 1e-11 * std::abs(best));
}

TEST_CASE("Tuning: each parameter has a precision where the curvature is diagonal") {
  Regression of(3);
  Laplace<double> posterior = of.laplace(PriorGrouping::Parameter, CurvatureStructure::Diagonal);
  const double before = posterior.log_marginal_likelihood();
  const TuningResult result =
      tune_by_fixed_point(posterior, {.max_iterations = 2000, .largest_precision = 1e6});
  CHECK((result.status == TuningStatus::Converged || result.status == TuningStatus::AtBound));
  CHECK(posterior.log_marginal_likelihood() > before);
  CHECK(message_of<OptionError>([&] { tune_by_newton(posterior); }) ==
        "kfac::tune_by_newton: 'prior_grouping' is Parameter, expected fewer groups, or "
        "tune_by_fixed_point");
}

TEST_CASE("Tuning: of labels there is no noise to learn, and only what is asked for changes") {
  LaplaceCase labels(1);
  Laplace<double> posterior =
      laplace_of(labels.network.model, labels.task, LaplaceKind::Kronecker, labels.options());
  tune_by_newton(posterior);
  CHECK(posterior.observation_noise() == 1);

  Regression of(4);
  Laplace<double> noise_only = of.laplace();
  tune_by_newton(noise_only, {.prior_precision = false});
  CHECK(noise_only.prior().precision()(0) == 1);
  CHECK(noise_only.observation_noise() != 1);
  CHECK(std::abs(evidence(noise_only).noise_gradient) < 1e-6);
  Laplace<double> prior_only = of.laplace();
  tune_by_fixed_point(prior_only, {.observation_noise = false});
  CHECK(prior_only.observation_noise() == 1);
  CHECK(evidence(prior_only).prior_gradient.norm() < 1e-6);
  CHECK(prior_only.mean() == flat_parameters(of.model));
}

TEST_CASE("Tuning: parameters at the prior's mean have the largest precision allowed") {
  Rng rng(5);
  AnyModel model;
  append_linear(model, {3, 2}, rng, true);
  set_flat_parameters(model, Vector<double>::Zero(8));
  const Data data{random_matrix(3, 20, rng), random_matrix(2, 20, rng)};
  const Laplace<double> start = fit_laplace(model, MeanSquaredError<double>(), slices(data, 20),
                                            {.likelihood = Likelihood::Regression});
  const TuningOptions bounded{.largest_precision = 1e5};
  Laplace<double> posterior = start;
  CHECK(tune_by_newton(posterior, bounded).status == TuningStatus::AtBound);
  CHECK(posterior.prior().precision()(0) == Approx(1e5));
  posterior = start;
  CHECK(tune_by_fixed_point(posterior, {.max_iterations = 3}).status ==
        TuningStatus::IterationLimit);
}

TEST_CASE("Tuning: the grid takes the least score, alike for all groups or in their ratios") {
  Regression of(6);
  Laplace<double> posterior = of.laplace(PriorGrouping::Layer);
  const auto distance = [](const Laplace<double>& at) {
    return std::abs(std::log(at.prior().precision()(0) / 0.31));
  };
  const GridOptions grid{.smallest = 0.01, .largest = 1, .points = 5};
  GridResult result = tune_by_grid(posterior, distance, grid);
  CHECK(result.points.size() == 5);
  CHECK(result.points[1] == Approx(std::sqrt(0.001)));
  CHECK(result.best == Approx(std::sqrt(0.1)));
  CHECK(posterior.prior().precision()(0) == posterior.prior().precision()(1));
  CHECK(result.scores[3] == distance(posterior));

  posterior.set_prior_precision(Vector<double>(Eigen::Vector2d(3.1, 62)));
  GridOptions relative = grid;
  relative.relative = true;
  result = tune_by_grid(posterior, distance, relative);
  CHECK(result.best == Approx(0.1));
  CHECK(posterior.prior().precision()(1) == Approx(6.2));

  const Vector<double> before = posterior.prior().precision();
  CHECK(message_of<ValueError>([&] {
          tune_by_grid(
              posterior, [](const auto&) { return std::nan(""); }, grid);
        }) == "kfac::tune_by_grid: 'score' is never a finite number, expected one");
  CHECK(message_of<OptionError>([&] { tune_by_grid(posterior, distance, {.points = 1}); }) ==
        "kfac::tune_by_grid: 'points' is 1, expected >= 2");
  CHECK(message_of<OptionError>([&] { tune_by_grid(posterior, distance, {.smallest = 0}); }) ==
        "kfac::tune_by_grid: 'smallest' is 0, expected > 0 and finite");
  CHECK(posterior.prior().precision() == before);
}

TEST_CASE("Tuning: options out of range are named") {
  Regression of(7);
  Laplace<double> posterior = of.laplace();
  const auto message = [&](const TuningOptions& options) {
    return message_of<OptionError>([&] { tune_by_fixed_point(posterior, options); });
  };
  CHECK(message({.max_iterations = 0}) ==
        "kfac::tune_by_fixed_point: 'max_iterations' is 0, expected >= 1");
  CHECK(message({.tolerance = 0}) ==
        "kfac::tune_by_fixed_point: 'tolerance' is 0, expected > 0 and finite");
  CHECK(message({.smallest_precision = 0}) ==
        "kfac::tune_by_fixed_point: 'smallest_precision' is 0, expected > 0");
  CHECK(message({.prior_precision = false, .observation_noise = false}) ==
        "kfac::tune_by_fixed_point: 'prior_precision' and 'observation_noise' leave nothing to "
        "tune");
  posterior.set_prior_precision(1e-300);
  posterior.set_prior_precision(0);
  CHECK(message({}) ==
        "kfac::tune_by_fixed_point: 'prior_precision' of the posterior is 0, expected > 0 to start "
        "from");
}

}  // namespace kfac::test::tune_evidence_test
