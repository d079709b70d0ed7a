#pragma once

#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <Eigen/Cholesky>

#include <kfac/linalg/kronecker_pair_solver.hpp>
#include <kfac/merging/merge_options.hpp>

/// The equations of one block of parameters, in double whatever the scalar of the models.
namespace kfac::detail {

/// What one model says of a block: W_t and, as the method has them, weighted factors or diagonal.
struct MergeTerm {
  Matrix<double> parameters;
  double weight = 1;
  linalg::KroneckerTerm<double> factors = {};
  Matrix<double> diagonal = {};
};

struct MergeSolution {
  Matrix<double> x;
  double relative_residual = 0;
  Index iterations = 0;
  linalg::KrylovStatus status = linalg::KrylovStatus::Converged;
};

/// Adds `damping` times the mean of the diagonal to the diagonal.
inline void damp(double damping, Matrix<double>& factor) {
  factor.diagonal().array() += damping * factor.diagonal().mean();
}

inline Matrix<double> merged_average(std::span<const MergeTerm> terms) {
  Matrix<double> sum = Matrix<double>::Zero(terms[0].parameters.rows(), terms[0].parameters.cols());
  double weights = 0;
  for (const MergeTerm& term : terms) {
    sum += term.weight * term.parameters;
    weights += term.weight;
  }
  return sum / weights;
}

/// Entries that have no curvature in any model are averaged.
inline Matrix<double> merged_by_diagonals(std::span<const MergeTerm> terms) {
  Matrix<double> x = merged_average(terms);
  Matrix<double> change = Matrix<double>::Zero(x.rows(), x.cols());
  Matrix<double> sum = change;
  for (const MergeTerm& term : terms) {
    change.array() += term.diagonal.array() * (term.parameters - x).array();
    sum += term.diagonal;
  }
  x.array() += (sum.array() > 0).select(change.array() / sum.array(), 0.0);
  return x;
}

/// \f$ \sum_t G_t (W_t - X) A_t \f$, with 1 for an empty G_t: zero at the solution.
inline Matrix<double> merge_residual(std::span<const MergeTerm> terms, const Matrix<double>& x) {
  Matrix<double> residual = Matrix<double>::Zero(x.rows(), x.cols());
  for (const MergeTerm& term : terms) {
    Matrix<double> difference = term.parameters - x;
    if (term.factors.g.size() > 0) {
      const Matrix<double> half = term.factors.g * difference;
      difference = half;
    }
    residual.noalias() += difference * term.factors.a;
  }
  return residual;
}

/// Corrects the average by `solve(residual)`, and that once more for what rounding left.
template <class Solve>
MergeSolution merged_directly(std::span<const MergeTerm> terms, Solve&& solve) {
  MergeSolution solution{.x = merged_average(terms)};
  const double scale = merge_residual(terms, Matrix<double>::Zero(solution.x.rows(),  //
                                                                  solution.x.cols()))
                           .norm();
  Matrix<double> residual = merge_residual(terms, solution.x);
  for (int round = 0; round < 2 && residual.norm() > 0; ++round) {
    const Matrix<double> better = solution.x + solve(residual);
    const Matrix<double> left = merge_residual(terms, better);
    if (!(left.norm() < residual.norm())) break;
    solution.x = better;
    residual = left;
  }
  solution.relative_residual = scale > 0 ? residual.norm() / scale : residual.norm();
  return solution;
}

[[noreturn]] inline void refuse_singular(const std::string& block) {
  raise<SingularError>(
      "kfac::merge: the sum of the models' curvatures is singular to working precision, expected "
      "damping > 0 (layer '" +
      block + "')");
}

/// \f$ X = (\sum_t W_t A_t) (\sum_t A_t)^{-1} \f$. \throws SingularError, naming the block
/// \source Jin et al. 2023, arXiv 2212.09849
inline MergeSolution merged_by_grams(std::span<const MergeTerm> terms, const std::string& block) {
  Matrix<double> sum = terms[0].factors.a;
  for (const MergeTerm& term : terms.subspan(1)) sum += term.factors.a;
  const Eigen::LLT<Matrix<double>> cholesky(sum);
  // What elimination leaves of a diagonal entry, against what it was.
  const Vector<double> pivots = cholesky.matrixLLT().diagonal();
  const double tolerance = static_cast<double>(sum.rows()) * std::numeric_limits<double>::epsilon();
  if (cholesky.info() != Eigen::Success ||
      !(pivots.array().square() > tolerance * sum.diagonal().array()).all())
    refuse_singular(block);
  return merged_directly(terms, [&](const Matrix<double>& residual) -> Matrix<double> {
    return cholesky.solve(residual.transpose()).transpose();
  });
}

/// \f$ \sum_t G_t X A_t = \sum_t G_t W_t A_t \f$ for two terms. \throws SingularError likewise
inline MergeSolution merged_exactly(std::span<const MergeTerm> terms, const std::string& block) {
  if (terms.size() == 1) return {.x = terms[0].parameters};
  const auto solver =
      linalg::KroneckerPairSolver<double>::try_make(terms[0].factors, terms[1].factors);
  if (!solver) refuse_singular(block);
  return merged_directly(terms,
                         [&](const Matrix<double>& residual) { return solver->solve(residual); });
}

/// The same for any number, from `start`.
inline MergeSolution merged_by_iteration(std::span<const MergeTerm> terms, Matrix<double> start,
                                         const MergeOptions& options) {
  std::vector<linalg::KroneckerTerm<double>> factors;
  for (const MergeTerm& term : terms) factors.push_back(term.factors);
  const linalg::KroneckerSum<double> sum(std::move(factors));
  const Matrix<double> right =
      merge_residual(terms, Matrix<double>::Zero(start.rows(), start.cols()));
  linalg::KroneckerSumSolution<double> solution =
      linalg::solve_kronecker_sum<double>(sum, right,
                                          {.tolerance = options.tolerance,
                                           .max_iterations = options.max_iterations,
                                           .preconditioner = options.preconditioner,
                                           .initial = std::move(start)});
  return {std::move(solution.x), solution.relative_residual, solution.iterations, solution.status};
}

}  // namespace kfac::detail
