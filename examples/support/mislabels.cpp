#include "support/mislabels.hpp"

#include <algorithm>
#include <chrono>
#include <numeric>

#include <kfac/attribution/influence.hpp>
#include <kfac/core/schedules.hpp>
#include <kfac/curvature/estimate_curvature.hpp>
#include <kfac/data/roc.hpp>
#include <kfac/data/subset.hpp>
#include <kfac/io/idx.hpp>
#include <kfac/kfac.hpp>

namespace examples {
namespace {

using kfac::Index;
using Data = kfac::Dataset<float>;
using Strategy = kfac::InfluenceStrategy;
using Structure = kfac::CurvatureStructure;

constexpr Index kPixels = 28 * 28;
constexpr Index kClasses = 10;
constexpr Index kBatchSize = 128;

/// How well `values` are higher for the first `flipped` examples.
Detection detection(const std::string& name, const Eigen::VectorXd& values, Index flipped) {
  Eigen::VectorXd sorted = values;
  std::sort(sorted.data(), sorted.data() + sorted.size());
  const double threshold = sorted(sorted.size() - flipped);
  const auto found = (values.head(flipped).array() >= threshold).count();
  return {name, kfac::auroc(values.tail(values.size() - flipped), values.head(flipped)),
          static_cast<double>(found) / static_cast<double>(flipped)};
}

}  // namespace

MislabelStudy study_mislabels(const MislabelSettings& settings) {
  using Clock = std::chrono::steady_clock;
  using Seconds = std::chrono::duration<double>;
  const auto [train, test] = kfac::io::fashion_mnist<float>(settings.data);
  kfac::Rng rng(settings.seed);
  std::vector<Index> order(static_cast<std::size_t>(train.examples()));
  std::iota(order.begin(), order.end(), Index{0});
  rng.shuffle(order);
  order.resize(static_cast<std::size_t>(std::min(settings.training, train.examples())));
  Data data = kfac::subset(train, order);
  const Index flipped = std::min(settings.flipped, data.examples() - 1);
  for (Index n = 0; n < flipped; ++n)
    data.targets(n) = static_cast<int>((data.targets(n) + 1 + rng.below(kClasses - 1)) % kClasses);

  auto start = Clock::now();
  kfac::Sequential model{kfac::Linear<float>(kPixels, 128, rng), kfac::ReLU<float>{},
                         kfac::Linear<float>(128, 64, rng), kfac::ReLU<float>{},
                         kfac::Linear<float>(64, kClasses, rng)};
  const kfac::SoftmaxCrossEntropy<float> loss;
  const Index steps = settings.epochs * ((data.examples() + kBatchSize - 1) / kBatchSize);
  auto optimizer = kfac::make_optimizer<kfac::Adam>(
      model, loss, {.learning_rate = kfac::schedules::cosine(2e-3F, 0.0F, steps)});
  for (Index epoch = 0; epoch < settings.epochs; ++epoch)
    for (const auto& [x, y] : kfac::batches(data, kBatchSize, rng)) optimizer.step(x, y);
  MislabelStudy study;
  study.training_accuracy = kfac::accuracy(model, data);
  study.test_accuracy = kfac::accuracy(model, test);
  study.training_seconds = Seconds(Clock::now() - start).count();

  start = Clock::now();
  const auto slices = kfac::slices(data, 500);
  const Eigen::MatrixXf outputs = model.forward(data.inputs);
  study.detections.push_back(
      detection("training loss",
                -kfac::LogProbability{}.values(outputs, data.targets).cast<double>(), flipped));
  const auto self = [&](const std::string& name, const kfac::CurvatureEstimate<float>& estimate,
                        const kfac::InfluenceOptions& options) {
    kfac::Influence influence(model, loss, estimate, options);
    study.detections.push_back(detection(name, influence.self(slices).cast<double>(), flipped));
  };
  self("gradient's norm", {}, {.strategy = Strategy::Identity});
  self("diagonal",
       kfac::estimate_curvature(model, loss, slices, {.structure = Structure::Diagonal}),
       {.strategy = Strategy::Diagonal});
  const auto ekfac = kfac::estimate_curvature(model, loss, slices, {.structure = Structure::Ekfac});
  self("K-FAC", ekfac, {.strategy = Strategy::Kfac});
  self("EKFAC", ekfac, {});
  self("EKFAC, damping 1e-3", ekfac, {.relative_damping = 0, .damping = 1e-3});
  study.attribution_seconds = Seconds(Clock::now() - start).count();
  return study;
}

}  // namespace examples
