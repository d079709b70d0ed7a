#include <kfac/nn/linear.hpp>
#include <kfac/posterior/predictive.hpp>
#include <kfac/testing/relative_error.hpp>

#include "posterior/posteriors.hpp"
#include "support/catch.hpp"
#include "support/message_of.hpp"

// The covariance of a network's outputs against J P^-1 J^T, with everything dense.

namespace kfac::test::output_covariance {

using testing::relative_error;

constexpr double kTolerance = 1e-10;

/// Some have a temperature, some a noise, and of some the biases have prior precisions of their
/// own.
LaplaceOptions<double> options_of(std::uint64_t seed) {
  LaplaceOptions<double> options;
  options.prior_precision = {0.3};
  options.observation_noise = 0.7;
  options.temperature = seed % 2 == 0 ? 1 : 1.6;
  if (seed % 4 == 1)
    options.prior_group = [](const ParameterBlock&, bool bias) { return bias ? 1 : 0; };
  if (seed % 4 == 2) options.prior_grouping = PriorGrouping::Tensor;
  return options;
}

PosteriorCase case_of(NetworkKind network, PosteriorKind kind, std::uint64_t seed) {
  PosteriorCase c = posterior_case(network, kind, static_cast<LossKind>(seed % 3),
                                   static_cast<Index>(1 + seed % 5), options_of(seed), seed);
  return c;
}

OutputDistribution<double> distribution(PosteriorCase& c, OutputCovariance wanted) {
  return output_distribution(c.model, c.posterior, c.x, c.shape, wanted);
}

/// Of each example, side by side.
Matrix<double> blocks_of(const Matrix<double>& joint, Index outputs) {
  Matrix<double> result(outputs, joint.cols());
  for (Index first = 0; first < joint.cols(); first += outputs)
    result.middleCols(first, outputs) = joint.block(first, first, outputs, outputs);
  return result;
}

void check(PosteriorCase& c) {
  const OutputDistribution<double> joint = distribution(c, OutputCovariance::Joint);
  const OutputDistribution<double> each = distribution(c, OutputCovariance::PerExample);
  const OutputDistribution<double> variances = distribution(c, OutputCovariance::Variances);
  CHECK(relative_error(joint.mean, c.outputs) < 1e-14);
  CHECK(relative_error(joint.joint, c.covariance) < kTolerance);
  CHECK(joint.joint == joint.joint.transpose());
  const Index outputs = c.outputs.rows();
  const Matrix<double> blocks = blocks_of(c.covariance, outputs);
  CHECK(relative_error(joint.covariances, blocks) < kTolerance);
  CHECK(relative_error(each.covariances, blocks) < kTolerance);
  CHECK(each.joint.size() == 0);
  const Matrix<double> diagonal = c.covariance.diagonal().reshaped(outputs, c.outputs.cols());
  CHECK(relative_error(joint.variances, diagonal) < kTolerance);
  CHECK(relative_error(each.variances, diagonal) < kTolerance);
  CHECK(relative_error(variances.variances, diagonal) < kTolerance);
  CHECK(variances.covariances.size() == 0);
  for (Index n = 0; n < c.outputs.cols(); ++n) {
    const Matrix<double> covariance = each.covariance(n);
    CHECK(covariance == covariance.transpose());
    CHECK(relative_error(variances.covariance(n), Matrix<double>(diagonal.col(n).asDiagonal())) <
          kTolerance);
  }
}

void check_kinds(NetworkKind network, std::uint64_t first_seed, int repeats) {
  std::uint64_t seed = first_seed;
  for (int kind = 0; kind < kPosteriorKinds; ++kind)
    for (int repeat = 0; repeat < repeats; ++repeat, ++seed) {
      INFO("network " << static_cast<int>(network) << ", posterior " << kind << ", seed " << seed);
      PosteriorCase c = case_of(network, static_cast<PosteriorKind>(kind), seed);
      check(c);
    }
}

TEST_CASE("Output covariance: is J P^-1 J^T of random networks and all kinds of posterior",
          "[posterior][exact]") {
  check_kinds(NetworkKind::Random, 0, 12);
}

TEST_CASE("Output covariance: of groups and of layers that announce nothing it is exact too",
          "[posterior][exact]") {
  check_kinds(NetworkKind::AllBlocks, 200, 4);
}

TEST_CASE("Output covariance: what follows the last layer is seen", "[posterior][exact]") {
  // Gradients of a last layer under an activation, or of several positions, are not unit vectors.
  check_kinds(NetworkKind::Activated, 300, 4);
  check_kinds(NetworkKind::PerToken, 400, 2);
  check_kinds(NetworkKind::MeanOfTokens, 500, 2);
}

TEST_CASE("Output covariance: a prior that is added to the factors is in it",
          "[posterior][exact]") {
  for (const NetworkKind network : {NetworkKind::Mlp, NetworkKind::AllBlocks}) {
    PosteriorCase c = posterior_case(
        network, PosteriorKind::Kronecker, LossKind::SoftmaxCrossEntropy, 4,
        {.prior_precision = {0.4}, .prior_damping = PriorDamping::Multiplicative}, 7);
    check(c);
  }
}

/// The identity, which counts the backward passes through it.
class Counting : public ParameterFree<double> {
 public:
  struct Scratch {};
  explicit Counting(int& passes) : passes_(&passes) {}
  Shape output_shape(const Shape& shape) const { return shape; }
  void forward(const ConstBatchView<double>& x, BatchView<double> y, Scratch&, const Mode&) const {
    y.values = x.values;
  }
  void backward(const ConstBatchView<double>&, const ConstBatchView<double>&,
                const ConstBatchView<double>& g, BatchView<double>* grad_input, VectorMap<double>*,
                Scratch&, const Mode&) const {
    ++*passes_;
    if (grad_input) grad_input->values = g.values;
  }
  void tangent(const ConstBatchView<double>&, const ConstBatchView<double>&,
               const ConstBatchView<double>* x, const ConstVectorMap<double>*, BatchView<double> y,
               Scratch&) const {
    y.values.setZero();
    if (x) y.values = x->values;
  }

