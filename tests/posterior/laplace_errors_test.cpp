#include <limits>

#include "support/catch.hpp"
#include "support/laplace_cases.hpp"
#include "support/message_of.hpp"

namespace kfac::test::laplace_errors_test {

namespace {

using Options = LaplaceOptions<double>;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

}  // namespace

TEST_CASE("Laplace: what does not fit is refused, and named") {
  LaplaceCase of(0);
  AnyModel& model = of.network.model;
  const auto fit = [&](Options options, LaplaceKind kind = LaplaceKind::Kronecker) {
    return [&, options, kind] { laplace_of(model, of.task, kind, options); };
  };
  const Options options = of.options();
  const auto with = [&](auto change) {
    Options changed = options;
    change(changed);
    return changed;
  };
  CHECK(message_of<OptionError>(fit(with([](Options& o) { o.prior_precision = {-1}; }))) ==
        "kfac::fit_laplace: 'prior_precision' is -1, expected >= 0 and finite");
  CHECK(message_of<OptionError>(fit(with([](Options& o) { o.temperature = 0; }))) ==
        "kfac::fit_laplace: 'temperature' is 0, expected > 0 and finite");
  CHECK(message_of<OptionError>(fit(with([](Options& o) { o.observation_noise = kNaN; }))) ==
        "kfac::fit_laplace: 'observation_noise' is nan, expected > 0 and finite");
  CHECK(message_of<ShapeError>(fit(with([](Options& o) {
          o.prior_precision = {1, 2};
        }))) == "kfac::Laplace: 'prior_precision' has 2 entries, expected 1");
  CHECK(message_of<ShapeError>(fit(with([](Options& o) { o.prior_mean.setZero(3); }))) ==
        "kfac::Laplace: 'prior_mean' has 3 entries, expected 67");
  CHECK(message_of<OptionError>(
            fit(with([](Options& o) { o.likelihood = Likelihood::Classification; }))) ==
        "kfac::fit_laplace: 'observation_noise' is 0.7, expected 1 where the likelihood is that of "
        "labels");
  CHECK(message_of<OptionError>(
            fit(with([](Options& o) { o.prior_grouping = PriorGrouping::Parameter; }))) ==
        "kfac::Laplace: 'prior_grouping' is Parameter, expected diagonal or dense curvature for it "
        "(layer '0/0')");
  CHECK(message_of<OptionError>(fit(with([](Options& o) {
          o.subset = [](const ParameterBlock&) { return false; };
        }))) == "kfac::fit_laplace: 'subset' chooses none of 4 blocks, expected at least one");
  CHECK(message_of<OptionError>(fit(with([](Options& o) {
          o.last_layer = true;
          o.subset = [](const ParameterBlock&) { return true; };
        }))) ==
        "kfac::fit_laplace: 'last_layer' and 'subset' are both given, expected one of them");
  CHECK(
      message_of<OptionError>(fit(with([](Options& o) {
        o.prior_group = [](const ParameterBlock&, bool bias) { return Index(bias ? 2 : 0); };
      }))) ==
      "kfac::Laplace: 'prior_group' gives no parameter the group 1, expected groups without gaps");
  CHECK(message_of<OptionError>(
            fit(with([](Options& o) { o.prior_damping = PriorDamping::Multiplicative; }),
                LaplaceKind::Ekfac)) ==
        "kfac::Laplace: 'prior_damping' is Multiplicative, expected that for Kronecker factors "
        "without moments, with one prior precision (layer '0/0')");

  // 7 examples of 3 outputs determine less than 67 parameters.
  const Options flat = with([](Options& o) { o.prior_precision = {0}; });
  CHECK(message_of<SingularError>(fit(flat, LaplaceKind::Full)) ==
        "kfac::Laplace: the posterior precision is singular, expected 'prior_precision' > 0 where "
        "the curvature is singular");
  for (const LaplaceKind kind : {LaplaceKind::Kronecker, LaplaceKind::Ekfac, LaplaceKind::Layers}) {
    of.task.x.setZero();
    CHECK(message_of<SingularError>(fit(flat, kind)) ==
          "kfac::Laplace: the posterior precision is singular, expected 'prior_precision' > 0 "
          "where the curvature is singular (layer '0/0')");
  }
}

TEST_CASE("Laplace: what is misused leaves it as it was") {
  LaplaceCase of(0);
  AnyModel& model = of.network.model;
  Laplace<double> posterior = laplace_of(model, of.task, LaplaceKind::Kronecker, of.options());
  const Vector<double> variances = posterior.variances();
  CHECK(message_of<OptionError>([&] { posterior.set_prior_precision(-2); }) ==
        "kfac::Laplace::set_hyperparameters: 'prior_precision' is -2, expected >= 0 and finite");
  CHECK(message_of<OptionError>([&] { posterior.set_temperature(-1); }) ==
        "kfac::Laplace::set_hyperparameters: 'temperature' is -1, expected > 0 and finite");
  CHECK(message_of<ShapeError>([&] {
          posterior.set_prior_precision(Vector<double>(Eigen::Vector2d(1, 2)));
        }) == "kfac::Laplace::set_hyperparameters: 'prior_precision' has 2 entries, expected 1");
  Vector<double> short_vector(3);
  CHECK(message_of<ShapeError>([&] { posterior.multiply_covariance(short_vector); }) ==
        "kfac::Laplace::multiply_covariance: 'v' has 3 entries, expected 67");
  CHECK(message_of<ShapeError>([&] { posterior.log_probability(short_vector); }) ==
        "kfac::Laplace::log_probability: 'parameters' has 3 entries, expected 67");
  CHECK(posterior.variances() == variances);

  CurvatureEstimate<double> estimate = estimate_curvature(model, of.task.loss, one_slice(of.task));
  const Vector<double> mean = flat_parameters(model);
  const Laplace<double> without(estimate, mean, of.options());
  CHECK(relative_error(without.variances(), variances) < 1e-13);
  CHECK(message_of<StateError>([&] { without.log_marginal_likelihood(); }) ==
        "kfac::Laplace::log_likelihood: 'data' is not known, expected that of fit_laplace");
  CHECK(message_of<StateError>([&] { Laplace<double>(without).recentre(); }) ==
        "kfac::Laplace::recentre: 'data' has no gradient, expected that of fit_laplace");
  CHECK(message_of<ShapeError>([&] { Laplace<double>(estimate, short_vector); }) ==
        "kfac::Laplace: 'mean' has 3 entries, expected 67");
  estimate.blocks[3].factors.g(0, 0) = kNaN;
  CHECK(message_of<ValueError>([&] { Laplace<double>(estimate, mean); }) ==
        "kfac::Laplace: 'curvature' has a factor that is not finite (layer '4')");
  estimate.blocks[2].diagonal(0, 0) = -1;
  CHECK(message_of<ValueError>([&] { Laplace<double>(estimate, mean); }) ==
        "kfac::Laplace: 'curvature' has a diagonal entry -1, expected >= 0 (layer '1')");
  estimate.blocks[1].factors = {};
  estimate.blocks[1].eigen = {};
  CHECK(message_of<StateError>([&] { Laplace<double>(estimate, mean); }) ==
        "kfac::Laplace: 'curvature' has none of a random block, expected one of each (layer "
        "'0/1')");

  Rng rng(1);
  Sequential own(Linear<double>(2, 2, rng));
  const Dataset<double, Matrix<double>> data{random_matrix(2, 3, rng), random_matrix(2, 3, rng)};
  CHECK(message_of<OptionError>(
            [&] { fit_laplace(own, MeanSquaredError<double>(), slices(data, 3)); }) ==
        "kfac::fit_laplace: 'likelihood' is Classification, expected Regression with "
        "kfac::MeanSquaredError");
}

TEST_CASE("Laplace: more memory than allowed is refused before it is taken") {
  LaplaceCase of(0);
  AnyModel& model = of.network.model;
  const std::vector<ParameterBlock> blocks = parameter_blocks(model);
  const Options options = of.options();
  const double bytes =
      laplace_memory<double>(blocks, CurvatureStructure::Kronecker, options).total();
  CHECK_NOTHROW(
      fit_laplace(model, of.task.loss, one_slice(of.task), options, {.memory_limit = bytes}));
  CHECK_THROWS_AS(
      fit_laplace(model, of.task.loss, one_slice(of.task), options, {.memory_limit = bytes - 1}),
      MemoryError);
  const double full = full_laplace_memory<double>(blocks, options, 21).total();
  CHECK_NOTHROW(fit_full_laplace(model, of.task.loss, one_slice(of.task), options, full));
  CHECK(message_of<MemoryError>([&] {
          fit_full_laplace(model, of.task.loss, one_slice(of.task), options, full - 1);
        }).rfind("kfac::fit_full_laplace: 'memory_limit' is ", 0) == 0);
  Options last = options;
  last.last_layer = true;
  CHECK(full_laplace_memory<double>(blocks, last, 21).total() < full);
  const double less = laplace_memory<double>(blocks, CurvatureStructure::Kronecker, last).total();
  CHECK(less < bytes);
  CHECK_NOTHROW(fit_laplace(model, of.task.loss, one_slice(of.task), last, {.memory_limit = less}));
}

}  // namespace kfac::test::laplace_errors_test
