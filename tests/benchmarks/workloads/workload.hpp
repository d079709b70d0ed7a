#pragma once

#include <memory>
#include <string>
#include <vector>

#include <kfac/curvature/fisher.hpp>
#include <kfac/optim/step_report.hpp>

#include "support/costs.hpp"
#include "support/schedule.hpp"

namespace benchmarks {

/// A network in training, with its optimizer.
class Training {
 public:
  Training() = default;
  Training(const Training&) = delete;
  Training& operator=(const Training&) = delete;
  virtual ~Training() = default;

  /// A step on the one batch there is; what it took. \throws std::runtime_error if it failed
  virtual kfac::StepSeconds step() = 0;
  /// How much memory its optimizer says that all this takes, without the batch; 0: it does not say.
  virtual double predicted_bytes() const { return 0; }
};

/// A network, a loss and a batch, in float.
class Workload {
 public:
  Workload() = default;
  Workload(const Workload&) = delete;
  Workload& operator=(const Workload&) = delete;
  virtual ~Workload() = default;

  virtual std::string name() const = 0;     ///< "W1"
  virtual std::string network() const = 0;  ///< "MLP 2-32-2, ReLU"
  virtual kfac::Index batch() const = 0;
  virtual std::vector<LayerSizes> layers() const = 0;
  virtual kfac::Index input_features() const = 0;

  /// K-FAC with momentum and a fixed damping, on so many threads.
  virtual std::unique_ptr<Training> kfac(const Schedule& schedule, kfac::FisherType fisher,
                                         kfac::Index threads) const = 0;
  /// Stochastic gradient descent with momentum.
  virtual std::unique_ptr<Training> sgd(kfac::Index threads) const = 0;
  virtual std::unique_ptr<Training> adam(kfac::Index threads) const = 0;

  /// With the empirical Fisher; others need passes of their own.
  Operations operations() const { return benchmarks::operations(layers(), batch()); }
  Memory memory() const {
    return benchmarks::memory(layers(), input_features(), batch(), sizeof(float));
  }
};

const std::vector<std::string>& workload_names();
/// \pre one of `workload_names()`
std::unique_ptr<Workload> make_workload(const std::string& name);

std::unique_ptr<Workload> small_mlp();
std::unique_ptr<Workload> large_mlp();
std::unique_ptr<Workload> autoencoder();
std::unique_ptr<Workload> convolutional();

}  // namespace benchmarks
