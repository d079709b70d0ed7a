#include "support/curvature_study.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <cstddef>
#include <ostream>
#include <stdexcept>

#include <Eigen/Eigenvalues>

#include "support/table.hpp"

namespace examples {

using kfac::Index;

namespace {

constexpr int kDigits = 3;
/// Eigenvalues and entries this far below the largest are rounding, or drawn as if they were.
constexpr double kSpectrumRange = 1e-8;
constexpr double kHeatMapRange = 1e-3;

/// Largest first; what rounding made negative is 0.
Eigen::VectorXd eigenvalues(const Eigen::MatrixXd& matrix) {
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(matrix, Eigen::EigenvaluesOnly);
  return solver.eigenvalues().reverse().cwiseMax(0.0);
}

/// The number n for which 10^n is the power of ten at or below the value.
int decade(double value) {
  return static_cast<int>(std::floor(std::log10(value)));
}

/// "1e-3".
std::string power_of_ten(int exponent) {
  return "1e" + std::to_string(exponent);
}

std::string relative_error(const Eigen::MatrixXd& approximation, const Eigen::MatrixXd& exact) {
  return fixed((approximation - exact).norm() / exact.norm(), kDigits);
}

/// The blocks along the diagonal of a matrix of the whole network's size.
Eigen::MatrixXd assembled(const CurvatureStudy& study, const Approximation& approximation) {
  Eigen::MatrixXd whole = Eigen::MatrixXd::Zero(study.exact.rows(), study.exact.cols());
  for (std::size_t i = 0; i < study.layers.size(); ++i) {
    const auto& layer = study.layers[i];
    whole.block(layer.first, layer.first, layer.size, layer.size) = approximation.blocks[i];
  }
  return whole;
}

/// One line of a table of spectra. Counts are whole numbers unless they are estimates.
struct Spectrum {
  std::string name;
  Eigen::VectorXd values;   ///< largest first
  Eigen::VectorXd weights;  ///< how many eigenvalues each stands for
  bool is_estimate = false;
};

Spectrum spectrum_of(const std::string& name, const Eigen::VectorXd& values) {
  return {name, values, Eigen::VectorXd::Ones(values.size())};
}

/// The number of eigenvalues from `low` to below `high`.
std::string count_between(const Spectrum& spectrum, double low, double high) {
  double count = 0;
  for (Index i = 0; i < spectrum.values.size(); ++i)
    if (spectrum.values(i) >= low && spectrum.values(i) < high) count += spectrum.weights(i);
  if (count == 0) return ".";
  return (spectrum.is_estimate ? "~" : "") + fixed(count, 0);
}

void print_spectrum_table(std::ostream& out, const std::vector<Spectrum>& spectra) {
  static constexpr std::array<Index, 4> kRanks{1, 2, 5, 20};
  double largest = 0;
  for (const Spectrum& spectrum : spectra) largest = std::max(largest, spectrum.values.maxCoeff());
  const int top = largest > 0 ? decade(largest) : 0;
  const int bottom = top + static_cast<int>(std::round(std::log10(kSpectrumRange)));

  std::vector<std::string> decades;
  for (int power = top; power >= bottom; --power) decades.push_back(power_of_ten(power));
  decades.emplace_back("below");
  Table table;
  table.add_columns("", {""});
  table.add_columns("", {"trace"});
  table.add_columns("the n-th largest eigenvalue", {"n = 1", "2", "5", "20"});
  table.add_columns("how many are at least ..., and below ten times that", decades);
  for (const Spectrum& spectrum : spectra) {
    std::vector<std::string> row{spectrum.name,
                                 significant(spectrum.values.dot(spectrum.weights), kDigits)};
    for (const Index rank : kRanks)
      row.push_back(rank > spectrum.values.size() || (spectrum.is_estimate && rank > 1)
                        ? ""
                        : significant(spectrum.values(rank - 1), kDigits));
    for (int power = top; power >= bottom; --power)
      row.push_back(count_between(spectrum, std::pow(10.0, power), std::pow(10.0, power + 1)));
    row.push_back(count_between(spectrum, -1, std::pow(10.0, bottom)));
    table.add_row(row);
  }
  out << table;
}

/// Those of Lanczos, largest first.
Spectrum lanczos_spectrum(const CurvatureStudy& study) {
  const auto& nodes = study.lanczos.nodes;
  std::vector<Index> order(static_cast<std::size_t>(nodes.size()));
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<Index>(i);
  std::sort(order.begin(), order.end(), [&](Index i, Index j) { return nodes(i) > nodes(j); });
  const auto size = static_cast<double>(study.lanczos.size);
  return {"Lanczos", nodes(order).cwiseMax(0.0), size * study.lanczos.weights(order), true};
}

std::string parameters(Index count) {
  return std::to_string(count) + " parameters";
}

Colour colour_of(const std::string& approximation) {
  if (approximation == "diagonal") return Colour::Orange;
  if (approximation.starts_with("K-FAC")) return Colour::SkyBlue;
  if (approximation == "EKFAC") return Colour::Green;
  if (approximation == "KFOC") return Colour::Blue;
  if (approximation == "TNT") return Colour::Vermilion;
  return Colour::Black;
}

/// A block with all parameters of the first output first, and so on. (Blocks have [W b] stacked by
/// columns.)
Eigen::MatrixXd by_outputs(const Eigen::MatrixXd& block, Index outputs) {
  std::vector<Index> order;
  for (Index output = 0; output < outputs; ++output)
    for (Index i = output; i < block.rows(); i += outputs) order.push_back(i);
  return block(order, order);
}

Panel heat_panel(const std::string& title, const CurvatureStudy::Layer& layer,
                 const Eigen::MatrixXd& block, double largest) {
  Panel panel{.title = title};
  panel.title.front() = static_cast<char>(std::toupper(panel.title.front()));
  panel.x_label = "parameter: " + std::to_string(layer.outputs) + " outputs, " +
                  std::to_string(layer.size / layer.outputs) + " parameters each";
  panel.heat_map = HeatMap{by_outputs(block, layer.outputs), kHeatMapRange * largest, largest};
  return panel;
}

/// Eigenvalue over rank, where it is above rounding.
Series spectrum_series(const std::string& name, Colour colour, const Eigen::MatrixXd& matrix) {
  const Eigen::VectorXd values = eigenvalues(matrix);
  Series series{name, colour, Series::Style::Line};
  series.points.resize(2, (values.array() > kSpectrumRange * values(0)).count());
  for (Index i = 0; i < series.points.cols(); ++i)
    series.points.col(i) << static_cast<double>(i + 1), values(i);
  return series;
}

/// The same of Lanczos, whose nodes stand for several eigenvalues each: at the middle one's rank.
Series lanczos_series(const CurvatureStudy& study) {
  const Spectrum spectrum = lanczos_spectrum(study);
  Series series{"Lanczos, " + std::to_string(study.lanczos_products) + " products",
                Colour::Vermilion, Series::Style::LinePoints};
  series.points.resize(2, spectrum.values.size());
  double before = 0;
  for (Index i = 0; i < spectrum.values.size(); ++i) {
    series.points.col(i) << std::max(1.0, before + (1 + spectrum.weights(i)) / 2),
        spectrum.values(i);
    before += spectrum.weights(i);
  }
  return series;
}

Panel spectrum_panel(const std::string& title, const std::vector<Series>& series) {
  return {.title = title,
          .x_label = "rank",
          .y_label = "eigenvalue",
          .logarithmic_x = true,
          .logarithmic_y = true,
          .series = series};
}

Panel iterations_panel(const CurvatureStudy& study) {
  Panel panel{.title = "CG iterations with each preconditioner",
              .x_label = "damping",
              .y_label = "iterations",
              .logarithmic_x = true,
              .logarithmic_y = true};
  for (const Solves& solves : study.solves) {
    const std::string& name = solves.preconditioner;
    Series series{name, colour_of(name),
                  name == "exact block" || name == "K-FAC (split)" ? Series::Style::Dashed
                                                                   : Series::Style::Line,
                  Eigen::Matrix2Xd(2, static_cast<Index>(study.dampings.size()))};
    for (std::size_t j = 0; j < study.dampings.size(); ++j)
      series.points.col(static_cast<Index>(j)) << study.dampings[j],
          static_cast<double>(solves.at_dampings[j].iterations);
    panel.series.push_back(series);
  }
  return panel;
}

/// A row for each preconditioner and a column for each damping.
template <class Cell>
void print_by_damping(std::ostream& out, const CurvatureStudy& study, Cell&& cell) {
  std::vector<std::string> dampings;
  for (const double damping : study.dampings) dampings.push_back(significant(damping, kDigits));
  Table table;
  table.add_columns("", {"preconditioner"});
  table.add_columns("damping", dampings);
  for (const Solves& solves : study.solves) {
    std::vector<std::string> row{solves.preconditioner};
    for (std::size_t j = 0; j < study.dampings.size(); ++j) row.push_back(cell(solves, j));
    table.add_row(row);
  }
  out << table;
}

}  // namespace

void print_errors(std::ostream& out, const CurvatureStudy& study) {
  std::vector<std::string> names;
  for (const Approximation& approximation : study.approximations)
    names.push_back(approximation.name);
  Table table;
  table.add_columns("", {"layer", "parameters"});
  table.add_columns("relative error of", names);
  for (std::size_t i = 0; i < study.layers.size(); ++i) {
    const auto& layer = study.layers[i];
    const Eigen::MatrixXd exact = study.exact_block(layer);
    std::vector<std::string> row{layer.name, std::to_string(layer.size)};
    for (const Approximation& approximation : study.approximations)
      row.push_back(relative_error(approximation.blocks[i], exact));
    table.add_row(row);
  }
  std::vector<std::string> row{"whole network", std::to_string(study.exact.rows())};
  for (const Approximation& approximation : study.approximations)
    row.push_back(relative_error(assembled(study, approximation), study.exact));
  table.add_row(row);
  out << table;
}

void print_spectra(std::ostream& out, const CurvatureStudy& study) {
  for (std::size_t i = 0; i < study.layers.size(); ++i) {
    const auto& layer = study.layers[i];
    std::vector<Spectrum> spectra{spectrum_of("exact", eigenvalues(study.exact_block(layer)))};
    for (std::size_t j = 1; j < study.approximations.size(); ++j)
      spectra.push_back(spectrum_of(study.approximations[j].name,
                                    eigenvalues(study.approximations[j].blocks[i])));
    out << layer.name << ", " << parameters(layer.size) << '\n';
    print_spectrum_table(out, spectra);
    out << '\n';
  }
  out << "whole network, " << parameters(study.exact.rows()) << '\n';
  print_spectrum_table(out,
                       {spectrum_of("exact", eigenvalues(study.exact)), lanczos_spectrum(study)});
}

void print_first_steps(std::ostream& out, const CurvatureStudy& study) {
  print_by_damping(out, study, [](const Solves& solves, std::size_t damping) {
    return fixed(solves.first_steps[damping], kDigits);
  });
}

void print_iterations(std::ostream& out, const CurvatureStudy& study) {
  print_by_damping(out, study, [](const Solves& solves, std::size_t damping) {
    const auto& result = solves.at_dampings[damping];
    const bool done = result.status == kfac::linalg::KrylovStatus::Converged;
    return (done ? "" : "> ") + std::to_string(result.iterations);
  });
}

std::vector<Panel> curvature_panels(const CurvatureStudy& study, std::size_t index) {
  const auto& layer = study.layers[index];
  const Eigen::MatrixXd exact = study.exact_block(layer);
  const double largest = exact.cwiseAbs().maxCoeff();
  if (!(largest > 0))
    throw std::runtime_error("--layer: the curvature of layer " + layer.name +
                             " is zero, expected one that can be drawn");
  std::vector<Panel> panels{heat_panel("Exact block of " + layer.name, layer, exact, largest)};
  std::vector<Series> spectra{spectrum_series("exact", Colour::Black, exact)};
  for (std::size_t j = 1; j < study.approximations.size(); ++j) {
    const auto& [name, blocks] = study.approximations[j];
    panels.push_back(heat_panel(name + ", relative error " + relative_error(blocks[index], exact),
                                layer, blocks[index], largest));
    spectra.push_back(spectrum_series(name, colour_of(name), blocks[index]));
  }
  panels.push_back(spectrum_panel("Eigenvalues of " + layer.name, spectra));
  panels.push_back(spectrum_panel(
      "Eigenvalues of the whole network",
      {spectrum_series("exact", Colour::Black, study.exact), lanczos_series(study)}));
  panels.push_back(iterations_panel(study));
  return panels;
}

}  // namespace examples
