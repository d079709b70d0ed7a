#pragma once

#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <kfac/optim/adam.hpp>
#include <kfac/optim/kfac_optimizer.hpp>
#include <kfac/optim/sgd.hpp>
#include <kfac/optim/train_step.hpp>

#include "support/team.hpp"
#include "workloads/workload.hpp"

namespace benchmarks {

/// What a workload is made of. `make_model(rng)` returns the network.
template <class MakeModel, class LossType>
struct WorkloadParts {
  std::string name;
  std::string network;
  MakeModel make_model;
  LossType loss;
  kfac::Shape shape;  ///< of an example
  kfac::Matrix<float> x;
  typename LossType::Targets y;
  float damping = 0.1F;
};

/// The sizes of a model's layers, the first one's first. `forward()` is to pass some batch through
/// it, from which the numbers of positions are seen.
template <class Model, class Forward>
std::vector<LayerSizes> layer_sizes(Model& model, Forward&& forward) {
  using S = typename Model::Scalar;
  struct Listener : kfac::Observer<S> {
    std::vector<kfac::Index> positions;
    void on_input(const std::string&, const kfac::SharedBatch<S>& input) override {
      positions.push_back(input.positions());
    }
  };
  Listener listener;
  std::vector<LayerSizes> sizes;
  for (const kfac::LayerView<S>& layer : model.layers()) {
    if (!layer.kronecker) continue;
    layer.hooks->attach(listener);
    const kfac::KroneckerStructure& structure = *layer.kronecker;
    sizes.push_back({structure.inputs, structure.columns(), structure.outputs, structure.groups});
  }
  forward();
  for (std::size_t i = 0; i < sizes.size(); ++i) sizes[i].positions = listener.positions.at(i);
  return sizes;
}

/// `count` labels, each of the classes equally likely.
inline kfac::Labels random_labels(kfac::Index count, kfac::Index classes, kfac::Rng& rng) {
  kfac::Labels labels(count);
  for (int& label : labels) label = static_cast<int>(rng.below(classes));
  return labels;
}

template <class MakeModel, class LossType>
class WorkloadOf final : public Workload {
  using Parts = WorkloadParts<MakeModel, LossType>;
  using Model = std::invoke_result_t<MakeModel, kfac::Rng&>;

  // Small, so that no step is ever the one that diverges.
  static constexpr float kLearningRate = 1e-4F;
  static constexpr float kMomentum = 0.9F;

  static kfac::StepSeconds checked(const kfac::StepReport<float>& report) {
    if (!report.ok())
      throw std::runtime_error(std::string("the step failed: ") + describe(report.status));
    return report.seconds;
  }

  class KfacTraining final : public Training {
   public:
    KfacTraining(const Parts& parts, const Schedule& schedule, kfac::FisherType fisher,
                 kfac::Index threads)
        : parts_(parts),
          model_(parts.make_model(rng_)),
          optimizer_(model_, parts.loss, options(parts, schedule, fisher, threads)) {}
    kfac::StepSeconds step() override {
      return checked(optimizer_.step(parts_.x, parts_.y, parts_.shape));
    }
    double predicted_bytes() const override {
      return optimizer_.memory(parts_.x.cols(), parts_.shape).total();
    }

   private:
    static kfac::KfacOptions<float> options(const Parts& parts, const Schedule& schedule,
                                            kfac::FisherType fisher, kfac::Index threads) {
      return {.learning_rate = kLearningRate,
              .momentum = kMomentum,
              .damping = parts.damping,
              .factor_every = schedule.factor_every,
              .inverse_every = schedule.inverse_every,
              .threads = threads,
              .fisher = fisher};
    }

    const Parts& parts_;
    kfac::Rng rng_{1};
    Model model_;
    kfac::KfacOptimizer<Model, LossType> optimizer_;
  };

  template <class Optimizer>
  class FirstOrderTraining final : public Training {
   public:
    template <class Options>
    FirstOrderTraining(const Parts& parts, const Options& options, kfac::Index threads)
        : parts_(parts),
          team_(threads),
          model_(parts.make_model(rng_)),
          optimizer_(model_, options) {}
    kfac::StepSeconds step() override {
      return checked(
          kfac::train_step(model_, parts_.loss, optimizer_, parts_.x, parts_.y, parts_.shape));
    }

   private:
    const Parts& parts_;
    Team team_;
    kfac::Rng rng_{1};
    Model model_;
    Optimizer optimizer_;
  };

 public:
  explicit WorkloadOf(Parts parts) : parts_(std::move(parts)) {
    kfac::Rng rng(1);
    Model model = parts_.make_model(rng);
    layers_ = layer_sizes(model, [&] { model.forward(parts_.x.leftCols(1), parts_.shape); });
  }

  std::string name() const override { return parts_.name; }
  std::string network() const override { return parts_.network; }
  kfac::Index batch() const override { return parts_.x.cols(); }
  std::vector<LayerSizes> layers() const override { return layers_; }
  kfac::Index input_features() const override { return parts_.x.rows(); }

  std::unique_ptr<Training> kfac(const Schedule& schedule, kfac::FisherType fisher,
                                 kfac::Index threads) const override {
    return std::make_unique<KfacTraining>(parts_, schedule, fisher, threads);
  }
  std::unique_ptr<Training> sgd(kfac::Index threads) const override {
    const kfac::SgdOptions<float> options{.learning_rate = kLearningRate, .momentum = kMomentum};
    return std::make_unique<FirstOrderTraining<kfac::Sgd<float>>>(parts_, options, threads);
  }
  std::unique_ptr<Training> adam(kfac::Index threads) const override {
    const kfac::AdamOptions<float> options{.learning_rate = kLearningRate};
    return std::make_unique<FirstOrderTraining<kfac::Adam<float>>>(parts_, options, threads);
  }

 private:
  Parts parts_;
  std::vector<LayerSizes> layers_;
};

template <class MakeModel, class LossType>
std::unique_ptr<Workload> make_workload_of(WorkloadParts<MakeModel, LossType> parts) {
  return std::make_unique<WorkloadOf<MakeModel, LossType>>(std::move(parts));
}

}  // namespace benchmarks
