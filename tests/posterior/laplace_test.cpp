#include "support/catch.hpp"
#include "support/laplace_cases.hpp"

namespace kfac::test::laplace_test {

namespace {

using Options = LaplaceOptions<double>;

constexpr double kTolerance = 1e-10;

constexpr std::array<LaplaceKind, 5> kKinds{LaplaceKind::Diagonal, LaplaceKind::Kronecker,
                                            LaplaceKind::Ekfac, LaplaceKind::Layers,
                                            LaplaceKind::Full};

bool allows_each_parameter(LaplaceKind kind) {
  return kind == LaplaceKind::Diagonal || kind == LaplaceKind::Layers || kind == LaplaceKind::Full;
}

/// The matrix of an in-place product, of the random parameters; what is not random must become 0.
template <class Multiply>
Matrix<double> matrix_of(const Laplace<double>& posterior, const std::vector<Index>& random,
                         Multiply&& multiply) {
  Matrix<double> products(posterior.parameters(), posterior.parameters());
  for (Index j = 0; j < products.cols(); ++j) {
    Vector<double> v = Vector<double>::Unit(products.rows(), j);
    multiply(VectorRef<double>(v));
    products.col(j) = v;
  }
  const Matrix<double> result = products(random, random);
  CHECK(std::abs(products.squaredNorm() - result.squaredNorm()) <= 1e-14 * result.squaredNorm());
  return result;
}

void check_products(const Laplace<double>& posterior, const DensePosterior& dense) {
  const Matrix<double> precision = dense.precision();
  const Matrix<double> covariance = precision.inverse();
  const auto of = [&](auto member) {
    return matrix_of(posterior, dense.random, [&](VectorRef<double> v) { (posterior.*member)(v); });
  };
  CHECK(relative_error(of(&Laplace<double>::multiply_covariance), covariance) < kTolerance);
  CHECK(relative_error(of(&Laplace<double>::multiply_precision), precision) < kTolerance);
  CHECK(relative_error(of(&Laplace<double>::multiply_curvature), dense.curvature) < kTolerance);
  const Matrix<double> root = of(&Laplace<double>::multiply_covariance_sqrt);
  CHECK(relative_error(root * root.transpose(), covariance) < kTolerance);
  CHECK(relative_error(of(&Laplace<double>::multiply_covariance_sqrt_transposed),
                       root.transpose()) < kTolerance);
  const Vector<double> variances = posterior.variances();
  CHECK(relative_error(variances(dense.random), covariance.diagonal()) < kTolerance);
  CHECK(variances.sum() == Approx(covariance.trace()).epsilon(1e-12));
}

void check_densities(const Laplace<double>& posterior, const DensePosterior& dense,
                     const LaplaceCase& of, const Options& options, Rng& rng) {
  const double log_determinant = dense.log_determinant();
  CHECK(posterior.log_determinant() == Approx(log_determinant).epsilon(1e-11).margin(1e-10));
  const double ratio = log_determinant - dense.delta.array().log().sum();
  CHECK(posterior.log_determinant_ratio() == Approx(ratio).epsilon(1e-11).margin(1e-10));

  const Vector<double> distance = random_matrix(static_cast<Index>(dense.random.size()), 1, rng);
  Vector<double> theta = posterior.mean();
  theta(dense.random) += distance;
  const auto count = static_cast<double>(distance.size());
  CHECK(posterior.log_probability(theta) ==
        Approx(0.5 * (log_determinant - distance.dot(dense.precision() * distance) -
                      count * std::log(2 * std::acos(-1.0))))
            .epsilon(1e-11));

  // The sum of the criteria, of the labels' or normal observations' likelihood.
  const Ggn<AnyModel, AnyLoss> at(of.network.model, of.task.loss, of.task.x, of.task.shape);
  const Matrix<double> outputs = at.outputs();
  const double criteria =
      of.task.loss.value(outputs, of.task.y) / of.task.loss.scale(outputs.rows(), outputs.cols());
  double likelihood = -dense.kappa * criteria;
  const double noise = options.observation_noise;
  if (of.regression)
    likelihood =
        -(outputs - of.task.y).squaredNorm() / (2 * noise * noise * options.temperature) -
        static_cast<double>(outputs.size()) * std::log(noise * std::sqrt(2 * std::acos(-1.0)));
  CHECK(posterior.log_likelihood() == Approx(likelihood).epsilon(1e-12));
  const Vector<double> mean = posterior.mean()(dense.random);
  const double prior_mean = options.prior_mean.size() > 0 ? options.prior_mean(0) : 0;
  const double penalty = (dense.delta.array() * (mean.array() - prior_mean).square()).sum();
  CHECK(posterior.log_marginal_likelihood() ==
        Approx(likelihood - 0.5 * (ratio + penalty)).epsilon(1e-11));
}

}  // namespace

TEST_CASE("Laplace: every structure and grouping of the prior is the dense posterior") {
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    LaplaceCase of(seed);
    AnyModel& model = of.network.model;
    for (const LaplaceKind kind : kKinds)
      for (const PriorGrouping grouping : {PriorGrouping::Scalar, PriorGrouping::Layer,
                                           PriorGrouping::Tensor, PriorGrouping::Parameter}) {
        if (grouping == PriorGrouping::Parameter && !allows_each_parameter(kind)) continue;
        INFO("seed " << seed << ", kind " << static_cast<int>(kind) << ", grouping "
                     << static_cast<int>(grouping));
        Options options = of.options();
        options.prior_grouping = grouping;
        options.temperature = 1.3;
        options.prior_mean = Vector<double>::Constant(1, 0.2);
        if (seed % 4 == 3) options.last_layer = true;
        Laplace<double> posterior = laplace_of(model, of.task, kind, options);
        const Vector<double> precision = random_precisions(posterior.prior().groups(), of.rng);
        posterior.set_prior_precision(precision);
        const DensePosterior dense = dense_posterior(model, of.task, kind, options, precision);
        CHECK(posterior.random_parameters() == static_cast<Index>(dense.random.size()));
        CHECK(posterior.is_full() == (kind == LaplaceKind::Full));
        check_products(posterior, dense);
        check_densities(posterior, dense, of, options, of.rng);
      }
  }
}

