#pragma once

#include <cmath>
#include <functional>
#include <limits>
#include <string>

#include <kfac/core/errors.hpp>

namespace kfac {

/// What stands for the curvature H, block by block.
enum class InfluenceStrategy {
  Identity,  ///< H = I: inner products of gradients, without any curvature or damping
  Diagonal,  ///< of an estimate with `CurvatureStructure::Diagonal`
  Kfac,      ///< of one with factors; other layers have the diagonal
  Ekfac,     ///< of one with second moments, likewise
  Full,      ///< of one with `CurvatureStructure::Full`: the exact blocks, for small layers
};

/// H is damped by (damping + relative_damping * the mean eigenvalue of the block) I.
struct InfluenceOptions {
  InfluenceStrategy strategy = InfluenceStrategy::Ekfac;
  /// A tenth of each block's mean eigenvalue is near the best for networks that were not trained to
  /// the end, and follows the scale of the loss. >= 0, finite.
  double relative_damping = 0.1;
  /// In the units of the curvature of the mean loss: the L2 penalty belongs here (weight decay e of
  /// e/2 |parameters|^2). >= 0, finite.
  double damping = 0;
  /// Which layers count, by name; gradients of the others are not looked at. Not set: all.
  std::function<bool(const std::string&)> layers = {};

  /// \throws OptionError
  void validate() const {
    static constexpr const char* kWhere = "kfac::InfluenceOptions";
    detail::check_option(relative_damping >= 0 && std::isfinite(relative_damping), kWhere,
                         "relative_damping", relative_damping, ">= 0 and finite");
    detail::check_option(damping >= 0 && std::isfinite(damping), kWhere, "damping", damping,
                         ">= 0 and finite");
  }
};

/// Over what gradients are summed before scores are made of them.
enum class Aggregate {
  Nothing,
  Queries,   ///< one row: of the sum of the measurements
  Training,  ///< one column: of the sum of the examples' losses
  Both,
};

struct ScoreOptions {
  Aggregate aggregate = Aggregate::Nothing;
  /// Each query's preconditioned gradient of a layer is replaced by the nearest matrix of this rank
  /// (by its singular vectors), >= 0: less memory, and less work for the training data. 0: as it
  /// is.
  Index rank = 0;
  /// How many queries' preconditioned gradients are held at once, >= 0: the training data are gone
  /// through once for so many. 0: as many as `memory_limit` has room for.
  Index query_batch = 0;
  /// Bytes that the scores and the queries may take, > 0.
  double memory_limit = std::numeric_limits<double>::infinity();

  /// \throws OptionError
  void validate() const {
    static constexpr const char* kWhere = "kfac::ScoreOptions";
    detail::check_option(rank >= 0, kWhere, "rank", rank, ">= 0");
    detail::check_option(query_batch >= 0, kWhere, "query_batch", query_batch, ">= 0");
    detail::check_option(memory_limit > 0, kWhere, "memory_limit", memory_limit, "> 0");
  }
};

}  // namespace kfac
