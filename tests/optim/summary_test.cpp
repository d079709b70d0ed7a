#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include <kfac/curvature/diagonal_block.hpp>
#include <kfac/curvature/ekfac_block.hpp>
#include <kfac/curvature/full_block.hpp>
#include <kfac/curvature/preconditioner.hpp>
#include <kfac/nn/conv.hpp>
#include <kfac/nn/flatten.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/sequential.hpp>
#include <kfac/optim/summary.hpp>

#include "support/catch.hpp"
#include "support/eigensolver.hpp"

namespace kfac::test::summary_test {

namespace {

using Cells = std::vector<std::string>;

/// The cells of each row: in a column they all begin where the header's name does.
std::vector<Cells> cells_of(const std::string& table) {
  std::vector<std::string> lines;
  std::istringstream stream(table);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  REQUIRE_FALSE(lines.empty());
  std::vector<std::size_t> begins;
  for (std::size_t i = 0; i < lines[0].size(); ++i)
    if (lines[0][i] != ' ' && (i == 0 || lines[0][i - 1] == ' ')) begins.push_back(i);
  std::vector<Cells> rows;
  for (const std::string& line : lines) {
    CHECK(line.back() != ' ');
    rows.emplace_back();
    for (std::size_t j = 0; j < begins.size() && begins[j] < line.size(); ++j) {
      const std::size_t end = j + 1 < begins.size() ? begins[j + 1] : std::string::npos;
      const std::string cell = line.substr(begins[j], end - begins[j]);
      rows.back().push_back(cell.substr(0, cell.find_last_not_of(' ') + 1));
    }
  }
  return rows;
}

/// As `KfacOptimizer::summary` has it.
template <class Model>
std::string summary_of(Model& model, const std::vector<LayerGroup<double>>& groups,
                       const BlockFactory<double>& blocks) {
  const Preconditioner<double> preconditioner(model, {.groups = groups}, blocks);
  std::vector<const LayerGroup<double>*> of_layers;
  for (const LayerView<double>& layer : model.layers())
    of_layers.push_back(group_of(layer, preconditioner.options().groups));
  return summary(model.layers(), preconditioner.layers(), of_layers);
}

}  // namespace

TEST_CASE("summary: three digits and a prefix") {
  using kfac::detail::si_text;
  CHECK(si_text(0) == "0");
  CHECK(si_text(7) == "7");
  CHECK(si_text(22.5) == "22.5");
  CHECK(si_text(1.125) == "1.12");
  CHECK(si_text(123.4) == "123");
  CHECK(si_text(999) == "999");
  CHECK(si_text(999.4) == "999");
  CHECK(si_text(999.5) == "1.00 k");
  CHECK(si_text(1000) == "1.00 k");
  CHECK(si_text(9994) == "9.99 k");
  CHECK(si_text(9996) == "10.0 k");
  CHECK(si_text(12345) == "12.3 k");
  CHECK(si_text(99960) == "100 k");
  CHECK(si_text(4.21e6) == "4.21 M");
  CHECK(si_text(2.5e9) == "2.50 G");
  CHECK(si_text(7e12) == "7.00 T");
  CHECK(si_text(1.5e16) == "15000 T");
}

TEST_CASE("summary: every layer with parameters, how it is stepped, and what that costs") {
  Rng rng(1);
  Sequential model{Conv2d<double>({.in_channels = 4, .out_channels = 6, .groups = 2}, rng),
                   Flatten<double>{},
                   Linear<double>(24, 20, rng),
                   Linear<double>(20, 10, rng, {.bias = false}),
                   Linear<double>(10, 10, rng),
                   Linear<double>(10, 3, rng),
                   Linear<double>(3, 2, rng),
                   Linear<double>(2, 2, rng)};
  const std::vector<LayerGroup<double>> groups{
      {.contains = layers_named({"3"}), .precondition = false},
      {.contains = layers_named({"4"}), .blocks = block_factory<DiagonalBlock<double>>()},
      {.contains = layers_named({"5"}), .blocks = block_factory<EkfacBlock<double>>()},
      {.contains = layers_named({"6"}), .blocks = block_factory<FullBlock<double>>()}};
  const BlockFactory<double> blocks = [](const auto& layer, const auto& options) {
    return layer.name == "7" ? nullptr : block_factory<KroneckerBlock<double>>()(layer, options);
  };
  const std::vector<Cells> rows = cells_of(summary_of(model, groups, blocks));

  // For K-FAC, bytes 8 (3 a^2 + a + 3 g^2 + g): A and G as triangles of running averages and of
  // sums, and small inverses as two squares; update (a^2 + g^2) / 2; inverse (a^3
  // + g^3) / 3; precondition a g (a + g).
  REQUIRE(rows.size() == 9);
  CHECK(rows[0] == Cells{"layer", "kind", "shape", "parameters", "block", "factors", "bytes",
                         "update", "inverse", "precondition"});
  // 2 groups of a = 2 * 9 + 1 and g = 3.
  CHECK(rows[1] == Cells{"0", "Conv2d", rows[1][2], "114", "K-FAC", "2 of A 19x19, G 3x3",
                         "18.1 k",    // 2 * 8 (1102 + 30) = 18112
                         "370",       // 2 * 370 / 2
                         "4.59 k",    // 2 * 6886 / 3 = 4590.7
                         "2.51 k"});  // 2 * 57 * 22 = 2508
  CHECK(rows[2] == Cells{"2", "Linear", "20x24 + 20", "500", "K-FAC", "A 25x25, G 20x20",
                         "25.0 k",    // 8 (1900 + 1220) = 24960
                         "512",       // 512.5, to even
                         "7.88 k",    // (15625 + 8000) / 3 = 7875
                         "22.5 k"});  // 500 * 45
  CHECK(rows[3] == Cells{"3", "Linear", "10x20", "200", "plain gradient (by its group)"});
  CHECK(rows[4] == Cells{"4", "Linear", "10x10 + 10", "110", "diagonal", "diagonal of 110",
                         "4.40 k",  // 5 * 110 * 8
                         "110", "110", "110"});
  CHECK(rows[5] == Cells{"5", "Linear", "3x10 + 3", "33", "EKFAC", "A 11x11, G 3x3",
                         // 8 (4 a^2 + a + 4 g^2 + g + 5 a g) = 8 (495 + 39 + 165)
                         "5.59 k",
                         "228",     // 1.5 (a^2 + g^2) + a g = 195 + 33
                         "12.2 k",  // 9 (a^3 + g^3) = 9 (1331 + 27) = 12222
                         "924"});   // 2 a g (a + g) = 66 * 14
  CHECK(rows[6] == Cells{"6", "Linear", "2x3 + 2", "8", "full", "C 8x8",
                         "2.11 k",  // 8 (4 * 64 + 8)
                         "32", "256", "64"});
  CHECK(rows[7] == Cells{"7", "Linear", "2x2 + 2", "6", "plain gradient (no block)"});
  // 18112 + 24960 + 4400 + 5592 + 2112; 370 + 512.5 + 110 + 228 + 32; 4590.7 + 7875 + 110 + 12222
  // + 256; 2508 + 22500 + 110 + 924 + 64.
  CHECK(rows[8] == Cells{"all", "", "", "971", "", "", "55.2 k", "1.25 k", "25.1 k", "26.1 k"});
}

TEST_CASE("summary: a model without any curvature") {
  Rng rng(2);
  Sequential model{Linear<double>(2, 3, rng)};
  const std::vector<Cells> rows = cells_of(summary_of(
      model, {},
      [](const auto&, const auto&) -> std::unique_ptr<CurvatureBlock<double>> { return nullptr; }));
  REQUIRE(rows.size() == 3);
  CHECK(rows[1] == Cells{"0", "Linear", "3x2 + 3", "9", "plain gradient (no block)"});
  CHECK(rows[2] == Cells{"all", "", "", "9", "", "", "0", "0", "0", "0"});
}

}  // namespace kfac::test::summary_test
