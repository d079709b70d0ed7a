#include <kfac/posterior/online_laplace.hpp>
#include <kfac/posterior/tune_evidence.hpp>

#include "support/catch.hpp"
#include "support/laplace_cases.hpp"
#include "support/message_of.hpp"

namespace kfac::test::online_laplace_test {

namespace {

using Options = LaplaceOptions<double>;
using Data = Dataset<double, Matrix<double>>;

Data random_data(Index examples, Rng& rng) {
  return {random_matrix(3, examples, rng), random_matrix(2, examples, rng)};
}

Data joined(const Data& first, const Data& second) {
  Data all{Matrix<double>(3, first.examples() + second.examples()),
           Matrix<double>(2, first.examples() + second.examples())};
  all.inputs << first.inputs, second.inputs;
  all.targets << first.targets, second.targets;
  return all;
}

/// The mode of new data's criteria with the old posterior in the place of the prior, in a linear
/// model: one Newton step from the old mean.
Vector<double> mode_after(const Laplace<double>& posterior, AnyModel& model, const Data& data) {
  set_flat_parameters(model, posterior.mean());
  Laplace<double> fresh = fit_full_laplace(model, MeanSquaredError<double>(), slices(data, 4),
                                           {.likelihood = Likelihood::Regression});
  const double kappa = posterior.likelihood_precision();
  Matrix<double> precision(posterior.parameters(), posterior.parameters());
  for (Index j = 0; j < precision.cols(); ++j) {
    Vector<double> v = Vector<double>::Unit(precision.rows(), j);
    posterior.multiply_precision(v);
    precision.col(j) = v;
  }
  precision += kappa * fresh.joint_curvature();
  return posterior.mean() - precision.inverse() * (kappa * fresh.data().gradient);
}

}  // namespace

TEST_CASE("Online Laplace: of a linear model it is the posterior of all data") {
  Rng rng(1);
  const Data first = random_data(6, rng);
  const Data second = random_data(9, rng);
  const Data all = joined(first, second);
  const Options options{.likelihood = Likelihood::Regression,
                        .prior_precision = {0.8},
                        .prior_mean = Vector<double>::Constant(1, 0.5),
                        .observation_noise = 0.7};
  const MeanSquaredError<double> loss;
  for (const LaplaceKind kind :
       {LaplaceKind::Kronecker, LaplaceKind::Ekfac, LaplaceKind::Layers, LaplaceKind::Full})
    for (const KroneckerAddition addition :
         {KroneckerAddition::FactorSum, KroneckerAddition::Nearest}) {
      INFO("kind " << static_cast<int>(kind));
      AnyModel model;
      append_linear(model, {3, 2}, rng, true);
      const auto fit = [&](const Data& data) {
        Laplace<double> posterior =
            kind == LaplaceKind::Full
                ? fit_full_laplace(model, loss, slices(data, 5), options)
                : fit_laplace(model, loss, slices(data, 5), options, estimate_options(kind));
        posterior.recentre();
        return posterior;
      };
      Laplace<double> exact = fit(all);
      Laplace<double> online = fit(first);
      set_flat_parameters(model, mode_after(online, model, second));
      update_laplace(online, model, loss, slices(second, 4), {.addition = addition});
      CHECK(relative_error(online.mean(), exact.mean()) < 1e-11);
      CHECK(online.mean() == flat_parameters(model));
      CHECK(relative_error(online.variances(), exact.variances()) < 1e-11);
      CHECK(online.log_determinant() == Approx(exact.log_determinant()).epsilon(1e-11));
      CHECK(online.log_marginal_likelihood() ==
            Approx(exact.log_marginal_likelihood()).epsilon(1e-10));
      CHECK(online.curvature().record.examples == 15);
      tune_by_newton(online, {.recentre = true, .tolerance = 1e-12});
      tune_by_newton(exact, {.recentre = true, .tolerance = 1e-12});
      CHECK(online.observation_noise() == Approx(exact.observation_noise()).epsilon(1e-7));
    }
}

TEST_CASE("Online Laplace: factors are added, or replaced by the nearest product") {
  LaplaceCase of(0), other(0);
  AnyModel& model = of.network.model;
  const Task next(model, of.task.loss, of.network.shape, 4, other.rng);
  const auto before = estimate_curvature(model, of.task.loss, one_slice(of.task));
  const auto fresh = estimate_curvature(model, of.task.loss, one_slice(next));
  const Laplace<double> start = laplace_of(model, of.task, LaplaceKind::Kronecker, of.options());
  for (const KroneckerAddition addition :
       {KroneckerAddition::FactorSum, KroneckerAddition::Nearest}) {
    Laplace<double> posterior = start;
    update_laplace(posterior, model, of.task.loss, growing_slices(next), {.addition = addition});
    for (std::size_t i = 0; i < before.blocks.size(); ++i) {
      const Matrix<double> old = dense_curvature(before.blocks[i]) / before.record.loss_scale;
      const Matrix<double> added = dense_curvature(fresh.blocks[i]) / fresh.record.loss_scale;
      const Matrix<double> actual = dense_curvature(posterior.curvature().blocks[i]);
      if (!before.blocks[i].has_factors()) {
        CHECK(relative_error(actual, old + added) < 1e-12);
      } else if (addition == KroneckerAddition::FactorSum) {
        const Matrix<double> a =
            (7 * before.blocks[i].factors.a + 4 * fresh.blocks[i].factors.a) / 11;
        const Matrix<double> g = before.blocks[i].factors.g / before.record.loss_scale +
                                 fresh.blocks[i].factors.g / fresh.record.loss_scale;
        CHECK(relative_error(actual, linalg::kronecker_product<double>(a, g)) < 1e-12);
      } else {
        // No product near it is nearer to the sum.
        const double distance = (actual - old - added).norm();
        const auto& factors = posterior.curvature().blocks[i].factors;
        for (int trial = 0; trial < 20; ++trial) {
          const Matrix<double> change =
              1e-3 * random_matrix(factors.a.rows(), factors.a.cols(), of.rng);
          const Matrix<double> near = linalg::kronecker_product<double>(
              Matrix<double>(factors.a + factors.a.norm() * change), factors.g);
          CHECK((near - old - added).norm() >= distance);
        }
      }
    }
  }
}

TEST_CASE("Online Laplace: moments are carried to the new bases") {
  LaplaceCase of(0), other(0);
  AnyModel& model = of.network.model;
  const Task next(model, of.task.loss, of.network.shape, 4, other.rng);
  Laplace<double> posterior = laplace_of(model, of.task, LaplaceKind::Ekfac, of.options());
  const CurvatureEstimate<double> before = posterior.curvature();
  update_laplace(posterior, model, of.task.loss, growing_slices(next));
  auto exact = estimate_curvature(model, of.task.loss, one_slice(next),
                                  {.structure = CurvatureStructure::Full});
  for (std::size_t i = 0; i < before.blocks.size(); ++i) {
    const auto& block = posterior.curvature().blocks[i];
    if (!block.has_factors()) continue;
    // The diagonal, in the new bases, of the old matrix and of the new data's exact one.
    const Matrix<double> basis = linalg::kronecker_product<double>(
        block.eigen.input_basis().vectors, block.eigen.output_basis().vectors);
    const Matrix<double> sum =
        before.blocks[i].eigen.dense() +
        Matrix<double>(exact.blocks[i].full.selfadjointView<Eigen::Lower>()) /
            exact.record.loss_scale;
    const Vector<double> diagonal = (basis.transpose() * sum * basis).diagonal();
    CHECK(relative_error(Vector<double>(block.eigen.grid().reshaped()), diagonal) < 1e-10);
    CHECK(block.has_moments);
  }
}

TEST_CASE("Online Laplace: what does not fit is refused") {
  LaplaceCase of(0);
  AnyModel& model = of.network.model;
  Options options = of.options();
  options.last_layer = true;
  Laplace<double> posterior = laplace_of(model, of.task, LaplaceKind::Kronecker, options);
  const Vector<double> variances = posterior.variances();
  const auto update = [&](AnyModel& with, const OnlineOptions& online = {}) {
    return
        [&, online] { update_laplace(posterior, with, of.task.loss, one_slice(of.task), online); };
  };
  const Vector<double> mean = flat_parameters(model);
  set_flat_parameters(model, mean + Vector<double>::Unit(67, 40));
  CHECK(message_of<ValueError>(update(model)) ==
        "kfac::update_laplace: 'model' has other parameters than the posterior's mean, expected "
        "that those that are not random stay (layer '1')");
  set_flat_parameters(model, mean + Vector<double>::Unit(67, 60));
  CHECK(message_of<MemoryError>(update(model, {.memory_limit = 100})) != "nothing was thrown");
  LaplaceCase other(1);
  CHECK(message_of<ShapeError>(update(other.network.model)).rfind("kfac::update_laplace", 0) == 0);
  CHECK(posterior.variances() == variances);
  CHECK_NOTHROW(update(model)());
  CHECK(posterior.variances().sum() < variances.sum());

  CurvatureEstimate<double> estimate = estimate_curvature(model, of.task.loss, one_slice(of.task));
  estimate.record.examples = 0;
  Laplace<double> unknown(estimate, mean, options);
  CHECK(message_of<StateError>(
            [&] { update_laplace(unknown, model, of.task.loss, one_slice(of.task)); }) ==
        "kfac::update_laplace: 'posterior' is of 0 examples, expected their number in its record");
}

}  // namespace kfac::test::online_laplace_test
