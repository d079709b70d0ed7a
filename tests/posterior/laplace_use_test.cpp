#include "support/catch.hpp"
#include "support/laplace_cases.hpp"

namespace kfac::test::laplace_use_test {

namespace {

using Options = LaplaceOptions<double>;

}  // namespace

TEST_CASE("Laplace: the reduction of the loss does not matter, the number of data does") {
  Rng rng(8);
  AnyModel model;
  append_linear(model, {3, 4, 2}, rng, true);
  const Task sum(model, MeanSquaredError<double>({.reduction = Reduction::Sum}), {3}, 5, rng);
  Task mean = sum;
  mean.loss = MeanSquaredError<double>({.reduction = Reduction::Mean});
  Task thrice = mean;
  thrice.x = sum.x.replicate(1, 3);
  thrice.y = sum.y.replicate(1, 3);
  Options options{.likelihood = Likelihood::Regression};
  for (const LaplaceKind kind : {LaplaceKind::Diagonal, LaplaceKind::Kronecker, LaplaceKind::Ekfac,
                                 LaplaceKind::Layers, LaplaceKind::Full}) {
    const Laplace<double> of_sum = laplace_of(model, sum, kind, options);
    const Laplace<double> of_mean = laplace_of(model, mean, kind, options);
    CHECK(relative_error(of_mean.variances(), of_sum.variances()) < 1e-12);
    CHECK(of_mean.log_marginal_likelihood() ==
          Approx(of_sum.log_marginal_likelihood()).epsilon(1e-12));
    // Three times the data are a third of the temperature.
    options.temperature = 1.0 / 3;
    const Laplace<double> cold = laplace_of(model, sum, kind, options);
    options.temperature = 1;
    CHECK(relative_error(laplace_of(model, thrice, kind, options).variances(), cold.variances()) <
          1e-11);
    Laplace<double> cooled = of_sum;
    cooled.set_temperature(1.0 / 3);
    CHECK(cooled.variances() == cold.variances());
    CHECK(relative_error(cold.variances(), of_sum.variances()) > 0.05);
  }
}

TEST_CASE("Laplace: samples have the covariance, and are those of the seed") {
  LaplaceCase of(4);
  Options options = of.options();
  options.last_layer = true;
  for (const LaplaceKind kind : {LaplaceKind::Kronecker, LaplaceKind::Full}) {
    const Laplace<double> posterior = laplace_of(of.network.model, of.task, kind, options);
    Rng rng(5), again(5), other(6);
    CHECK(posterior.sample(rng) == posterior.sample(again));
    CHECK(posterior.sample(rng) != posterior.sample(other));
    constexpr int kSamples = 20000;
    Matrix<double> covariance =
        Matrix<double>::Zero(posterior.parameters(), posterior.parameters());
    for (int i = 0; i < kSamples; ++i) {
      const Vector<double> distance = posterior.sample(rng) - posterior.mean();
      covariance += distance * distance.transpose() / kSamples;
    }
    Matrix<double> expected = covariance;
    for (Index j = 0; j < expected.cols(); ++j) {
      Vector<double> unit = Vector<double>::Unit(expected.rows(), j);
      posterior.multiply_covariance(unit);
      expected.col(j) = unit;
    }
    CHECK(relative_error(covariance, expected) < 0.03);
    const Index fixed = posterior.parameters() - posterior.random_parameters();
    CHECK(covariance.topRows(fixed).isZero(0));
  }
}

TEST_CASE("Laplace: of normal outputs of a linear model the mode is found at once") {
  Rng rng(11);
  AnyModel model;
  append_linear(model, {4, 2}, rng, true);
  const Task task(model, MeanSquaredError<double>(), {4}, 9, rng);
  const Options options{.likelihood = Likelihood::Regression,
                        .prior_precision = {0.4},
                        .prior_mean = Vector<double>::Constant(1, -0.3),
                        .observation_noise = 0.6};
  for (const LaplaceKind kind : {LaplaceKind::Kronecker, LaplaceKind::Layers, LaplaceKind::Full}) {
    Laplace<double> posterior = laplace_of(model, task, kind, options);
    posterior.recentre();
    Matrix<double> x(5, 9);
    x << task.x, Matrix<double>::Ones(1, 9);
    const double kappa = 1 / (0.6 * 0.6);
    Matrix<double> precision = kappa * x * x.transpose();
    precision.diagonal().array() += 0.4;
    const Matrix<double> right = (kappa * task.y * x.transpose()).array() - 0.4 * 0.3;
    const Matrix<double> w = right * precision.inverse();
    CHECK(relative_error(posterior.mean(), Vector<double>(w.reshaped())) < 1e-12);
    CHECK(posterior.data().loss == Approx(0.5 * (w * x - task.y).squaredNorm()).epsilon(1e-12));
    // The evidence is the density of the targets.
    double evidence = 0;
    Matrix<double> covariance = 1 / 0.4 * x.transpose() * x;
    covariance.diagonal().array() += 0.6 * 0.6;
    const Vector<double> mean = -0.3 * x.colwise().sum().transpose();
    for (Index c = 0; c < 2; ++c) {
      const Vector<double> distance = task.y.row(c).transpose() - mean;
      evidence -= 0.5 * (distance.dot(covariance.inverse() * distance) +
                         std::log(covariance.determinant()) + 9 * std::log(2 * std::acos(-1.0)));
    }
    CHECK(posterior.log_marginal_likelihood() == Approx(evidence).epsilon(1e-11));
  }
}

TEST_CASE("Laplace: a copy shares the curvature and has its own hyperparameters") {
  LaplaceCase of(6);
  const Laplace<double> posterior =
      laplace_of(of.network.model, of.task, LaplaceKind::Kronecker, of.options());
  Laplace<double> copy = posterior;
  copy.set_prior_precision(7);
  copy.set_observation_noise(0.3);
  CHECK(&copy.curvature() == &posterior.curvature());
  CHECK(posterior.prior().precision()(0) == 1);
  CHECK(copy.options().prior_precision == std::vector<double>{7});
  LaplaceOptions<double> options = of.options();
  options.prior_precision = {7};
  options.observation_noise = 0.3;
  CHECK(laplace_of(of.network.model, of.task, LaplaceKind::Kronecker, options).variances() ==
        copy.variances());
}

TEST_CASE("Laplace: in float it is that of double, rounded") {
  Rng rng(2);
  Sequential model(Linear<float>(3, 4, rng), Tanh<float>{}, Linear<float>(4, 2, rng));
  Dataset<float, Matrix<float>> data{random_matrix<float>(3, 20, rng),
                                     random_matrix<float>(2, 20, rng)};
  const LaplaceOptions<float> options{.likelihood = Likelihood::Regression,
                                      .prior_grouping = PriorGrouping::Tensor};
  const MeanSquaredError<float> loss;
  Sequential twin(Linear<double>(3, 4, rng), Tanh<double>{}, Linear<double>(4, 2, rng));
  set_flat_parameters(twin, flat_parameters(model).cast<double>());
  const Dataset<double, Matrix<double>> wide{data.inputs.cast<double>(),
                                             data.targets.cast<double>()};
  const auto posterior = fit_laplace(model, loss, slices(data, 7), options);
  const auto exact =
      fit_laplace(twin, MeanSquaredError<double>(), slices(wide, 7),
                  {.likelihood = Likelihood::Regression, .prior_grouping = PriorGrouping::Tensor});
  CHECK(relative_error(posterior.variances().cast<double>(), exact.variances()) < 1e-5);
  CHECK(posterior.log_marginal_likelihood() ==
        Approx(exact.log_marginal_likelihood()).epsilon(1e-5));
}

}  // namespace kfac::test::laplace_use_test
