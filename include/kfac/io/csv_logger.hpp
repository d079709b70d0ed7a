#pragma once

#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <ios>
#include <string>
#include <system_error>
#include <type_traits>
#include <vector>

#include <kfac/core/errors.hpp>
#include <kfac/nn/layer.hpp>
#include <kfac/optim/callbacks.hpp>

namespace kfac::io {
namespace detail {

/// Writes one row of comma-separated values (RFC 4180, with plain line ends) after another.
class CsvWriter {
 public:
  /// \throws FileError
  CsvWriter(const std::filesystem::path& path, bool append)
      : path_(path.string()),
        stream_(path, std::ios::binary | (append ? std::ios::app : std::ios::trunc)) {
    if (!stream_) fail("cannot be opened for writing");
  }

  /// Quoted where it has to be.
  void add(const std::string& text) {
    begin_cell();
    if (text.find_first_of(",\"\r\n") == std::string::npos) {
      row_ += text;
      return;
    }
    row_ += '"';
    for (const char letter : text) row_ += letter == '"' ? "\"\"" : std::string(1, letter);
    row_ += '"';
  }
  void add(const char* text) { add(std::string(text)); }
  /// With the digits that tell it from all others, whatever the locale; empty for NaN.
  template <class Number>
    requires std::is_arithmetic_v<Number>
  void add(Number value) {
    begin_cell();
    if constexpr (std::is_same_v<Number, bool>) {
      row_ += value ? '1' : '0';
    } else {
      if constexpr (std::is_floating_point_v<Number>)
        if (std::isnan(value)) return;
      std::array<char, 32> digits{};
      const auto written = std::to_chars(digits.data(), digits.data() + digits.size(), value);
      row_.append(digits.data(), written.ptr);
    }
  }

  /// The row is in the file when this returns. \throws FileError
  void end_row() {
    row_ += '\n';
    stream_ << row_ << std::flush;
    row_.clear();
    at_start_ = true;
    if (!stream_) fail("could not be written");
  }

 private:
  [[noreturn]] void fail(const std::string& problem) const {
    raise<FileError>("kfac::io::CsvLogger: '" + path_ + "' " + problem);
  }
  void begin_cell() {
    if (!at_start_) row_ += ',';
    at_start_ = false;
  }

  std::string path_;
  std::ofstream stream_;
  std::string row_;
  bool at_start_ = true;
};

}  // namespace detail

struct CsvLoggerOptions {
  Index every = 1;  ///< steps between rows; >= 1. A step that failed always has one.
  /// Adds to a file that has something in it already, and then writes no header: for runs that are
  /// resumed. Else the file begins anew.
  bool append = false;
};

/// A callback for `fit` that writes all that the reports say to a file of comma-separated values, a
/// row a step, with a header: also each layer's norms, for the layers that have parameters. What a
/// step had no use for is empty.
///
///     kfac::fit(optimizer, stream, {.epochs = 5}, kfac::io::CsvLogger("run.csv", model));
class CsvLogger {
 public:
  /// \throws OptionError; FileError if the file cannot be written
  template <class Model>
  CsvLogger(const std::filesystem::path& path, Model& model, CsvLoggerOptions options = {})
      : options_((validate(options), options)),
        has_header_(options.append && holds_something(path)),
        file_(path, options.append) {
    std::size_t index = 0;
    for (const auto& layer : model.layers()) {
      if (layer.parameters.size() > 0) {
        layers_.push_back(index);
        names_.push_back(layer.name);
      }
      ++index;
    }
    if (!has_header_) write_header();
  }

  /// \throws FileError if the row cannot be written
  template <RealScalar S>
  void operator()(const TrainingEvent<S>& event) {
    const StepReport<S>& report = event.report;
    if (event.step % options_.every != 0 && report.ok()) return;
    file_.add(event.step);
    file_.add(event.epoch);
    file_.add(event.seconds);
    file_.add(report.ok() ? "ok" : describe(report.status));
    file_.add(report.layer);
    for_each_number(report, [&](const char*, auto value) { file_.add(value); });
    const auto add_norms = [&](const std::vector<S>& norms) {
      for (const std::size_t layer : layers_)
        file_.add(layer < norms.size() ? norms[layer] : StepReport<S>::kNone);
    };
    add_norms(report.layer_gradient_norms);
    add_norms(report.layer_step_norms);
    file_.end_row();
  }

 private:
  static void validate(const CsvLoggerOptions& options) {
    kfac::detail::check_option(options.every >= 1, "kfac::io::CsvLogger", "every", options.every,
                               ">= 1");
  }
  static bool holds_something(const std::filesystem::path& path) {
    std::error_code missing;
    const auto size = std::filesystem::file_size(path, missing);
    return !missing && size > 0;
  }

  /// Calls `body(name, value)` for every number of a report that is not a layer's.
  template <RealScalar S, class Body>
  static void for_each_number(const StepReport<S>& report, Body&& body) {
    body("loss", report.loss);
    body("new_loss", report.new_loss);
    body("learning_rate", report.learning_rate);
    body("momentum", report.momentum);
    body("damping", report.damping);
    body("preconditioner_damping", report.preconditioner_damping);
    body("predicted_change", report.predicted_change);
    body("reduction_ratio", report.reduction_ratio);
    body("gradient_norm", report.gradient_norm);
    body("step_norm", report.step_norm);
    body("gradient_scale", report.gradient_scale);
    body("kl_scale", report.kl_scale);
    body("norm_scale", report.norm_scale);
    body("burn_in", report.burn_in);
    body("rejected", report.rejected);
    body("shrinks", report.shrinks);
    body("seconds_forward", report.seconds.forward);
    body("seconds_gradient", report.seconds.gradient);
    body("seconds_factors", report.seconds.factors);
    body("seconds_inverses", report.seconds.inverses);
    body("seconds_precondition", report.seconds.precondition);
    body("seconds_quadratic_model", report.seconds.quadratic_model);
    body("seconds_evaluation", report.seconds.evaluation);
    body("seconds_update", report.seconds.update);
  }

  void write_header() {
    for (const char* name : {"step", "epoch", "seconds", "status", "failed_layer"}) file_.add(name);
    for_each_number(StepReport<double>{}, [&](const char* name, auto) { file_.add(name); });
    for (const char* what : {"gradient_norm of ", "step_norm of "})
      for (const std::string& name : names_) file_.add(what + name);
    file_.end_row();
  }

  CsvLoggerOptions options_;
  bool has_header_;
  detail::CsvWriter file_;
  std::vector<std::size_t> layers_;  // those with parameters
  std::vector<std::string> names_;   // theirs
};

}  // namespace kfac::io
