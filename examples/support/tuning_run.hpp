#pragma once

#include <string>
#include <variant>
#include <vector>

#include <kfac/core/reduction.hpp>
#include <kfac/data/dataset.hpp>
#include <kfac/optim/adam.hpp>
#include <kfac/optim/kfac_options.hpp>
#include <kfac/optim/sgd.hpp>
#include <kfac/optim/step_report.hpp>

namespace examples {

/// Fashion-MNIST in 14x14 pixels, from the training images only.
struct TuningData {
  kfac::Dataset<float> train;
  kfac::Dataset<float> held_out;  ///< other images
  kfac::Index classes = 10;

  /// The first `count` of the images that are trained on.
  TuningData first(kfac::Index count) const;
  /// The same images, of which the label also says how bright one is: 10 times as many classes.
  TuningData with_brightness() const;
};

/// 10000 images to train on, and 5000.
/// \throws kfac::FileError if a file of the data set is missing from the folder or is not intact
TuningData tuning_data(const std::string& folder);

using AnyOptions =
    std::variant<kfac::SgdOptions<float>, kfac::AdamOptions<float>, kfac::KfacOptions<float>>;

/// How a network with two hidden layers of ReLU, "0" and "2", and the outputs, "4", is trained.
struct TuningRun {
  std::string name;
  AnyOptions options;
  kfac::BlockFactory<float> blocks = {};  ///< of K-FAC; empty: KroneckerBlock
  kfac::Index batch_size = 500;
  kfac::Index steps = 100;
  kfac::Reduction reduction = kfac::Reduction::Mean;
  kfac::Index tolerated_failures = 0;
  kfac::Index patience = 0;  ///< epochs without a better loss on the held-out images; 0: any number
  bool calibrates = false;   ///< K-FAC: `calibrate_damping` on the first images
  bool best_of_its_name = false;  ///< of the runs of this name only the best one is shown
};

struct TuningEvaluation {
  kfac::Index step;  ///< how many there were
  double loss;       ///< mean over all images trained on
  double held_out_loss;
  double held_out_accuracy;
};

struct TuningOutcome {
  std::vector<kfac::StepReport<float>> reports;  ///< of every step
  std::vector<TuningEvaluation> evaluations;     ///< the last one at the end
  std::string summary;                           ///< of K-FAC's layers

  /// The loss trained on after so many steps; NaN if training ended before.
  double loss_after(kfac::Index step) const;
  double last_loss() const { return evaluations.back().loss; }
};

/// From the same weights and on the same batches, whatever the run.
TuningOutcome train(const TuningData& data, const TuningRun& run,
                    const std::vector<kfac::Index>& evaluate_after);

}  // namespace examples
