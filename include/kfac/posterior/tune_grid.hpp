#pragma once

#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <kfac/posterior/laplace.hpp>

namespace kfac {

struct GridOptions {
  double smallest = 1e-4;  ///< the ends of the grid, > 0; its points are evenly spaced logarithms
  double largest = 1e4;
  Index points = 41;  ///< >= 2
  /// Whether the points are factors of the prior precisions there are, so that those of groups keep
  /// their ratios; else they are the precision of all groups.
  bool relative = false;

  /// \throws OptionError
  void validate(const char* where) const {
    detail::check_option(smallest > 0 && std::isfinite(smallest), where, "smallest", smallest,
                         "> 0 and finite");
    detail::check_option(largest > smallest && std::isfinite(largest), where, "largest", largest,
                         "finite and above 'smallest'");
    detail::check_option(points >= 2, where, "points", points, ">= 2");
  }
};

struct GridResult {
  double best = 0;             ///< the point that the posterior has now
  std::vector<double> points;  ///< ascending
  std::vector<double> scores;  ///< of each
};

/// Sets the prior precision to that of a grid at which `score(posterior)` is least, such as the
/// negative log-likelihood of validation data under the predictions that will be made: for a
/// posterior of all layers, that is safer than the evidence. Scores that are not numbers do not
/// count; the first of equal ones does.
/// \throws OptionError; ValueError if no score is a number; whatever `score` throws. The posterior
///         is as it was then
template <RealScalar S, class Score>
GridResult tune_by_grid(Laplace<S>& posterior, Score&& score, const GridOptions& options = {}) {
  static constexpr const char* kWhere = "kfac::tune_by_grid";
  options.validate(kWhere);
  const Vector<double> unit = options.relative ? posterior.prior().precision()
                                               : Vector<double>::Ones(posterior.prior().groups());
  Laplace<S> candidate = posterior;
  GridResult result;
  double least = std::numeric_limits<double>::infinity();
  for (Index i = 0; i < options.points; ++i) {
    const double share = static_cast<double>(i) / static_cast<double>(options.points - 1);
    const double point =
        std::exp((1 - share) * std::log(options.smallest) + share * std::log(options.largest));
    candidate.set_prior_precision(Vector<double>(point * unit));
    const auto value = static_cast<double>(score(std::as_const(candidate)));
    result.points.push_back(point);
    result.scores.push_back(value);
    if (!(value < least)) continue;
    least = value;
    result.best = point;
  }
  if (result.best == 0)
    raise<ValueError>(std::string(kWhere) + ": 'score' is never a finite number, expected one");
  posterior.set_prior_precision(Vector<double>(result.best * unit));
  return result;
}

}  // namespace kfac
