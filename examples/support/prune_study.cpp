#include "support/prune_study.hpp"

#include <limits>

#include <kfac/compression/cost.hpp>
#include <kfac/compression/eigen_damage.hpp>
#include <kfac/compression/low_rank.hpp>
#include <kfac/compression/saliency.hpp>
#include <kfac/data/batches.hpp>
#include <kfac/data/metrics.hpp>
#include <kfac/nn/activations.hpp>
#include <kfac/optim/adam.hpp>

namespace examples {
namespace {

using kfac::Index;
using kfac::Saliency;
using kfac::UnitSaliency;
using Flat = kfac::Vector<float>;

constexpr Index kBatch = 100;
constexpr Index kSlice = 1000;
constexpr float kWeightDecay = 1e-4F;

PruneModel lenet(kfac::Rng& rng) {
  return PruneModel({kfac::Linear<float>(784, 300, rng), kfac::ReLU<float>{},
                     kfac::Linear<float>(300, 100, rng), kfac::ReLU<float>{},
                     kfac::Linear<float>(100, 10, rng)});
}

/// Weights of pixels that are never lit decay to numbers so small that processors are slow with
/// them.
void set_tiny_to_zero(PruneModel& model) {
  constexpr float kTiny = 1e-20F;
  for (auto& layer : model.layers())
    layer.parameters = (layer.parameters.array().abs() < kTiny).select(0.0F, layer.parameters);
}

}  // namespace

PruneStudy::PruneStudy(const kfac::Dataset<float>& train, const kfac::Dataset<float>& test,
                       const Options& options)
    : train_(train), test_(test), options_(options) {
  kfac::Rng rng(options.seed);
  model_ = lenet(rng);
  this->train(model_, options.epochs, 1e-3F, nullptr);
}

/// The learning rate falls to a tenth in the last third.
void PruneStudy::train(PruneModel& model, Index epochs, float learning_rate,
                       const Flat* mask) const {
  kfac::Rng rng(options_.seed + 1);
  const Index batches = (train_.examples() + kBatch - 1) / kBatch;
  const Index late = epochs * batches * 2 / 3;
  kfac::Adam adam(model,
                  {.learning_rate =
                       [=](Index step) { return step < late ? learning_rate : learning_rate / 10; },
                   .weight_decay = kWeightDecay});
  for (Index epoch = 0; epoch < epochs; ++epoch) {
    for (const auto& [x, y] : kfac::batches(train_, kBatch, rng)) {
      model.backward(loss_.gradient(model.forward(x), y));
      adam.step();
      if (mask) kfac::MaskedParameters<PruneModel>(model, *mask);
    }
    set_tiny_to_zero(model);
  }
}

void PruneStudy::estimate() {
  const auto slices = kfac::slices(train_, kSlice);
  kronecker_ = kfac::estimate_curvature(model_, loss_, slices);
  diagonal_ = kfac::estimate_curvature(model_, loss_, slices,
                                       {.structure = kfac::CurvatureStructure::Diagonal});
}

double PruneStudy::accuracy(PruneModel& model) const {
  return kfac::accuracy(model, test_);
}

kfac::CompensationOptions PruneStudy::compensation() const {
  return {.damping = options_.damping, .max_iterations = options_.iterations};
}

Flat PruneStudy::magnitude_mask(double ratio) const {
  const Flat saliencies = kfac::weight_saliencies(model_, {}, {.saliency = Saliency::Magnitude});
  return kfac::prune_mask(model_, saliencies, {.ratio = ratio, .layer_limit = 1});
}

std::vector<PruneRow> PruneStudy::weights(const std::vector<double>& ratios) const {
  const struct {
    const char* name;
    Saliency saliency;
    const PruneCurvature& curvature;
  } kRows[] = {{"magnitude", Saliency::Magnitude, kronecker_},
               {"diagonal OBD", Saliency::Obd, diagonal_},
               {"K-FAC OBD", Saliency::Obd, kronecker_},
               {"K-FAC OBS", Saliency::Obs, kronecker_}};
  std::vector<PruneRow> rows;
  for (const auto& [name, saliency, curvature] : kRows) {
    PruneRow& row = rows.emplace_back(PruneRow{name, {}});
    const Flat saliencies = kfac::weight_saliencies(
        model_, curvature, {.saliency = saliency, .damping = options_.damping});
    for (const double ratio : ratios) {
      const Flat mask = kfac::prune_mask(model_, saliencies, {.ratio = ratio, .layer_limit = 1});
      PruneModel model = model_;
      const kfac::MaskedParameters<PruneModel> masked(model, mask);
      const double before = accuracy(model);
      model = model_;
      kfac::compensate(model, mask, kronecker_, compensation());
      row.accuracies.push_back({before, accuracy(model)});
    }
  }
  return rows;
}

PruneRow PruneStudy::inputs_only(const std::vector<double>& ratios) const {
  PruneRow row{"magnitude, G = I", {}};
  kfac::CompensationOptions options = compensation();
  options.inputs_only = true;
  for (const double ratio : ratios) {
    PruneModel model = model_;
    kfac::compensate(model, magnitude_mask(ratio), kronecker_, options);
    row.accuracies.push_back({std::numeric_limits<double>::quiet_NaN(), accuracy(model)});
  }
  return row;
}

PruneRow PruneStudy::fine_tuned(const std::vector<double>& ratios, Index epochs) const {
  PruneRow row{"magnitude, fine-tuned", {}};
  for (const double ratio : ratios) {
    const Flat mask = magnitude_mask(ratio);
    BeforeAfter accuracies;
    for (const bool compensated : {false, true}) {
      PruneModel model = model_;
      if (compensated) kfac::compensate(model, mask, kronecker_, compensation());
      kfac::MaskedParameters<PruneModel>(model, mask);
      train(model, epochs, 3e-4F, &mask);
      (compensated ? accuracies.after : accuracies.before) = accuracy(model);
    }
    row.accuracies.push_back(accuracies);
  }
  return row;
}

std::vector<PruneRow> PruneStudy::units(const std::vector<double>& ratios) const {
  const struct {
    const char* name;
    UnitSaliency saliency;
    const PruneCurvature& curvature;
  } kRows[] = {{"random", UnitSaliency::Random, kronecker_},
               {"magnitude", UnitSaliency::Magnitude, kronecker_},
               {"diagonal OBD", UnitSaliency::Obd, diagonal_},
               {"Kron-OBD", UnitSaliency::Obd, kronecker_},
               {"Kron-OBS", UnitSaliency::Obs, kronecker_},
               {"next layer", UnitSaliency::NextLayer, kronecker_}};
  std::vector<PruneRow> rows;
  for (const auto& [name, saliency, curvature] : kRows) {
    PruneRow& row = rows.emplace_back(PruneRow{name, {}});
    for (const double ratio : ratios) {
      const auto units = kfac::choose_units(model_, curvature,
                                            {.ratio = ratio,
                                             .layer_limit = ratio,
                                             .saliency = saliency,
                                             .damping = options_.damping,
                                             .seed = options_.seed});
      PruneModel cut = kfac::remove_units(model_, units);
      PruneModel compensated =
          kfac::remove_units(model_, units, kronecker_, {.damping = options_.damping});
      row.accuracies.push_back({accuracy(cut), accuracy(compensated)});
    }
  }
  return rows;
}

PruneModel PruneStudy::without_units(double ratio) const {
  const auto units = kfac::choose_units(
      model_, kronecker_, {.ratio = ratio, .layer_limit = ratio, .damping = options_.damping});
  return kfac::remove_units(model_, units, kronecker_, {.damping = options_.damping});
}

std::vector<SmallNetwork> PruneStudy::low_rank() const {
  const kfac::Shape shape{train_.inputs.rows()};
  const auto all = static_cast<double>(model_.parameter_count());
  const double all_multiply_adds = kfac::network_cost(model_, shape).multiply_adds();
  std::vector<SmallNetwork> rows;
  const auto add = [&](const std::string& name, PruneModel model) {
    const kfac::NetworkCost cost = kfac::network_cost(model, shape);
    rows.push_back({name, static_cast<double>(cost.parameters()) / all,
                    cost.multiply_adds() / all_multiply_adds, accuracy(model)});
  };
  const std::vector<std::string> layers{"0", "2"};
  for (const bool weighted : {false, true})
    for (const double keep : {0.41, 0.27, 0.135, 0.065})
      add(weighted ? "weighted SVD" : "plain SVD",
          kfac::factorize(
              model_, kronecker_,
              {.keep = keep, .weighted = weighted, .layers = layers, .damping = options_.damping}));
  for (const double ratio : {0.55, 0.7, 0.85, 0.93})
    add("EigenDamage",
        kfac::eigen_damage(model_, kronecker_, {.ratio = ratio, .layers = layers}).model);
  return rows;
}

}  // namespace examples
