#include <kfac/curvature/estimate_curvature.hpp>
#include <kfac/io/curvature_file.hpp>
#include <kfac/kfac.hpp>

#include "io/files.hpp"
#include "support/catch.hpp"
#include "support/eigensolver.hpp"
#include "support/message_of.hpp"
#include "support/random.hpp"

namespace kfac::test::curvature_file {
namespace {

struct Setting {
  Rng rng{3};
  Sequential<Conv2d<double>, Tanh<double>, Flatten<double>, Linear<double>> model{
      Conv2d<double>({.in_channels = 2, .out_channels = 4, .kernel_size = {2, 2}, .groups = 2},
                     rng),
      Tanh<double>{}, Flatten<double>{}, Linear<double>(16, 3, rng, {.bias = false})};
  SoftmaxCrossEntropy<double> loss;
  Dataset<double> data{normal<double>(18, 12, rng), Labels(12)};

  Setting() {
    for (Index n = 0; n < data.examples(); ++n) data.targets(n) = static_cast<int>(n % 3);
  }
  CurvatureEstimate<double> estimate(CurvatureStructure structure) {
    return estimate_curvature(model, loss, slices(data, 5, {2, 3, 3}),
                              {.structure = structure,
                               .fisher = FisherType::MonteCarlo,
                               .samples = 2,
                               .seed = 0xffff'ffff'ffff'fff1});
  }
};

void require_equal(const CurvatureEstimate<double>& actual,
                   const CurvatureEstimate<double>& expected) {
  REQUIRE(actual.record == expected.record);
  REQUIRE(actual.blocks.size() == expected.blocks.size());
  for (std::size_t i = 0; i < actual.blocks.size(); ++i) {
    const BlockEstimate<double>& a = actual.blocks[i];
    const BlockEstimate<double>& b = expected.blocks[i];
    REQUIRE(a.block == b.block);
    REQUIRE(a.has_moments == b.has_moments);
    REQUIRE(a.factors.a == b.factors.a);
    REQUIRE(a.factors.g == b.factors.g);
    REQUIRE(a.diagonal == b.diagonal);
    REQUIRE(a.full == b.full);
    REQUIRE(a.eigen.grid() == b.eigen.grid());
    REQUIRE(a.eigen.input_basis().vectors == b.eigen.input_basis().vectors);
    REQUIRE(a.eigen.input_basis().values == b.eigen.input_basis().values);
    REQUIRE(a.eigen.output_basis().vectors == b.eigen.output_basis().vectors);
    REQUIRE(a.eigen.output_basis().values == b.eigen.output_basis().values);
  }
}

}  // namespace

TEST_CASE("Curvature files: an estimate of any structure comes back bit for bit") {
  Setting setting;
  const TemporaryFolder folder;
  for (const CurvatureStructure structure :
       {CurvatureStructure::Diagonal, CurvatureStructure::Kronecker, CurvatureStructure::Ekfac,
        CurvatureStructure::Full}) {
    const CurvatureEstimate<double> estimate = setting.estimate(structure);
    io::save_curvature(folder / "curvature.safetensors", estimate);
    require_equal(io::load_curvature(folder / "curvature.safetensors", setting.model), estimate);
    require_equal(io::load_curvature<double>(folder / "curvature.safetensors"), estimate);
  }
}

TEST_CASE("Curvature files: a stage that was saved goes on as if it had not been") {
  Setting setting;
  const TemporaryFolder folder;
  const auto batches = slices(setting.data, 5, {2, 3, 3});
  io::save_curvature(folder / "factors.safetensors",
                     setting.estimate(CurvatureStructure::Kronecker));
  CurvatureEstimate<double> resumed =
      io::load_curvature(folder / "factors.safetensors", setting.model);
  decompose(resumed);
  io::save_curvature(folder / "bases.safetensors", resumed);
  resumed = io::load_curvature(folder / "bases.safetensors", setting.model);
  fit_moments(resumed, setting.model, setting.loss, batches);
  require_equal(resumed, setting.estimate(CurvatureStructure::Ekfac));
}

TEST_CASE("Curvature files: the record and the names of layers are plain text in the metadata") {
  Setting setting;
  io::SafeTensors file;
  io::add_curvature(file, setting.estimate(CurvatureStructure::Kronecker));
  const std::string record = file.metadata().at("kfac.curvature.record");
  REQUIRE(record.find(R"("fisher":"monte-carlo")") != std::string::npos);
  REQUIRE(record.find(R"("seed":18446744073709551601)") != std::string::npos);
  REQUIRE(record.find(R"("sharing":"expand")") != std::string::npos);
  REQUIRE(record.find(R"("examples":12)") != std::string::npos);
  REQUIRE(file.contains("curvature/0/1/a"));
  REQUIRE(file.contains("curvature/3/g"));
}

TEST_CASE("Curvature files: what does not fit is refused, naming it") {
  Setting setting;
  const TemporaryFolder folder;
  const auto path = folder / "curvature.safetensors";
  const auto estimate = setting.estimate(CurvatureStructure::Kronecker);
  io::save_curvature(path, estimate);

  Rng rng(1);
  Sequential other(Linear<double>(18, 3, rng));
  REQUIRE(message_of<FileError>([&] {
            io::load_curvature(path, other);
          }).find("'estimate' has 3 blocks, expected 1 (file '") != std::string::npos);
  Sequential wider{
      Conv2d<double>({.in_channels = 2, .out_channels = 4, .kernel_size = {2, 2}, .groups = 2},
                     rng),
      Tanh<double>{}, Flatten<double>{}, Linear<double>(16, 5, rng, {.bias = false})};
  REQUIRE(message_of<FileError>([&] {
            io::load_curvature(path, wider);
          }).find("'estimate' has block '3', Linear 3x(16), expected '3', Linear 5x(16)") !=
          std::string::npos);

  const auto refused = [&](const auto& spoil) {
    io::SafeTensors file;
    io::add_curvature(file, estimate);
    spoil(file);
    return message_of<FileError>([&] { io::curvature_of<double>(file); });
  };
  REQUIRE(message_of<FileError>([] { io::curvature_of<double>(io::SafeTensors()); }) ==
          "kfac::io::curvature_of: 'kfac.curvature' is missing from the metadata, expected a file "
          "of curvature");
  REQUIRE(refused([](io::SafeTensors& file) { file.set_metadata("kfac.curvature", "7"); }) ==
          "kfac::io::curvature_of: 'kfac.curvature' is version 7, expected 1");
  REQUIRE(refused([](io::SafeTensors& file) {
            file.set_metadata("kfac.curvature.record", R"({"structure": "sparse"})");
          }) ==
          "kfac::io::curvature_of: 'structure' of kfac.curvature.record is 'sparse', expected "
          "one of 'diagonal', 'kronecker', 'ekfac', 'full'");
  REQUIRE(refused([](io::SafeTensors& file) { file.set_metadata("kfac.curvature.blocks", "["); }) ==
          "kfac::io::curvature_of: 'kfac.curvature.blocks' in the metadata is not JSON");

  io::SafeTensors half;
  half.set_metadata("kfac.curvature", "1");
  REQUIRE(message_of<FileError>([&] { io::curvature_of<double>(half); }) ==
          "kfac::io::curvature_of: 'kfac.curvature.record' is missing from the metadata, expected "
          "a file of curvature");
}

TEST_CASE("Curvature files: factors of another size, or not finite, are refused") {
  Setting setting;
  CurvatureEstimate<double> estimate = setting.estimate(CurvatureStructure::Kronecker);
  const auto refused = [&] {
    io::SafeTensors file;
    io::add_curvature(file, estimate);
    return message_of<FileError>([&] { io::curvature_of<double>(file); });
  };
  estimate.blocks[2].factors.g(0, 1) = std::numeric_limits<double>::infinity();
  REQUIRE(refused() ==
          "kfac::io::curvature_of: 'curvature/3/g' is not finite, expected finite numbers");
  estimate.blocks[2].factors.g = Matrix<double>::Identity(2, 2);
  REQUIRE(refused() == "kfac::io::curvature_of: 'curvature/3/g' is 2x2, expected 3x3");
  estimate.blocks[2].factors.g.resize(0, 0);
  REQUIRE(refused() == "kfac::io::curvature_of: 'curvature/3/' has one factor, expected both");
}

}  // namespace kfac::test::curvature_file
