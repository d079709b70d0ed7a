#include <kfac/io/posterior_file.hpp>
#include <kfac/posterior/fit_laplace.hpp>

#include "io/files.hpp"
#include "support/catch.hpp"
#include "support/eigensolver.hpp"
#include "support/message_of.hpp"
#include "support/networks.hpp"

namespace kfac::test::posterior_file_test {

namespace {

using Options = LaplaceOptions<double>;
using Model = Sequential<Linear<double>, Tanh<double>, Linear<double>>;

struct Setting {
  Rng rng{3};
  Model model{Linear<double>(3, 4, rng), Tanh<double>{}, Linear<double>(4, 2, rng)};
  MeanSquaredError<double> loss;
  Dataset<double, Matrix<double>> data{random_matrix(3, 9, rng), random_matrix(2, 9, rng)};

  /// With the structure and hyperparameters that are not those of construction.
  Laplace<double> posterior(const Options& options, CurvatureStructure structure) {
    Laplace<double> result =
        fit_laplace(model, loss, slices(data, 4), options, {.structure = structure});
    return changed(std::move(result));
  }
  Laplace<double> full(const Options& options) {
    return changed(fit_full_laplace(model, loss, slices(data, 4), options));
  }
  static Laplace<double> changed(Laplace<double> posterior) {
    posterior.set_hyperparameters(
        Vector<double>::LinSpaced(posterior.prior().groups(), 1.0 / 3, 7.1), 0.1, 1.7);
    posterior.set_prior_mean(Vector<double>::LinSpaced(posterior.parameters(), -1, 1));
    return posterior;
  }
};

void check_equal(const Laplace<double>& actual, const Laplace<double>& expected) {
  CHECK(actual.mean() == expected.mean());
  CHECK(actual.prior().mean() == expected.prior().mean());
  CHECK(actual.prior().precision() == expected.prior().precision());
  CHECK(actual.options().observation_noise == expected.options().observation_noise);
  CHECK(actual.options().temperature == expected.options().temperature);
  CHECK(actual.likelihood() == expected.likelihood());
  CHECK(actual.data().gradient == expected.data().gradient);
  CHECK(actual.curvature().record == expected.curvature().record);
  CHECK(actual.is_full() == expected.is_full());
  CHECK(actual.random_parameters() == expected.random_parameters());
  CHECK(actual.log_marginal_likelihood() == expected.log_marginal_likelihood());
  Rng rng(1), again(1);
  CHECK(actual.sample(rng) == expected.sample(again));
  CHECK(actual.variances() == expected.variances());
}

}  // namespace

TEST_CASE("Posterior files: a posterior of any structure comes back bit for bit") {
  Setting setting;
  const TemporaryFolder folder;
  const auto path = folder / "posterior.safetensors";
  for (const PriorGrouping grouping : {PriorGrouping::Scalar, PriorGrouping::Tensor}) {
    Options options{.likelihood = Likelihood::Regression, .prior_grouping = grouping};
    for (const CurvatureStructure structure :
         {CurvatureStructure::Diagonal, CurvatureStructure::Kronecker, CurvatureStructure::Ekfac,
          CurvatureStructure::Full})
      for (const bool last_layer : {false, true}) {
        options.last_layer = last_layer;
        const Laplace<double> posterior = setting.posterior(options, structure);
        io::save_posterior(path, posterior);
        check_equal(io::load_posterior<double>(path), posterior);
        check_equal(io::load_posterior(path, setting.model), posterior);
      }
    const Laplace<double> full = setting.full(options);
    io::save_posterior(path, full);
    check_equal(io::load_posterior(path, setting.model), full);
  }
}

TEST_CASE("Posterior files: groups and subsets of one's own are saved as what they say") {
  Setting setting;
  const TemporaryFolder folder;
  const auto path = folder / "posterior.safetensors";
  const Options options{
      .likelihood = Likelihood::Regression,
      .prior_group = [](const ParameterBlock&, bool bias) { return Index(bias ? 0 : 1); },
      .subset = [](const ParameterBlock& block) { return block.layer == "0"; }};
  const Laplace<double> posterior = setting.posterior(options, CurvatureStructure::Kronecker);
  io::save_posterior(path, posterior);
  Laplace<double> loaded = io::load_posterior(path, setting.model);
  check_equal(loaded, posterior);
  CHECK(loaded.prior().precision_of(0) == posterior.prior().precision_of(0));
  CHECK_FALSE(loaded.blocks()[1].random());
  loaded.set_prior_precision(2);
  Laplace<double> other = posterior;
  other.set_prior_precision(2);
  check_equal(loaded, other);
}

TEST_CASE("Posterior files: those of another network, or of none, are refused") {
  Setting setting;
  const TemporaryFolder folder;
  const auto path = folder / "posterior.safetensors";
  const Laplace<double> posterior =
      setting.posterior({.likelihood = Likelihood::Regression}, CurvatureStructure::Kronecker);
  io::save_posterior(path, posterior);
  Model wider(Linear<double>(3, 5, setting.rng), Tanh<double>{}, Linear<double>(5, 2, setting.rng));
  CHECK(message_of<FileError>([&] { io::load_posterior(path, wider); }) ==
        "kfac::io::load_posterior: 'estimate' has block '0', Linear 4x(3+1), expected '0', Linear "
        "5x(3+1) (file '" +
            path.string() + "')");

  const auto spoiled = [&](auto change) {
    io::SafeTensors file;
    io::add_posterior(file, posterior);
    change(file);
    return message_of<FileError>([&] { io::posterior_of<double>(file); });
  };
  const auto with = [&](const std::string& from, const std::string& to) {
    return spoiled([&](io::SafeTensors& file) {
      std::string text = file.metadata().at("kfac.posterior");
      const std::size_t at = text.find(from);
      REQUIRE(at != std::string::npos);
      file.set_metadata("kfac.posterior", text.replace(at, from.size(), to));
    });
  };
  CHECK(with("\"version\":1", "\"version\":9") ==
        "kfac::io::curvature_of: 'version' of kfac.posterior is 9, expected 1");
  CHECK(with("\"regression\"", "\"ranking\"") ==
        "kfac::io::curvature_of: 'likelihood' of kfac.posterior is 'ranking', expected one of "
        "'classification', 'regression'");
  CHECK(with("[true,true]", "[true]") ==
        "kfac::io::curvature_of: 'random' of kfac.posterior is not an answer for each block");
  CHECK(with("\"temperature\":1.7", "\"temperature\":-1.7") ==
        "kfac::Laplace: 'temperature' is -1.7, expected > 0 and finite");
  CHECK(message_of<FileError>([&] {
          io::SafeTensors file;
          io::add_curvature(file, posterior.curvature());
          io::posterior_of<double>(file);
        }) ==
        "kfac::io::posterior_of: 'kfac.posterior' is missing from the metadata, expected a file of "
        "a posterior");
  CHECK(message_of<ValueError>([&] {
          io::SafeTensors file;
          io::add_posterior(file, posterior);
          io::add_posterior(file, posterior);
        }) != "nothing was thrown");
}

}  // namespace kfac::test::posterior_file_test
