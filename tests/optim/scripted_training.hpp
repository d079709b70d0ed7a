#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

#include <kfac/data/batch_stream.hpp>
#include <kfac/optim/step_report.hpp>

/// What training loops and their callbacks are tested with: an optimizer that only reports.
namespace kfac::test {

/// Reports the losses of a script, one a step, and then the last again and again.
class ScriptedOptimizer {
 public:
  explicit ScriptedOptimizer(std::vector<double> losses = {1.0}) : losses_(std::move(losses)) {}

  const StepReport<double>& step(const ConstMatrixRef<double>& x, const Eigen::Ref<const Labels>&) {
    examples += x.cols();
    report.step = steps++;
    report.loss = losses_[std::min(static_cast<std::size_t>(report.step), losses_.size() - 1)];
    report.status = std::isfinite(report.loss) ? StepStatus::Ok : StepStatus::NonFiniteLoss;
    return report;
  }

  StepReport<double> report;
  Index steps = 0;
  Index examples = 0;

 private:
  std::vector<double> losses_;
};

/// Nothing but zeros.
inline Dataset<double> blank_examples(Index examples) {
  return {Matrix<double>::Zero(1, examples), Labels::Zero(examples)};
}

}  // namespace kfac::test
