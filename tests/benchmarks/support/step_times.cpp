#include "support/step_times.hpp"

#include <algorithm>

namespace benchmarks {

StepTimes::StepTimes(const Schedule& schedule, std::size_t periods) : schedule_(schedule) {
  periods_.reserve(periods);
}

void StepTimes::start_at(kfac::Index step) {
  first_ = step_ = step;
}

void StepTimes::add(double seconds, double cpu_seconds, const kfac::StepSeconds& parts) {
  const bool factors = step_ % schedule_.factor_every == 0;
  const bool inverses = step_ % schedule_.inverse_every == 0;
  Kind& kind = kinds_[(factors ? 1U : 0U) + (inverses ? 2U : 0U)];
  const bool is_first = kind.count++ == 0;
  if (is_first || seconds < kind.seconds) {
    kind.seconds = seconds;
    kind.parts = parts;
  }
  if (is_first || cpu_seconds < kind.cpu_seconds) kind.cpu_seconds = cpu_seconds;
  ++step_;
  period_seconds_ += seconds;
  if (++in_period_ < schedule_.period()) return;
  periods_.push_back(period_seconds_ / static_cast<double>(in_period_));
  in_period_ = 0;
  period_seconds_ = 0;
}

double StepTimes::median() const {
  std::vector<double> sorted = periods_;
  const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2);
  std::nth_element(sorted.begin(), middle, sorted.end());
  return *middle;
}

template <class Value>
double StepTimes::mean_of_kinds(Value value) const {
  double sum = 0;
  for (const Kind& kind : kinds_) sum += static_cast<double>(kind.count) * value(kind);
  return sum / static_cast<double>(steps());
}

double StepTimes::best() const {
  return mean_of_kinds([](const Kind& kind) { return kind.seconds; });
}

double StepTimes::best_cpu() const {
  return mean_of_kinds([](const Kind& kind) { return kind.cpu_seconds; });
}

kfac::StepSeconds StepTimes::best_parts() const {
  const auto mean = [this](double kfac::StepSeconds::*part) {
    return mean_of_kinds([part](const Kind& kind) { return kind.parts.*part; });
  };
  using Parts = kfac::StepSeconds;
  return {.forward = mean(&Parts::forward),
          .gradient = mean(&Parts::gradient),
          .factors = mean(&Parts::factors),
          .inverses = mean(&Parts::inverses),
          .precondition = mean(&Parts::precondition),
          .quadratic_model = mean(&Parts::quadratic_model),
          .evaluation = mean(&Parts::evaluation),
          .update = mean(&Parts::update)};
}

}  // namespace benchmarks
