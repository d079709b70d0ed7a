#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include <kfac/kfac.hpp>

#include "support/flags.hpp"
#include "support/history.hpp"
#include "support/progress.hpp"

namespace examples {

/// How the programs that compare optimizers do it. The fields hold a program's defaults until its
/// flags are parsed.
struct Comparison {
  std::string optimizer = "all";            ///< or "sgd", "adam" or "kfac"
  std::optional<float> learning_rate = {};  ///< instead of those in the options below
  kfac::SgdOptions<float> sgd = {};
  kfac::AdamOptions<float> adam = {};
  kfac::KfacOptions<float> kfac = {};
  /// The numbers of `kfac` that have flags, at the first step; a flag that is given makes a
  /// constant of its number.
  struct KfacNumbers {
    float damping, momentum, kl_clip;
    kfac::Index factor_every, inverse_every;
  };
  std::optional<KfacNumbers> kfac_numbers = {};
  std::string fisher = "type2";  ///< or "monte-carlo" or "empirical"

  kfac::Index batch_size = 64;
  kfac::Index epochs = 5;
  kfac::Index evaluate_every = 1;  ///< steps between records; the last is always recorded
  bool keep_trajectory = false;
  std::uint64_t seed = 0;

  std::string csv = {};   ///< file to write every record to; empty for none
  std::string plot = {};  ///< file to draw; empty for none

  void add_flags(Flags& flags);

  bool runs(const std::string& name) const { return optimizer == "all" || optimizer == name; }
  kfac::Index optimizer_count() const { return optimizer == "all" ? 3 : 1; }
  /// The steps that one optimizer takes on so many examples.
  kfac::Index steps(kfac::Index examples) const {
    return epochs * ((examples + batch_size - 1) / batch_size);
  }

  kfac::SgdOptions<float> sgd_options() const;
  kfac::AdamOptions<float> adam_options() const;
  kfac::KfacOptions<float> kfac_options() const;
};

/// What the optimizers are compared on.
template <class Loss>
struct Task {
  const Loss& loss;
  const kfac::Dataset<float>& train;
  const kfac::Dataset<float>& held_out;
};

template <class Model>
Eigen::VectorXf flat_parameters(Model& model) {
  Eigen::VectorXf flat(model.parameter_count());
  kfac::Index offset = 0;
  for (const auto& layer : model.layers()) {
    flat.segment(offset, layer.parameters.size()) = layer.parameters;
    offset += layer.parameters.size();
  }
  return flat;
}

/// A step of some optimizer on a batch.
using Step = std::function<const kfac::StepReport<float>&(const kfac::ConstMatrixMap<float>& x,
                                                          const Eigen::Map<const kfac::Labels>& y)>;

/// Trains `model` by taking `step` on all batches, in the order that `rng` gives them, and adds
/// records to `run`. Only the seconds of training count.
template <class Model, class Loss>
void train(Model& model, const Task<Loss>& task, const Comparison& comparison, kfac::Rng rng,
           Progress& progress, History& run, const Step& step) {
  using Clock = std::chrono::steady_clock;

  std::vector<std::size_t> with_parameters;
  const auto layers = model.layers();
  for (std::size_t i = 0; i < layers.size(); ++i)
    if (layers[i].parameters.size() > 0) {
      with_parameters.push_back(i);
      run.layers.push_back(layers[i].name + ' ' + layers[i].kind);
    }

  Record now;
  now.layer_step_norms.assign(run.layers.size(), std::numeric_limits<double>::quiet_NaN());
  const auto add_record = [&] {
    now.loss = kfac::dataset_loss(model, task.loss, task.train);
    now.accuracy = kfac::accuracy(model, task.held_out);
    run.records.push_back(now);
    if (comparison.keep_trajectory) run.trajectory.push_back(flat_parameters(model));
  };
  add_record();

  const kfac::Index last_step = comparison.steps(task.train.examples());
  for (kfac::Index epoch = 0; epoch < comparison.epochs && run.stopped.empty(); ++epoch) {
    auto started = Clock::now();
    const auto stop_clock = [&] {
      now.seconds += std::chrono::duration<double>(Clock::now() - started).count();
    };
    for (const auto& [x, y] : kfac::batches(task.train, comparison.batch_size, rng)) {
      const kfac::StepReport<float>& report = step(x, y);
      if (!report.ok()) {
        run.stopped = "step " + std::to_string(now.step + 1) + ": " + describe(report.status);
        if (!report.layer.empty()) run.stopped += " (layer '" + report.layer + "')";
        progress.advance(last_step - now.step);
        break;
      }
      ++now.step;
      progress.advance();
      for (std::size_t i = 0; i < with_parameters.size(); ++i)
        now.layer_step_norms[i] = static_cast<double>(report.layer_step_norms[with_parameters[i]]);
      if (now.step % comparison.evaluate_every != 0) continue;
      stop_clock();
      add_record();
      started = Clock::now();
    }
    stop_clock();
  }
  if (run.records.back().step != now.step) add_record();
}

/// Trains a copy of `model` with each chosen optimizer, all on the same batches, and calls
/// `finished(run, trained model)` after each.
template <class Model, class Loss, class Finished>
void compare(const Comparison& comparison, const Task<Loss>& task, const Model& model,
             const kfac::Rng& batch_order, Progress& progress, Finished&& finished) {
  const auto compete = [&](const std::string& name, Colour colour, float learning_rate,
                           Model& trained, const Step& step) {
    History run{.optimizer = name,
                .colour = colour,
                .seed = comparison.seed,
                .learning_rate = static_cast<double>(learning_rate)};
    train(trained, task, comparison, batch_order, progress, run, step);
    finished(run, trained);
  };

  if (comparison.runs("sgd")) {
    Model trained = model;
    kfac::Sgd sgd(trained, comparison.sgd_options());
    compete(
        "SGD", Colour::Green, sgd.options().learning_rate(0),
        trained, [&](const auto& x, const auto& y) -> const auto& {
          return kfac::train_step(trained, task.loss, sgd, x, y);
        });
  }
  if (comparison.runs("adam")) {
    Model trained = model;
    kfac::Adam adam(trained, comparison.adam_options());
    compete(
        "Adam", Colour::Blue, adam.options().learning_rate(0),
        trained, [&](const auto& x, const auto& y) -> const auto& {
          return kfac::train_step(trained, task.loss, adam, x, y);
        });
  }
  if (comparison.runs("kfac")) {
    Model trained = model;
    kfac::KfacOptimizer optimizer(trained, task.loss, comparison.kfac_options());
    compete(
        "K-FAC", Colour::Vermilion, optimizer.options().learning_rate(0),
        trained, [&](const auto& x, const auto& y) -> const auto& { return optimizer.step(x, y); });
  }
}

}  // namespace examples
