#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <kfac/compression/choose_units.hpp>
#include <kfac/compression/compensation.hpp>
#include <kfac/data/dataset.hpp>
#include <kfac/loss/softmax_cross_entropy.hpp>

namespace examples {

using PruneModel = kfac::DynamicSequential<float>;
using PruneCurvature = kfac::CurvatureEstimate<float>;

/// An accuracy with a change alone, and with compensation for it; of test images, in [0, 1].
struct BeforeAfter {
  double before = 0;
  double after = 0;
};

/// A row of a table: one way to choose, and what comes of it for each ratio.
struct PruneRow {
  std::string name;
  std::vector<BeforeAfter> accuracies;
};

/// One compressed network.
struct SmallNetwork {
  std::string name;
  double parameters = 0;  ///< left, of all
  double multiply_adds = 0;
  double accuracy = 0;
};

/// A trained network, its curvature in two structures, and what can be taken out of it.
class PruneStudy {
 public:
  struct Options {
    kfac::Index epochs = 25;
    kfac::Index iterations = 40;  ///< of conjugate gradients
    double damping = 1e-3;        ///< so many times the mean eigenvalue of each factor
    std::uint64_t seed = 0;
  };

  /// Trains LeNet-300-100 by Adam with weight decay. The data must outlive it.
  PruneStudy(const kfac::Dataset<float>& train, const kfac::Dataset<float>& test,
             const Options& options);

  PruneModel& model() { return model_; }
  double accuracy(PruneModel& model) const;
  /// Both estimates of the curvature: K-FAC and diagonal.
  void estimate();
  const PruneCurvature& curvature() const { return kronecker_; }

  /// Weights removed by each saliency, without and with compensation.
  std::vector<PruneRow> weights(const std::vector<double>& ratios) const;
  /// By magnitude, compensated by the inputs' factor alone.
  PruneRow inputs_only(const std::vector<double>& ratios) const;
  /// By magnitude, and trained on for some epochs: the mask alone, and after compensation.
  PruneRow fine_tuned(const std::vector<double>& ratios, kfac::Index epochs) const;
  /// Hidden neurons removed by each saliency, without and with compensation.
  std::vector<PruneRow> units(const std::vector<double>& ratios) const;
  /// The network without that share of its neurons, by Kron-OBS, compensated.
  PruneModel without_units(double ratio) const;
  std::vector<SmallNetwork> low_rank() const;

 private:
  void train(PruneModel& model, kfac::Index epochs, float learning_rate,
             const kfac::Vector<float>* mask) const;
  kfac::Vector<float> magnitude_mask(double ratio) const;
  kfac::CompensationOptions compensation() const;

  const kfac::Dataset<float>& train_;
  const kfac::Dataset<float>& test_;
  Options options_;
  mutable PruneModel model_;
  kfac::SoftmaxCrossEntropy<float> loss_;
  PruneCurvature kronecker_, diagonal_;
};

}  // namespace examples
