#pragma once

#include <chrono>
#include <limits>
#include <utility>

#include <kfac/kfac.hpp>
#include "support/flags.hpp"
#include "support/history.hpp"
#include "support/progress.hpp"

namespace examples {

/// What the programs that compare optimizers have in common: each trains copies of one model on the
/// same batches. The fields hold a program's defaults until its flags are parsed.
struct Comparison {
  std::string optimizer = "all";  ///< or "sgd", "adam" or "kfac"
  std::optional<float> learning_rate;  ///< instead of that in the options below
  kfac::SgdOptions<float> sgd;
  kfac::AdamOptions<float> adam;
  kfac::KfacOptions<float> kfac;

  kfac::Index batch_size = 1;
  kfac::Index epochs = 1;
  kfac::Index evaluate_every = 1;  ///< steps between records
  bool keep_trajectory = false;
  std::uint64_t seed = 0;

  std::string csv;   ///< file to write every record to; empty for none
  std::string plot;  ///< file to draw; empty for none

  void add_flags(Flags& flags);
  bool runs(const std::string& name) const { return optimizer == "all" || optimizer == name; }
  int optimizers() const { return runs("sgd") + runs("adam") + runs("kfac"); }
};

/// The untrained state of a run.
template <class Model>
History begin_history(const std::string& optimizer, Colour colour, float learning_rate,
                      const Comparison& comparison, Model& model) {
  History run{.optimizer = optimizer,
              .colour = colour,
              .seed = comparison.seed,
              .learning_rate = static_cast<double>(learning_rate)};
  for (const auto& layer : model.layers())
    if (layer.parameters.size() > 0) run.layers.push_back(layer.name + ' ' + layer.kind);
  return run;
}

template <class Model>
Eigen::VectorXf flat_parameters(Model& model) {
  Eigen::VectorXf flat(model.parameter_count());
  Eigen::Index offset = 0;
  for (const auto& layer : model.layers()) {
    flat.segment(offset, layer.parameters.size()) = layer.parameters;
    offset += layer.parameters.size();
  }
  return flat;
}

/// Trains `model` by calling `step(x, y)`, a step of one optimizer that returns its report, on every
/// batch of every epoch, and adds records to `run`.
template <class Model, class Loss, class Step>
void train(Model& model, const Loss& loss, const kfac::Dataset<float>& data,
           const kfac::Dataset<float>& held_out, const Comparison& comparison, kfac::Rng rng,
           Progress& progress, History& run, Step&& step) {
  using Clock = std::chrono::steady_clock;
  Record now;
  now.layer_step_norms.assign(run.layers.size(), std::numeric_limits<double>::quiet_NaN());
  const auto record = [&] {
    now.loss = kfac::dataset_loss(model, loss, data);
    now.accuracy = kfac::accuracy(model, held_out);
    run.records.push_back(now);
    if (comparison.keep_trajectory) run.trajectory.push_back(flat_parameters(model));
  };
  record();
  for (kfac::Index epoch = 0; epoch < comparison.epochs; ++epoch) {
    auto started = Clock::now();
    const auto stop_clock = [&] {
      now.seconds += std::chrono::duration<double>(Clock::now() - started).count();
    };
    auto batches = kfac::batches(data, comparison.batch_size, rng);
    for (const auto& [x, y] : batches) {
      const kfac::StepReport<float>& report = step(x, y);
      progress.advance();
      if (!report.ok()) {
        run.stopped = "step " + std::to_string(now.step + 1) + ": " + describe(report.status);
        return;
      }
      ++now.step;
      ...
    }
  }
}
}
