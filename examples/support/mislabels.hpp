#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <kfac/core/types.hpp>

namespace examples {

struct MislabelSettings {
  std::string data = "/usr/share/datasets/fashion-mnist";
  kfac::Index training = 10000;
  kfac::Index flipped = 0;  ///< > 0
  kfac::Index epochs = 30;
  std::uint64_t seed = 0;
};

/// How well a number of each example tells the wrong labels from the right ones.
struct Detection {
  std::string name;
  double auc = 0;        ///< area under the ROC curve
  double precision = 0;  ///< wrong labels' share of the highest, of whom as many as are wrong
};

struct MislabelStudy {
  double training_accuracy = 0;  ///< on the labels as they are, wrong ones included
  double test_accuracy = 0;
  std::vector<Detection> detections;
  double training_seconds = 0, attribution_seconds = 0;
};

/// Trains a network on images of Fashion-MNIST of which some have another label than they should,
/// and looks for these: by the loss itself, and by self-influence.
/// \throws kfac::FileError if the data are not there
MislabelStudy study_mislabels(const MislabelSettings& settings);

}  // namespace examples
