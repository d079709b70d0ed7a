#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <kfac/data/dataset.hpp>

namespace examples {

using kfac::Index;

/// How the network of the study is trained, and how often.
struct InfluenceSettings {
  Index training = 1000;
  Index queries = 100;
  Index subsets = 60;  ///< random halves of the training data
  Index seeds = 3;     ///< networks trained on each of them, and on all the data
  Index epochs = 30;
  Index batch_size = 50;
  double learning_rate = 0.05;
  double weight_decay = 1e-3;
  /// At which approximations are compared.
  std::vector<double> dampings = {1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1};
  std::uint64_t seed = 0;
};

/// How well one kind of attribution predicts what retraining gives.
struct Prediction {
  std::string name;
  double by_default = 0;           ///< with damping of 0.1 times each block's mean eigenvalue
  std::vector<double> at_damping;  ///< with each of the settings'; empty if it has none
};

struct InfluenceStudy {
  kfac::Dataset<double> training, queries;
  double training_accuracy = 0, query_accuracy = 0;  ///< of the networks trained on all the data
  std::vector<Prediction> predictions;
  /// EKFAC's scores, `queries x training`, for the margin, mean over the networks: what each
  /// training example does for it.
  Eigen::MatrixXd scores;
  double retraining_seconds = 0, attribution_seconds = 0;
};

/// Trains on random halves of the data, and asks of each kind of attribution how well the sums of
/// its scores over a half rank the margins that a network trained on it has: the linear
/// data-modelling score, the mean over queries of Spearman's correlation over halves. `progress` is
/// called when a network was trained.
InfluenceStudy study_influence(const InfluenceSettings& settings,
                               const std::function<void()>& progress);

}  // namespace examples