TEST_CASE("Laplace: groups of one's own, and a subset of the blocks") {
  LaplaceCase of(0);
  AnyModel& model = of.network.model;
  Options options = of.options();
  options.prior_group = [](const ParameterBlock& block, bool bias) {
    return Index(bias || !block.factored ? 1 : 0);
  };
  options.subset = [](const ParameterBlock& block) { return block.group == 0; };
  options.prior_precision = {0.3, 4};
  for (const LaplaceKind kind : kKinds) {
    const Laplace<double> posterior = laplace_of(model, of.task, kind, options);
    REQUIRE(posterior.prior().groups() == 2);
    const DensePosterior dense =
        dense_posterior(model, of.task, kind, options, Eigen::Vector2d(0.3, 4));
    CHECK(posterior.random_parameters() == model.parameter_count() - 18);
    check_products(posterior, dense);
    check_densities(posterior, dense, of, options, of.rng);
  }
}

TEST_CASE("Laplace: a prior precision of the biases alone is exact, however small or large") {
  Rng rng(3);
  AnyModel model;
  append_linear(model, {3, 2}, rng, true);
  const Task task(model, MeanSquaredError<double>(), {3}, 6, rng);
  Options options{.likelihood = Likelihood::Regression, .prior_grouping = PriorGrouping::Tensor};
  for (const double bias : {0.0, 1e-8, 1.0, 1e8})
    for (const double weight : {1e-6, 1.0, 1e6}) {
      INFO("bias " << bias << ", weight " << weight);
      const Eigen::Vector2d precision(weight, bias);
      Laplace<double> posterior = laplace_of(model, task, LaplaceKind::Kronecker, options);
      posterior.set_prior_precision(Vector<double>(precision));
      const DensePosterior dense =
          dense_posterior(model, task, LaplaceKind::Kronecker, options, precision);
      const Matrix<double> covariance = dense.precision().inverse();
      const Matrix<double> product = matrix_of(
          posterior, dense.random, [&](VectorRef<double> v) { posterior.multiply_covariance(v); });
      CHECK(relative_error(product, covariance) < 1e-9);
      CHECK(posterior.log_determinant() == Approx(dense.log_determinant()).epsilon(1e-10));
    }
}

TEST_CASE("Laplace: multiplicative damping damps each factor") {
  for (const std::uint64_t seed : {1U, 2U, 4U}) {
    LaplaceCase of(seed);
    AnyModel& model = of.network.model;
    Options options = of.options();
    options.prior_grouping = PriorGrouping::Layer;
    options.prior_damping = PriorDamping::Multiplicative;
    Laplace<double> posterior = laplace_of(model, of.task, LaplaceKind::Kronecker, options);
    const Vector<double> precision = random_precisions(posterior.prior().groups(), of.rng);
    posterior.set_prior_precision(precision);
    const auto estimate = estimate_curvature(model, of.task.loss, one_slice(of.task));
    const double kappa = posterior.likelihood_precision();
    double log_determinant = 0;
    for (std::size_t i = 0; i < estimate.blocks.size(); ++i) {
      const double root = std::sqrt(precision(static_cast<Index>(i)));
      Matrix<double> a = std::sqrt(kappa) * estimate.blocks[i].factors.a;
      Matrix<double> g =
          std::sqrt(kappa) * estimate.blocks[i].factors.g / estimate.record.loss_scale;
      a.diagonal().array() += root;
      g.diagonal().array() += root;
      const Matrix<double> dense = linalg::kronecker_product<double>(a, g);
      log_determinant += std::log(dense.determinant());
      const ParameterBlock& block = estimate.blocks[i].block;
      Matrix<double> v = random_matrix(block.outputs, block.columns(), of.rng);
      const Vector<double> expected = dense.inverse() * v.reshaped();
      posterior.blocks()[i].multiply_covariance(v);
      CHECK(relative_error(Vector<double>(v.reshaped()), expected) < kTolerance);
    }
    CHECK(posterior.log_determinant() == Approx(log_determinant).epsilon(1e-10));
    options.prior_damping = PriorDamping::Additive;
    options.prior_precision = posterior.options().prior_precision;
    CHECK(laplace_of(model, of.task, LaplaceKind::Kronecker, options).log_determinant() <
          log_determinant);
  }
}

}  // namespace kfac::test::laplace_test
