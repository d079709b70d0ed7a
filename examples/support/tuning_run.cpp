#include "support/tuning_run.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <type_traits>
#include <utility>

#include <kfac/data/batch_stream.hpp>
#include <kfac/data/metrics.hpp>
#include <kfac/io/idx.hpp>
#include <kfac/loss/softmax_cross_entropy.hpp>
#include <kfac/nn/activations.hpp>
#include <kfac/nn/dynamic_sequential.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/optim/fit.hpp>
#include <kfac/optim/gradient_optimizer.hpp>
#include <kfac/optim/kfac_optimizer.hpp>

namespace examples {

using kfac::Dataset;
using kfac::Index;

namespace {

using Loss = kfac::SoftmaxCrossEntropy<float>;
using Network = kfac::DynamicSequential<float>;

constexpr Index kTrained = 10000;
constexpr Index kHeldOut = 5000;
constexpr Index kHidden = 100;

/// A range of the images, shrunk to means of 2x2 pixels, to about mean 0 and variance 1.
Dataset<float> shrunk(const Dataset<float>& images, Index first, Index count) {
  constexpr Index kSide = 14;
  constexpr float kMean = 0.286F;
  constexpr float kDeviation = 0.34F;
  Dataset<float> result{Eigen::MatrixXf(kSide * kSide, count),
                        images.targets.segment(first, count)};
  for (Index n = 0; n < count; ++n) {
    const Eigen::Map<const Eigen::MatrixXf> from(images.inputs.col(first + n).data(), 2 * kSide,
                                                 2 * kSide);
    Eigen::Map<Eigen::MatrixXf> to(result.inputs.col(n).data(), kSide, kSide);
    for (Index j = 0; j < kSide; ++j)
      for (Index i = 0; i < kSide; ++i)
        to(i, j) = (from.block<2, 2>(2 * i, 2 * j).mean() - kMean) / kDeviation;
  }
  return result;
}

/// Labels 10 label + tenth, with the tenth of the images that one is in by its mean.
void add_brightness(Dataset<float>& images) {
  const Eigen::VectorXf means = images.inputs.colwise().mean();
  std::vector<Index> order(static_cast<std::size_t>(images.examples()));
  std::iota(order.begin(), order.end(), Index{0});
  std::sort(order.begin(), order.end(), [&](Index a, Index b) { return means(a) < means(b); });
  for (Index rank = 0; rank < images.examples(); ++rank) {
    auto& label = images.targets(order[static_cast<std::size_t>(rank)]);
    label = 10 * label + static_cast<int>(10 * rank / images.examples());
  }
}

Network make_network(Index inputs, Index outputs, kfac::Rng& rng) {
  Network model;
  model.push_back(kfac::Linear<float>(inputs, kHidden, rng));
  model.push_back(kfac::ReLU<float>{});
  model.push_back(kfac::Linear<float>(kHidden, kHidden, rng));
  model.push_back(kfac::ReLU<float>{});
  model.push_back(kfac::Linear<float>(kHidden, outputs, rng));
  return model;
}

template <class Optimizer>
void fit(const TuningData& data, const TuningRun& run, const std::vector<Index>& evaluate_after,
         kfac::Rng order, Network& model, Optimizer& optimizer, TuningOutcome& outcome) {
  const Loss mean_loss;
  kfac::BatchStream stream(data.train, run.batch_size, order);
  const auto evaluate = [&](Index step) {
    outcome.evaluations.push_back({step, kfac::dataset_loss(model, mean_loss, data.train),
                                   kfac::dataset_loss(model, mean_loss, data.held_out),
                                   kfac::accuracy(model, data.held_out)});
  };
  const auto record = [&](const kfac::TrainingEvent<float>& event) {
    outcome.reports.push_back(event.report);
    const bool is_due =
        std::find(evaluate_after.begin(), evaluate_after.end(), event.step) != evaluate_after.end();
    if (is_due && event.report.ok()) evaluate(event.step);
  };
  const Index patience = run.patience > 0 ? run.patience : run.steps;
  kfac::EarlyStopping stopping(
      {.patience = patience}, kfac::each_epoch([&] {
        return run.patience > 0 ? kfac::dataset_loss(model, mean_loss, data.held_out) : 0.0;
      }));
  kfac::fit(optimizer, stream, {.steps = run.steps, .tolerated_failures = run.tolerated_failures},
            record, stopping);
  if (outcome.evaluations.empty() || outcome.evaluations.back().step != stream.steps())
    evaluate(stream.steps());
}

}  // namespace

TuningData TuningData::first(Index count) const {
  return {{train.inputs.leftCols(count), train.targets.head(count)}, held_out, classes};
}

TuningData TuningData::with_brightness() const {
  TuningData result = *this;
  add_brightness(result.train);
  add_brightness(result.held_out);
  result.classes *= 10;
  return result;
}

TuningData tuning_data(const std::string& folder) {
  const Dataset<float> images = kfac::io::fashion_mnist<float>(folder).train;
  return {shrunk(images, 0, kTrained), shrunk(images, kTrained, kHeldOut)};
}

double TuningOutcome::loss_after(Index step) const {
  const auto found = std::find_if(evaluations.begin(), evaluations.end(),
                                  [&](const auto& evaluation) { return evaluation.step == step; });
  return found == evaluations.end() ? std::numeric_limits<double>::quiet_NaN() : found->loss;
}

TuningOutcome train(const TuningData& data, const TuningRun& run,
                    const std::vector<Index>& evaluate_after) {
  kfac::Rng rng(0);
  Network model = make_network(data.train.inputs.rows(), data.classes, rng);
  const Loss loss(kfac::LossOptions{.reduction = run.reduction});
  TuningOutcome outcome;
  const auto train_with = [&](auto&& optimizer) {
    fit(data, run, evaluate_after, rng, model, optimizer, outcome);
  };
  const auto visit = [&](const auto& options) {
    using Options = std::decay_t<decltype(options)>;
    if constexpr (std::is_same_v<Options, kfac::SgdOptions<float>>) {
      train_with(kfac::make_optimizer<kfac::Sgd>(model, loss, options));
    } else if constexpr (std::is_same_v<Options, kfac::AdamOptions<float>>) {
      train_with(kfac::make_optimizer<kfac::Adam>(model, loss, options));
    } else {
      kfac::KfacOptimizer optimizer(
          model, loss, options,
          run.blocks ? run.blocks : kfac::block_factory<kfac::KroneckerBlock<float>>());
      outcome.summary = optimizer.summary();
      if (run.calibrates)
        optimizer.calibrate_damping(data.train.inputs.leftCols(run.batch_size),
                                    data.train.targets.head(run.batch_size));
      train_with(optimizer);
    }
  };
  std::visit(visit, run.options);
  return outcome;
}

}  // namespace examples
