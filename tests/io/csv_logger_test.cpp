#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <kfac/io/csv_logger.hpp>
#include <kfac/nn/activations.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/sequential.hpp>
#include <kfac/optim/fit.hpp>

#include "io/files.hpp"
#include "optim/scripted_training.hpp"
#include "support/catch.hpp"
#include "support/message_of.hpp"

namespace kfac::test::csv_logger_test {

namespace {

using io::CsvLogger;

auto network() {
  Rng rng(1);
  return Sequential{Linear<double>(2, 3, rng), Tanh<double>{}, Linear<double>(3, 2, rng)};
}

/// The rows of a file, as RFC 4180 has them.
std::vector<std::vector<std::string>> rows_of(const std::filesystem::path& path) {
  std::vector<std::vector<std::string>> rows(1, {""});
  bool quoted = false;
  const std::string bytes = read_bytes(path);
  REQUIRE(bytes.ends_with('\n'));
  for (std::size_t i = 0; i + 1 < bytes.size(); ++i) {
    const char letter = bytes[i];
    std::string& cell = rows.back().back();
    if (letter == '"' && quoted && bytes[i + 1] == '"') {
      cell += bytes[++i];
    } else if (letter == '"') {
      quoted = !quoted;
    } else if (letter == ',' && !quoted) {
      rows.back().emplace_back();
    } else if (letter == '\n' && !quoted) {
      rows.push_back({""});
    } else {
      cell += letter;
    }
  }
  for (const auto& row : rows) REQUIRE(row.size() == rows.front().size());
  return rows;
}

/// What a column holds in a row.
std::string at(const std::vector<std::vector<std::string>>& rows, std::size_t row,
               const std::string& column) {
  for (std::size_t i = 0; i < rows.front().size(); ++i)
    if (rows.front()[i] == column) return rows[row][i];
  return "no column " + column;
}

/// A report whose every number is another.
StepReport<double> full_report() {
  StepReport<double> report;
  report.loss = 1.0 / 3;
  report.new_loss = 0.1;
  report.learning_rate = 1e-300;
  report.momentum = 0.9;
  report.damping = 2e10;
  report.preconditioner_damping = 3;
  report.predicted_change = -4.5;
  report.reduction_ratio = 0.75;
  report.gradient_norm = 6;
  report.step_norm = 7;
  report.layer_gradient_norms = {8, 0, 9};
  report.layer_step_norms = {10, 0, 11};
  report.gradient_scale = 0.12;
  report.kl_scale = 0.13;
  report.norm_scale = 0.14;
  report.burn_in = true;
  report.rejected = false;
  report.shrinks = 15;
  report.seconds = {16, 17, 18, 19, 20, 21, 22, 23};
  return report;
}

}  // namespace

TEST_CASE("CsvLogger: writes every number of a report under its name", "[io]") {
  const TemporaryFolder folder;
  auto model = network();
  CsvLogger logger(folder / "run.csv", model);
  const StepReport<double> report = full_report();
  logger(TrainingEvent<double>{12, 3, false, 100, 0.5, report});
  const auto rows = rows_of(folder / "run.csv");  // while the logger is open
  REQUIRE(rows.size() == 2);
  const std::vector<std::pair<std::string, std::string>> expected{{"step", "12"},
                                                                  {"epoch", "3"},
                                                                  {"seconds", "0.5"},
                                                                  {"status", "ok"},
                                                                  {"failed_layer", ""},
                                                                  {"new_loss", "0.1"},
                                                                  {"learning_rate", "1e-300"},
                                                                  {"momentum", "0.9"},
                                                                  {"damping", "2e+10"},
                                                                  {"preconditioner_damping", "3"},
                                                                  {"predicted_change", "-4.5"},
                                                                  {"reduction_ratio", "0.75"},
                                                                  {"gradient_norm", "6"},
                                                                  {"step_norm", "7"},
                                                                  {"gradient_scale", "0.12"},
                                                                  {"kl_scale", "0.13"},
                                                                  {"norm_scale", "0.14"},
                                                                  {"burn_in", "1"},
                                                                  {"rejected", "0"},
                                                                  {"shrinks", "15"},
                                                                  {"seconds_forward", "16"},
                                                                  {"seconds_gradient", "17"},
                                                                  {"seconds_factors", "18"},
                                                                  {"seconds_inverses", "19"},
                                                                  {"seconds_precondition", "20"},
                                                                  {"seconds_quadratic_model", "21"},
                                                                  {"seconds_evaluation", "22"},
                                                                  {"seconds_update", "23"},
                                                                  {"gradient_norm of 0", "8"},
                                                                  {"gradient_norm of 2", "9"},
                                                                  {"step_norm of 0", "10"},
                                                                  {"step_norm of 2", "11"}};
  for (const auto& [column, value] : expected) {
    INFO(column);
    CHECK(at(rows, 1, column) == value);
  }
  CHECK(rows.front().size() == expected.size() + 1);
  CHECK(std::strtod(at(rows, 1, "loss").c_str(), nullptr) == 1.0 / 3);
}

TEST_CASE("CsvLogger: numbers are read back as they were, and NaN is empty", "[io][exact]") {
  const TemporaryFolder folder;
  auto model = network();
  CsvLogger logger(folder / "run.csv", model);
  Rng rng(5);
  std::vector<float> losses;
  for (Index step = 1; step <= 50; ++step) {
    StepReport<float> report;
    report.loss = static_cast<float>(rng.normal() * std::exp(20 * rng.normal()));
    losses.push_back(report.loss);
    logger(TrainingEvent<float>{step, 0, false, 50, 0, report});
  }
  const auto rows = rows_of(folder / "run.csv");
  REQUIRE(rows.size() == 51);
  for (std::size_t i = 0; i < losses.size(); ++i) {
    CHECK(std::strtof(at(rows, i + 1, "loss").c_str(), nullptr) == losses[i]);
    CHECK(at(rows, i + 1, "new_loss").empty());
    CHECK(at(rows, i + 1, "reduction_ratio").empty());
    CHECK(at(rows, i + 1, "step_norm of 2").empty());  // of an optimizer that gives none
  }
}

TEST_CASE("CsvLogger: a failed step has its reason and layer, quoted where it has to be", "[io]") {
  const TemporaryFolder folder;
  auto model = network();
  StepReport<double> report;
  report.status = StepStatus::NonFiniteGradient;
  report.layer = "encoder, the \"first\"\nlayer";
  report.loss = std::numeric_limits<double>::infinity();
  // Also where its step would have no row.
  CsvLogger logger(folder / "run.csv", model, {.every = 10});
  logger(TrainingEvent<double>{3, 0, false, 0, 0, report});
  const auto rows = rows_of(folder / "run.csv");
  REQUIRE(rows.size() == 2);
  CHECK(at(rows, 1, "status") == "the gradient is not finite");
  CHECK(at(rows, 1, "failed_layer") == report.layer);
  CHECK(at(rows, 1, "loss") == "inf");
}

TEST_CASE("CsvLogger: every so many steps, from the callback of a training loop", "[io]") {
  const TemporaryFolder folder;
  auto model = network();
  const auto data = blank_examples(10);
  BatchStream stream(data, 4, Rng(1));
  ScriptedOptimizer optimizer({5, 4, 3, 2, 1});
  fit(optimizer, stream, {.steps = 6}, CsvLogger(folder / "run.csv", model, {.every = 2}));
  const auto rows = rows_of(folder / "run.csv");
  REQUIRE(rows.size() == 4);
  CHECK(at(rows, 1, "step") == "2");
  CHECK(at(rows, 2, "loss") == "2");
  CHECK(at(rows, 3, "epoch") == "1");
}

TEST_CASE("CsvLogger: begins a file anew, or adds to one without another header", "[io]") {
  const TemporaryFolder folder;
  auto model = network();
  const auto data = blank_examples(10);
  const auto rows_after = [&](bool append) {
    BatchStream stream(data, 4, Rng(1));
    ScriptedOptimizer optimizer;
    fit(optimizer, stream, {.steps = 3}, CsvLogger(folder / "run.csv", model, {.append = append}));
    return rows_of(folder / "run.csv").size();
  };
  CHECK(rows_after(true) == 4);
  CHECK(rows_after(true) == 7);
  CHECK(rows_after(false) == 4);
}

TEST_CASE("CsvLogger: what cannot be written is a FileError that names it", "[io][error]") {
  const TemporaryFolder folder;
  auto model = network();
  const std::string missing = (folder / "none" / "run.csv").string();
  CHECK(message_of<FileError>([&] { CsvLogger(missing, model); }) ==
        "kfac::io::CsvLogger: '" + missing + "' cannot be opened for writing");
  if (std::ofstream("/dev/full"))
    CHECK(message_of<FileError>([&] { CsvLogger("/dev/full", model); }) ==
          "kfac::io::CsvLogger: '/dev/full' could not be written");
  CHECK(message_of<OptionError>([&] { CsvLogger(folder / "run.csv", model, {.every = 0}); }) ==
        "kfac::io::CsvLogger: 'every' is 0, expected >= 1");
  CHECK_FALSE(std::filesystem::exists(folder / "run.csv"));
}

}  // namespace kfac::test::csv_logger_test
