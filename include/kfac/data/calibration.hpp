#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <string>
#include <vector>

#include <kfac/core/errors.hpp>

/// How good predicted probabilities are, whatever made them. `probabilities` is `classes x
/// examples`, one label for each example; sums are in double.
/// \throws ShapeError for no examples, or another number of labels; ValueError for probabilities
///         outside [0, 1], or a label that is none of the classes: all that take both
namespace kfac {
namespace detail {

template <class Derived>
void check_probabilities(const char* where, const Eigen::MatrixBase<Derived>& probabilities) {
  if (probabilities.size() == 0)
    raise<ShapeError>(std::string(where) + ": 'probabilities' has no examples");
  check_finite(where, "probabilities", probabilities);
  using S = typename Derived::Scalar;
  const S least = probabilities.minCoeff();
  const S most = probabilities.maxCoeff();
  // A float softmax may be above 1 by its rounding.
  const S above = S(1) + 100 * std::numeric_limits<S>::epsilon();
  if (least < S(0) || most > above)
    raise<ValueError>(std::string(where) + ": 'probabilities' spans " + text(least) + " to " +
                      text(most) + ", expected 0 to 1");
}

inline void check_labels(const char* where, const Eigen::Ref<const Labels>& labels, Index classes,
                         Index examples) {
  check_size(where, "labels", labels.size(), examples, "entries");
  for (Index n = 0; n < labels.size(); ++n)
    if (labels(n) < 0 || labels(n) >= classes)
      raise<ValueError>(std::string(where) + ": 'labels' has label " + std::to_string(labels(n)) +
                        " at " + std::to_string(n) + ", expected 0 to " +
                        std::to_string(classes - 1));
}

template <class Derived>
void check_probabilities(const char* where, const Eigen::MatrixBase<Derived>& probabilities,
                         const Eigen::Ref<const Labels>& labels) {
  check_probabilities(where, probabilities);
  check_labels(where, labels, probabilities.rows(), probabilities.cols());
}

}  // namespace detail

/// The share of examples whose most probable class is their label, in [0, 1].
template <class Derived>
double accuracy(const Eigen::MatrixBase<Derived>& probabilities,
                const Eigen::Ref<const Labels>& labels) {
  detail::check_probabilities("kfac::accuracy", probabilities, labels);
  Index correct = 0;
  for (Index n = 0; n < labels.size(); ++n) {
    Index predicted = 0;
    probabilities.col(n).maxCoeff(&predicted);
    correct += predicted == labels(n);
  }
  return static_cast<double>(correct) / static_cast<double>(labels.size());
}

/// The mean of -log p[label], in nats; infinite if a label was given no probability.
template <class Derived>
double negative_log_likelihood(const Eigen::MatrixBase<Derived>& probabilities,
                               const Eigen::Ref<const Labels>& labels) {
  detail::check_probabilities("kfac::negative_log_likelihood", probabilities, labels);
  double sum = 0;
  for (Index n = 0; n < labels.size(); ++n)
    sum -= std::log(static_cast<double>(probabilities(labels(n), n)));
  return sum / static_cast<double>(labels.size());
}

/// The mean over examples of sum_k (p_k - [k = label])^2, in [0, 2].
/// \source Brier 1950, Verification of forecasts expressed in terms of probability
template <class Derived>
double brier_score(const Eigen::MatrixBase<Derived>& probabilities,
                   const Eigen::Ref<const Labels>& labels) {
  detail::check_probabilities("kfac::brier_score", probabilities, labels);
  double sum = 0;
  for (Index n = 0; n < labels.size(); ++n) {
    const auto p = static_cast<double>(probabilities(labels(n), n));
    const auto others =
        static_cast<double>(probabilities.col(n).template cast<double>().squaredNorm()) - p * p;
    sum += others + (1 - p) * (1 - p);
  }
  return sum / static_cast<double>(labels.size());
}

/// The probability of the most probable class, for each example.
template <class Derived>
Vector<double> confidences(const Eigen::MatrixBase<Derived>& probabilities) {
  detail::check_probabilities("kfac::confidences", probabilities);
  return probabilities.colwise().maxCoeff().template cast<double>().transpose();
}

/// -sum_k p_k log p_k of each example, in nats: from 0 to the logarithm of the number of classes.
template <class Derived>
Vector<double> entropies(const Eigen::MatrixBase<Derived>& probabilities) {
  detail::check_probabilities("kfac::entropies", probabilities);
  Vector<double> result(probabilities.cols());
  for (Index n = 0; n < result.size(); ++n) {
    double sum = 0;
    for (Index k = 0; k < probabilities.rows(); ++k) {
      const auto p = static_cast<double>(probabilities(k, n));
      if (p > 0) sum -= p * std::log(p);
    }
    result(n) = sum;
  }
  return result;
}

/// The examples whose confidence is in one interval.
struct ReliabilityBin {
  double lower = 0, upper = 0;  ///< confidences above `lower` and up to `upper`
  Index examples = 0;
  double confidence = 0;  ///< their mean; 0 of none
  double accuracy = 0;    ///< the share of them that is right; 0 of none
};

/// What a reliability diagram shows: accuracy against confidence, in `bins` intervals of equal
/// width. A calibrated model's are equal.
/// \throws also OptionError unless bins >= 1
/// \source Guo et al. 2017, arXiv 1706.04599
template <class Derived>
std::vector<ReliabilityBin> reliability_bins(const Eigen::MatrixBase<Derived>& probabilities,
                                             const Eigen::Ref<const Labels>& labels,
                                             Index bins = 15) {
  static constexpr const char* kWhere = "kfac::reliability_bins";
  detail::check_option(bins >= 1, kWhere, "bins", bins, ">= 1");
  detail::check_probabilities(kWhere, probabilities, labels);
  std::vector<ReliabilityBin> result(static_cast<std::size_t>(bins));
  const auto count = static_cast<double>(bins);
  for (Index n = 0; n < labels.size(); ++n) {
    Index predicted = 0;
    const auto confidence = static_cast<double>(probabilities.col(n).maxCoeff(&predicted));
    const auto above = static_cast<Index>(std::ceil(confidence * count)) - 1;
    ReliabilityBin& bin = result[static_cast<std::size_t>(std::clamp(above, Index{0}, bins - 1))];
    ++bin.examples;
    bin.confidence += confidence;
    bin.accuracy += predicted == labels(n) ? 1 : 0;
  }
  for (std::size_t i = 0; i < result.size(); ++i) {
    ReliabilityBin& bin = result[i];
    bin.lower = static_cast<double>(i) / count;
    bin.upper = static_cast<double>(i + 1) / count;
    if (bin.examples == 0) continue;
    bin.confidence /= static_cast<double>(bin.examples);
    bin.accuracy /= static_cast<double>(bin.examples);
  }
  return result;
}

/// ECE: the mean over examples of |accuracy - confidence| of their bin, in [0, 1].
/// \throws as `reliability_bins`
template <class Derived>
double expected_calibration_error(const Eigen::MatrixBase<Derived>& probabilities,
                                  const Eigen::Ref<const Labels>& labels, Index bins = 15) {
  double sum = 0;
  for (const ReliabilityBin& bin : reliability_bins(probabilities, labels, bins))
    sum += static_cast<double>(bin.examples) * std::abs(bin.accuracy - bin.confidence);
  return sum / static_cast<double>(labels.size());
}

/// MCE: the largest |accuracy - confidence| of the bins that have examples. \throws likewise
template <class Derived>
double maximum_calibration_error(const Eigen::MatrixBase<Derived>& probabilities,
                                 const Eigen::Ref<const Labels>& labels, Index bins = 15) {
  double largest = 0;
  for (const ReliabilityBin& bin : reliability_bins(probabilities, labels, bins))
    largest = std::max(largest, std::abs(bin.accuracy - bin.confidence));
  return largest;
}

/// The mean over all entries of -log N(target; mean, variance), in nats, for regression: all three
/// are `outputs x examples`.
/// \throws ShapeError; ValueError unless all are finite and the variances > 0
template <class Mean, class Variance, class Target>
double gaussian_negative_log_likelihood(const Eigen::MatrixBase<Mean>& mean,
                                        const Eigen::MatrixBase<Variance>& variance,
                                        const Eigen::MatrixBase<Target>& targets) {
  static constexpr const char* kWhere = "kfac::gaussian_negative_log_likelihood";
  if (mean.size() == 0) raise<ShapeError>(std::string(kWhere) + ": 'mean' has no examples");
  detail::check_shape(kWhere, "variance", variance.rows(), variance.cols(), mean.rows(),
                      mean.cols());
  detail::check_shape(kWhere, "targets", targets.rows(), targets.cols(), mean.rows(), mean.cols());
  detail::check_finite(kWhere, "mean", mean);
  detail::check_finite(kWhere, "variance", variance);
  detail::check_finite(kWhere, "targets", targets);
  if (!(variance.minCoeff() > 0))
    raise<ValueError>(std::string(kWhere) + ": 'variance' has an entry " +
                      detail::text(variance.minCoeff()) + ", expected > 0");
  double sum = 0;
  for (Index n = 0; n < mean.cols(); ++n)
    for (Index k = 0; k < mean.rows(); ++k) {
      const auto v = static_cast<double>(variance(k, n));
      const double error = static_cast<double>(targets(k, n)) - static_cast<double>(mean(k, n));
      sum += (std::log(2 * std::numbers::pi * v) + error * error / v) / 2;
    }
  return sum / static_cast<double>(mean.size());
}

}  // namespace kfac
