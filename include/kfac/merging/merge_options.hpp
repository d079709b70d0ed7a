#pragma once

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <kfac/core/errors.hpp>
#include <kfac/linalg/kronecker_sum.hpp>

namespace kfac {

/// What stands for the curvature F_t of the models in
/// \f$ \arg\min_\theta \sum_t \tfrac12 (\theta - \theta_t)^T F_t (\theta - \theta_t) \f$.
enum class MergeMethod {
  Average,   ///< the identity for all: the mean of the parameters by their weights alone
  Diagonal,  ///< the diagonal (Fisher merging)
  RegMean,   ///< A_t (x) I: the outputs of each linear map on its own inputs are kept
  Kronecker  ///< A_t (x) G_t
};

/// How the equations of `MergeMethod::Kronecker` are solved.
enum class MergeSolver {
  Automatic,          ///< `Exact` for two models, else `ConjugateGradients`
  Exact,              ///< of at most two models, by two generalised eigenproblems
  ConjugateGradients  ///< of any number
};

/// Where conjugate gradients start. Along directions in which no model has any curvature they stay
/// there.
enum class MergeStart { Average, RegMean, Given };

/// What is merged with the weights of a linear map.
enum class MergeBias {
  Joint,   ///< the bias, as one more input that is always 1
  Average  ///< nothing: biases are averaged
};

/// What becomes of layers that are not to be merged since each model has its own.
enum class HeadRule {
  Keep,        ///< those of one model are taken
  Concatenate  ///< all outputs, those of the first model first: for models of disjoint classes
};

/// Options of `merge`.
struct MergeOptions {
  MergeMethod method = MergeMethod::Kronecker;
  /// Of each A_t and each diagonal, in units of its own mean diagonal entry; >= 0.
  double damping = 1e-4;
  /// Of each G_t, likewise. It takes more: along what does not matter to the outputs of one network
  /// the other prevails, though it may matter to the merged one. The larger, the nearer to
  /// RegMean.
  double output_damping = 1;
  /// What the entries of the A_t off the diagonal are multiplied with, in [0, 1]; RegMean's paper
  /// has 0.9. 1: nothing.
  double off_diagonal = 1;
  MergeBias bias = MergeBias::Joint;
  MergeSolver solver = MergeSolver::Automatic;
  // Of conjugate gradients:
  double tolerance = 1e-8;      ///< on the relative residual, >= 0
  Index max_iterations = 1000;  ///< for each block, >= 0
  linalg::KroneckerSumPreconditioner preconditioner = linalg::KroneckerSumPreconditioner::Kronecker;
  MergeStart start = MergeStart::Average;
  Vector<double> initial = {};  ///< flat, of the merged network: where `Given` starts

  std::vector<std::string> heads = {};  ///< the names of layers that are not merged
  HeadRule head_rule = HeadRule::Keep;
  Index head_of = 0;  ///< the model whose heads are kept, >= 0
  /// Bytes, > 0: what would take more is refused before anything is allocated.
  double memory_limit = std::numeric_limits<double>::infinity();

  void validate(const char* where) const {
    detail::check_option(damping >= 0 && std::isfinite(damping), where, "damping", damping,
                         ">= 0 and finite");
    detail::check_option(output_damping >= 0 && std::isfinite(output_damping), where,
                         "output_damping", output_damping, ">= 0 and finite");
    detail::check_option(off_diagonal >= 0 && off_diagonal <= 1, where, "off_diagonal",
                         off_diagonal, "in [0, 1]");
    detail::check_option(tolerance >= 0 && std::isfinite(tolerance), where, "tolerance", tolerance,
                         ">= 0 and finite");
    detail::check_option(max_iterations >= 0, where, "max_iterations", max_iterations, ">= 0");
    detail::check_option(head_of >= 0, where, "head_of", head_of, ">= 0");
  }
};

}  // namespace kfac