 private:
  int* passes_;
};

TEST_CASE("Output covariance: the last layer's takes no backward pass", "[posterior]") {
  Rng rng(8);
  int passes = 0;
  DynamicSequential<double> model;
  model.push_back(Linear<double>(3, 4, rng));
  model.push_back(Counting(passes));
  model.push_back(Linear<double>(4, 3, rng));
  const Matrix<double> x = Matrix<double>::Ones(3, 5);
  output_distribution(model, unit_posterior(model), x, {3});
  CHECK(passes == 3);  // one an output

  passes = 0;
  CurvatureEstimate<double> estimate = unit_posterior(model).curvature();
  const Laplace<double> last(std::move(estimate), flat_parameters(model), {.last_layer = true});
  const OutputDistribution<double> f = output_distribution(model, last, x, {3});
  CHECK(passes == 0);
  CHECK(f.variances.minCoeff() > 0);
}

TEST_CASE("Output covariance: in pieces it is the same, and pieces fit the limit", "[posterior]") {
  constexpr Index kExamples = 40;
  for (const PosteriorKind kind :
       {PosteriorKind::Kronecker, PosteriorKind::Full, PosteriorKind::LastLayer}) {
    PosteriorCase c = posterior_case(NetworkKind::MeanOfTokens, kind, LossKind::SoftmaxCrossEntropy,
                                     kExamples, {}, 9);
    for (const OutputCovariance wanted :
         {OutputCovariance::Variances, OutputCovariance::PerExample}) {
      const auto memory = [&](Index examples) {
        return predictive_memory(c.model, c.posterior, c.shape, examples, wanted).total();
      };
      const auto whole = distribution(c, wanted);
      const double limit = 0.6 * memory(kExamples);
      BlockPasses<DynamicSequential<double>> passes(c.model);
      const Index piece =
          detail::predictive_piece("", passes, c.posterior, c.shape, kExamples, wanted, limit);
      CHECK(piece < kExamples);
      CHECK(memory(piece) <= limit);
      const auto parts = output_distribution(c.model, c.posterior, c.x, c.shape, wanted, limit);
      CHECK(relative_error(parts.mean, whole.mean) < 1e-14);
      CHECK(relative_error(parts.variances, whole.variances) < 1e-13);
      if (wanted == OutputCovariance::PerExample)
        CHECK(relative_error(parts.covariances, whole.covariances) < 1e-13);
      CHECK(
          message_of<MemoryError>([&] {
            output_distribution(c.model, c.posterior, c.x, c.shape, wanted, 100);
          }).starts_with("kfac::output_distribution: 'memory_limit' is 100 B, expected at least"));
    }
    // The joint covariance is of all examples at once.
    CHECK_THROWS_AS(
        output_distribution(c.model, c.posterior, c.x, c.shape, OutputCovariance::Joint, 20e3),
        MemoryError);
  }
}

TEST_CASE("Output covariance: memory grows with outputs and widths, not with parameters",
          "[posterior]") {
  Rng rng(10);
  DynamicSequential<double> model;
  model.push_back(Linear<double>(200, 300, rng));
  model.push_back(Linear<double>(300, 10, rng));
  const Laplace<double> posterior = unit_posterior(model);
  constexpr Index kExamples = 1000;
  const double bytes = predictive_memory(model, posterior, {200}, kExamples).total();
  const double jacobians = 8.0 * kExamples * 10 * static_cast<double>(posterior.parameters());
  const double outputs = 8.0 * kExamples * 10 * 300;
  CHECK(bytes > outputs);
  CHECK(bytes < 3 * outputs);
  CHECK(bytes < jacobians / 50);
}

TEST_CASE("Output covariance: what does not fit is named, and the network stays as it was",
          "[posterior]") {
  PosteriorCase c = posterior_case(NetworkKind::Mlp, PosteriorKind::Kronecker,
                                   LossKind::SoftmaxCrossEntropy, 3, {}, 11);
  const auto message = [&](DynamicSequential<double>& model, const Matrix<double>& x) {
    return [&model, &c, x] { output_distribution(model, c.posterior, x, c.shape); };
  };
  CHECK(message_of<ShapeError>(message(c.model, Matrix<double>(3, 0))) ==
        "kfac::output_distribution: 'x' has 0 examples, expected at least 1");
  CHECK(message_of<ShapeError>(message(c.model, Matrix<double>::Ones(99, 2)))
            .starts_with("kfac::Network::forward: 'x' has 99 rows"));
  Rng rng(0);
  DynamicSequential<double> other;
  other.push_back(Linear<double>(3, 3, rng));
  CHECK(message_of<ShapeError>(message(other, c.x))
            .starts_with("kfac::output_distribution: 'estimate' has"));
  const Vector<double> before = flat_parameters(c.model);
  set_flat_parameters(c.model, 1.5 * before);
  CHECK(message_of<StateError>(message(c.model, c.x)) ==
        "kfac::output_distribution: 'model' has other parameters than the posterior's mean, "
        "expected set_flat_parameters(model, posterior.mean()) before it");
  CHECK(flat_parameters(c.model) == 1.5 * before);
  set_flat_parameters(c.model, before);
  CHECK(message_of<OptionError>([&] { predictive_memory(c.model, c.posterior, c.shape, 0); }) ==
        "kfac::predictive_memory: 'examples' is 0, expected >= 1");
  CHECK(message_of<OptionError>([&] {
          output_distribution(c.model, c.posterior, c.x, c.shape, OutputCovariance::Variances, 0);
        }) == "kfac::output_distribution: 'memory_limit' is 0, expected > 0");
}

}  // namespace kfac::test::output_covariance
