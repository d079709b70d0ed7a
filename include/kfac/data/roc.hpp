#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include <kfac/core/errors.hpp>

/// How well a score tells two groups apart, such as entropy of predictions those of another
/// distribution ("positive") from those of the training distribution.
namespace kfac {

/// A threshold's share of both groups above it or at it.
struct RocPoint {
  double threshold = 0;
  double false_positives = 0;  ///< share of the negative group, in [0, 1]
  double true_positives = 0;   ///< share of the positive group, in [0, 1]
};

/// From (0, 0), whose threshold is that of the next, to (1, 1): a point for each distinct score.
/// \throws ShapeError if a group is empty; ValueError if a score is not finite
inline std::vector<RocPoint> roc_curve(const ConstVectorRef<double>& negative,
                                       const ConstVectorRef<double>& positive) {
  static constexpr const char* kWhere = "kfac::roc_curve";
  if (negative.size() == 0) raise<ShapeError>(std::string(kWhere) + ": 'negative' is empty");
  if (positive.size() == 0) raise<ShapeError>(std::string(kWhere) + ": 'positive' is empty");
  detail::check_finite(kWhere, "negative", negative);
  detail::check_finite(kWhere, "positive", positive);
  struct Score {
    double value;
    bool is_positive;
  };
  std::vector<Score> scores;
  for (const double value : negative) scores.push_back({value, false});
  for (const double value : positive) scores.push_back({value, true});
  std::sort(scores.begin(), scores.end(),
            [](const Score& a, const Score& b) { return a.value > b.value; });
  std::vector<RocPoint> curve{{scores.front().value, 0, 0}};
  Index above_negative = 0;
  Index above_positive = 0;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    ++(scores[i].is_positive ? above_positive : above_negative);
    if (i + 1 < scores.size() && scores[i + 1].value == scores[i].value) continue;
    curve.push_back({scores[i].value,
                     static_cast<double>(above_negative) / static_cast<double>(negative.size()),
                     static_cast<double>(above_positive) / static_cast<double>(positive.size())});
  }
  return curve;
}

/// The area under that curve: the probability that a positive's score is above a negative's, ties
/// counting a half. \throws as `roc_curve`
inline double auroc(const ConstVectorRef<double>& negative,
                    const ConstVectorRef<double>& positive) {
  const std::vector<RocPoint> curve = roc_curve(negative, positive);
  double area = 0;
  for (std::size_t i = 1; i < curve.size(); ++i)
    area += (curve[i].false_positives - curve[i - 1].false_positives) *
            (curve[i].true_positives + curve[i - 1].true_positives) / 2;
  return area;
}

}  // namespace kfac
