#include "support/tuning_columns.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "support/table.hpp"

namespace examples {

using Report = kfac::StepReport<float>;

namespace {

std::vector<double> values(const TuningOutcome& outcome, const Statistic& statistic) {
  std::vector<double> result;
  for (const Report& report : outcome.reports) {
    const double value = statistic(report);
    if (report.ok() && !report.burn_in && !std::isnan(value)) result.push_back(value);
  }
  return result;
}

std::string text(double value) {
  return significant(value, 2);
}

double total_seconds(const Report& report) {
  return report.seconds.total();
}
double gradient_seconds(const Report& report) {
  return report.seconds.forward + report.seconds.gradient;
}

double sum(const TuningOutcome& outcome, const Statistic& statistic) {
  double result = 0;
  for (const Report& report : outcome.reports) result += statistic(report);
  return result;
}

TuningColumn mean_milliseconds(const std::string& name, const Statistic& seconds) {
  return {name, [=](const TuningOutcome& outcome) {
            const double mean = sum(outcome, seconds) / static_cast<double>(outcome.reports.size());
            return fixed(1e3 * mean, 2);
          }};
}

template <class Predicate>
TuningColumn count(const std::string& name, Predicate predicate) {
  return {name, [=](const TuningOutcome& outcome) {
            return std::to_string(
                std::count_if(outcome.reports.begin(), outcome.reports.end(), predicate));
          }};
}

}  // namespace

double kl_scale(const Report& report) {
  return static_cast<double>(report.kl_scale);
}
double rho(const Report& report) {
  return static_cast<double>(report.reduction_ratio);
}
double damping(const Report& report) {
  return static_cast<double>(report.damping);
}
double learning_rate(const Report& report) {
  return static_cast<double>(report.learning_rate);
}
double step_norm(const Report& report) {
  return static_cast<double>(report.step_norm);
}
Statistic step_norm_of_layer(std::size_t index) {
  return
      [index](const Report& report) { return static_cast<double>(report.layer_step_norms[index]); };
}
double share_of_gradient_descent(const Report& report) {
  return static_cast<double>(report.step_norm * report.damping /
                             (report.learning_rate * report.kl_scale * report.gradient_norm));
}

TuningColumn quantile(const std::string& name, double share, const Statistic& statistic) {
  return {name, [=](const TuningOutcome& outcome) {
            std::vector<double> all = values(outcome, statistic);
            if (all.empty()) return std::string();
            std::sort(all.begin(), all.end());
            const auto rank = static_cast<std::size_t>(share * static_cast<double>(all.size()));
            return text(all[std::min(rank, all.size() - 1)]);
          }};
}
TuningColumn median(const std::string& name, const Statistic& statistic) {
  return quantile(name, 0.5, statistic);
}
TuningColumn smallest(const std::string& name, const Statistic& statistic) {
  return quantile(name, 0, statistic);
}
TuningColumn largest(const std::string& name, const Statistic& statistic) {
  return quantile(name, 1, statistic);
}
TuningColumn first(const std::string& name, const Statistic& statistic) {
  return {name, [=](const TuningOutcome& outcome) {
            const std::vector<double> all = values(outcome, statistic);
            return all.empty() ? std::string() : text(all.front());
          }};
}
TuningColumn last(const std::string& name, const Statistic& statistic) {
  return {name, [=](const TuningOutcome& outcome) {
            const std::vector<double> all = values(outcome, statistic);
            return all.empty() ? std::string() : text(all.back());
          }};
}

TuningColumn milliseconds(const std::string& name) {
  return mean_milliseconds(name, total_seconds);
}
TuningColumn times_gradient() {
  return {"x gradient", [](const TuningOutcome& outcome) {
            return fixed(sum(outcome, total_seconds) / sum(outcome, gradient_seconds), 1);
          }};
}
TuningColumn milliseconds_of_gradient() {
  return mean_milliseconds("gradient", gradient_seconds);
}
TuningColumn milliseconds_of_factors() {
  return mean_milliseconds("factors", [](const Report& report) { return report.seconds.factors; });
}
TuningColumn milliseconds_of_inverses() {
  return mean_milliseconds("inverses",
                           [](const Report& report) { return report.seconds.inverses; });
}
TuningColumn long_inverses() {
  return quantile("longest", 0.98,
                  [](const Report& report) { return 1e3 * report.seconds.inverses; });
}

TuningColumn step_count() {
  return count("steps", [](const Report&) { return true; });
}
TuningColumn failed_steps() {
  return count("failed", [](const Report& report) { return !report.ok(); });
}
TuningColumn shortened_steps() {
  return count("shortened",
               [](const Report& report) { return report.shrinks > 0 && !report.rejected; });
}
TuningColumn rejected_steps() {
  return count("rejected", [](const Report& report) { return report.rejected; });
}
TuningColumn status() {
  return {"ended", [](const TuningOutcome& outcome) {
            return std::string(describe(outcome.reports.back().status));
          }};
}
TuningColumn training_loss() {
  return {"training loss",
          [](const TuningOutcome& outcome) { return text(outcome.evaluations.back().loss); }};
}
TuningColumn held_out_loss() {
  return {"held-out loss", [](const TuningOutcome& outcome) {
            return fixed(outcome.evaluations.back().held_out_loss, 3);
          }};
}
TuningColumn held_out_accuracy() {
  return {"accuracy", [](const TuningOutcome& outcome) {
            return fixed(outcome.evaluations.back().held_out_accuracy, 3);
          }};
}

}  // namespace examples
