#include <kfac/io/staged_fit.hpp>

#include "io/files.hpp"
#include "support/catch.hpp"
#include "support/eigensolver.hpp"
#include "support/message_of.hpp"
#include "support/networks.hpp"

namespace kfac::test::staged_fit_test {

namespace {

using Structure = CurvatureStructure;
using io::fit_in_stages;
using io::FitStage;

struct Fit {
  Rng rng{1};
  Sequential<Linear<double>, Tanh<double>, Linear<double>> model{
      Linear<double>(3, 4, rng), Tanh<double>{}, Linear<double>(4, 2, rng)};
  SoftmaxCrossEntropy<double> loss;
  Dataset<double> data{random_matrix(3, 7, rng), random_labels(2, 7, rng)};
  TemporaryFolder folder;
  EstimateOptions options{
      .structure = Structure::Ekfac, .fisher = FisherType::MonteCarlo, .samples = 2, .seed = 3};

  std::filesystem::path path() const { return folder / "curvature.safetensors"; }
  CurvatureEstimate<double> run(const std::function<void(FitStage)>& after_stage = {}) {
    return fit_in_stages(path(), model, loss, slices(data, 3), options, after_stage);
  }
  CurvatureEstimate<double> expected() {
    return estimate_curvature(model, loss, slices(data, 3), options);
  }
};

/// Bit for bit.
bool are_equal(const CurvatureEstimate<double>& a, const CurvatureEstimate<double>& b) {
  if (!(a.record == b.record) || a.blocks.size() != b.blocks.size()) return false;
  for (std::size_t i = 0; i < a.blocks.size(); ++i) {
    const BlockEstimate<double>& one = a.blocks[i];
    const BlockEstimate<double>& other = b.blocks[i];
    if (!(one.block == other.block) || one.has_moments != other.has_moments ||
        one.factors.a != other.factors.a || one.factors.g != other.factors.g ||
        one.diagonal != other.diagonal || one.full != other.full ||
        one.eigen.grid() != other.eigen.grid() ||
        one.eigen.input_basis().vectors != other.eigen.input_basis().vectors)
      return false;
  }
  return true;
}

}  // namespace

TEST_CASE(
    "fit_in_stages: a fit that is interrupted after any stage goes on as if it had not been") {
  struct Interruption {};
  for (const FitStage last : {FitStage::Factors, FitStage::Bases, FitStage::Moments}) {
    Fit fit;
    const auto expected = fit.expected();
    CHECK_THROWS_AS(fit.run([&](FitStage stage) {
      if (stage == last) throw Interruption{};
    }),
                    Interruption);
    std::vector<FitStage> stages;
    CHECK(are_equal(fit.run([&](FitStage stage) { stages.push_back(stage); }), expected));
    // Only what was missing was done.
    std::vector<FitStage> missing;
    for (const FitStage stage : {FitStage::Bases, FitStage::Moments})
      if (stage > last) missing.push_back(stage);
    CHECK(stages == missing);
    CHECK(are_equal(io::load_curvature<double>(fit.path()), expected));
  }
}

TEST_CASE("fit_in_stages: a fit that had ended is read") {
  for (const Structure structure :
       {Structure::Diagonal, Structure::Kronecker, Structure::Ekfac, Structure::Full}) {
    Fit fit;
    fit.options.structure = structure;
    const auto expected = fit.expected();
    std::vector<FitStage> stages;
    const auto note = [&](FitStage stage) { stages.push_back(stage); };
    CHECK(are_equal(fit.run(note), expected));
    CHECK(stages.size() == (structure == Structure::Ekfac ? 3 : 1));
    stages.clear();
    CHECK(are_equal(fit.run(note), expected));
    CHECK(stages.empty());
  }
}

TEST_CASE("fit_in_stages: a file of other parameters, data, losses or options is refused") {
  Fit fit;
  fit.run();
  const std::string expected =
      "kfac::io::fit_in_stages: '" + fit.path().string() +
      "' is of other parameters, data or options, expected a fit of these (or no file)";
  const auto is_refused = [&] { return message_of<FileError>([&] { fit.run(); }) == expected; };
  fit.model.layers()[0].parameters(2) += 1e-12;
  CHECK(is_refused());
  fit.model.layers()[0].parameters(2) = Fit().model.layers()[0].parameters(2);
  CHECK_FALSE(is_refused());
  fit.data.targets(1) = 1 - fit.data.targets(1);
  CHECK(is_refused());
  fit.data.targets(1) = 1 - fit.data.targets(1);
  fit.data.inputs(0, 0) += 1;
  CHECK(is_refused());
  fit.data = Fit().data;
  const EstimateOptions options = fit.options;
  fit.options.seed = 4;
  CHECK(is_refused());
  fit.options = options;
  fit.options.samples = 1;
  CHECK(is_refused());
  fit.options = options;
  fit.options.fisher = FisherType::Type2;
  CHECK(is_refused());
  fit.options = options;
  fit.options.layers = [](const std::string& layer) { return layer == "0"; };
  CHECK(is_refused());
  fit.options = options;
  fit.loss = SoftmaxCrossEntropy<double>(LossOptions{Reduction::Sum});
  CHECK(is_refused());
  fit.loss = Fit().loss;
  CHECK_FALSE(is_refused());
  io::save_curvature(fit.path(), fit.expected());
  CHECK(is_refused());
}

TEST_CASE("fit_in_stages: too little memory or a broken file are exceptions") {
  Fit fit;
  fit.options.memory_limit = 100;
  CHECK_THROWS_AS(fit.run(), MemoryError);
  CHECK_FALSE(std::filesystem::exists(fit.path()));
  write_bytes(fit.path(), "not a file of curvature");
  CHECK_THROWS_AS(fit.run(), FileError);
}

}  // namespace kfac::test::staged_fit_test
