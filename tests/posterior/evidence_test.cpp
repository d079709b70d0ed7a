#include <kfac/posterior/evidence.hpp>

#include "support/catch.hpp"
#include "support/laplace_cases.hpp"
#include "support/message_of.hpp"

namespace kfac::test::evidence_test {

namespace {

using Options = LaplaceOptions<double>;

/// With the hyperparameters multiplied by exp of a step: of each group and, last, the noise.
Laplace<double> stepped(const Laplace<double>& posterior, const Vector<double>& step, bool moves) {
  Laplace<double> result = posterior;
  const Index groups = posterior.prior().groups();
  result.set_hyperparameters(
      posterior.prior().precision().array() * step.head(groups).array().exp(),
      posterior.options().observation_noise * std::exp(step(groups)),
      posterior.options().temperature);
  if (moves) result.recentre();
  return result;
}

Vector<double> gradient_of(const Evidence& of) {
  Vector<double> gradient(of.prior_gradient.size() + 1);
  gradient << of.prior_gradient, of.noise_gradient;
  return gradient;
}

/// Compares the derivatives with differences. What tuning does not change is not stepped.
void check_derivatives(const Laplace<double>& posterior, bool moves) {
  constexpr double kStep = 1e-5;
  const Evidence at =
      evidence(posterior, moves ? EvidenceHessian::AtMode : EvidenceHessian::FixedMean);
  CHECK(at.log_marginal_likelihood == posterior.log_marginal_likelihood());
  const Vector<double> gradient = gradient_of(at);
  const bool regression = posterior.likelihood() == Likelihood::Regression;
  const Index count = posterior.prior().groups() + (regression ? 1 : 0);
  Vector<double> slopes = Vector<double>::Zero(gradient.size());
  Matrix<double> second = Matrix<double>::Zero(gradient.size(), gradient.size());
  for (Index i = 0; i < count; ++i) {
    const Vector<double> step = kStep * Vector<double>::Unit(gradient.size(), i);
    const Evidence up = evidence(stepped(posterior, step, moves));
    const Evidence down = evidence(stepped(posterior, -step, moves));
    slopes(i) = (up.log_marginal_likelihood - down.log_marginal_likelihood) / (2 * kStep);
    second.col(i) = (gradient_of(up) - gradient_of(down)) / (2 * kStep);
  }
  CHECK((slopes - gradient).norm() < 1e-7 * (1 + gradient.norm()));
  CHECK((second - at.hessian).norm() < 1e-7 * (1 + at.hessian.norm()));
}

}  // namespace

TEST_CASE("Evidence: gradient and Hessian by the hyperparameters are its derivatives") {
  for (std::uint64_t seed = 0; seed < 6; ++seed) {
    LaplaceCase of(seed);
    for (const LaplaceKind kind : {LaplaceKind::Diagonal, LaplaceKind::Kronecker,
                                   LaplaceKind::Ekfac, LaplaceKind::Layers, LaplaceKind::Full})
      for (const PriorGrouping grouping :
           {PriorGrouping::Scalar, PriorGrouping::Layer, PriorGrouping::Tensor}) {
        INFO("seed " << seed << ", kind " << static_cast<int>(kind) << ", grouping "
                     << static_cast<int>(grouping));
        Options options = of.options();
        options.prior_grouping = grouping;
        options.temperature = 0.8;
        Laplace<double> posterior = laplace_of(of.network.model, of.task, kind, options);
        posterior.set_prior_precision(random_precisions(posterior.prior().groups(), of.rng));
        check_derivatives(posterior, false);
        posterior.recentre();
        check_derivatives(posterior, true);
      }
  }
}

TEST_CASE("Evidence: the derivatives hold for multiplicative damping and for each parameter") {
  LaplaceCase of(4);
  Options options = of.options();
  options.prior_grouping = PriorGrouping::Layer;
  options.prior_damping = PriorDamping::Multiplicative;
  check_derivatives(laplace_of(of.network.model, of.task, LaplaceKind::Kronecker, options), false);
  options.prior_damping = PriorDamping::Additive;
  options.prior_grouping = PriorGrouping::Parameter;
  for (const LaplaceKind kind : {LaplaceKind::Diagonal, LaplaceKind::Full})
    check_derivatives(laplace_of(of.network.model, of.task, kind, options), false);
}

TEST_CASE("Evidence: the effective parameters are those that the data determine") {
  LaplaceCase of(0);
  const Options options = of.options();
  Laplace<double> posterior = laplace_of(of.network.model, of.task, LaplaceKind::Full, options);
  const DensePosterior dense = dense_posterior(of.network.model, of.task, LaplaceKind::Full,
                                               options, Vector<double>::Ones(1));
  const Matrix<double> share = dense.kappa * dense.curvature * dense.precision().inverse();
  CHECK(evidence(posterior).effective_parameters.sum() == Approx(share.trace()).epsilon(1e-10));
  posterior.set_prior_precision(1e-9);
  // 7 examples of 3 outputs.
  CHECK(evidence(posterior).effective_parameters.sum() == Approx(21).epsilon(1e-4));
  CHECK(evidence(posterior).hessian.size() == 0);
}

TEST_CASE("Evidence: without data there is none") {
  LaplaceCase of(0);
  AnyModel& model = of.network.model;
  const auto estimate = estimate_curvature(model, of.task.loss, one_slice(of.task));
  const Vector<double> mean = flat_parameters(model);
  const Laplace<double> unknown(estimate, mean, of.options());
  CHECK(message_of<StateError>([&] { evidence(unknown); }) ==
        "kfac::Laplace::log_likelihood: 'data' is not known, expected that of fit_laplace");
  const Laplace<double> known(estimate, mean, of.options(), {.loss = 1, .observations = 21});
  CHECK_NOTHROW(evidence(known, EvidenceHessian::FixedMean));
  CHECK(message_of<StateError>([&] { evidence(known, EvidenceHessian::AtMode); }) ==
        "kfac::evidence: 'data' has no gradient, expected that of fit_laplace");
}

}  // namespace kfac::test::evidence_test
