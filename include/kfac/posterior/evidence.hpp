#pragma once

#include <kfac/posterior/laplace.hpp>

namespace kfac {

/// The log marginal likelihood of a Laplace approximation with its derivatives by the logarithms of
/// the hyperparameters, at fixed mean and curvature.
struct Evidence {
  double log_marginal_likelihood = 0;
  /// gamma of each group: how many of its parameters the data determine.
  Vector<double> effective_parameters;
  Vector<double> prior_gradient;  ///< by log delta of each group
  double noise_gradient = 0;      ///< by log sigma; 0 where the likelihood is that of labels
  /// Second derivatives, of the groups and, last, log sigma; empty where they are not wanted.
  Matrix<double> hessian;
};

/// What `evidence` derives besides the value and the gradient.
enum class EvidenceHessian {
  None,
  FixedMean,
  /// Of the evidence whose mean moves with the hyperparameters, being the mode for each: at the
  /// mode the gradient is the same.
  AtMode,
};

/// \throws StateError if the posterior's data are not known (or for AtMode their gradient)
/// \source MacKay, Bayesian interpolation, 1992
template <RealScalar S>
Evidence evidence(const Laplace<S>& posterior, EvidenceHessian hessian = EvidenceHessian::None) {
  const Prior<S>& prior = posterior.prior();
  const Vector<double>& delta = prior.precision();
  const Index groups = prior.groups();
  const DeterminantTerms terms = posterior.determinant_terms(hessian != EvidenceHessian::None);
  const Vector<double> squares = delta.cwiseProduct(prior.square_distances(posterior.mean()));
  const double kappa = posterior.likelihood_precision();
  const double loss = kappa * posterior.data().loss;
  const bool regression = posterior.likelihood() == Likelihood::Regression;

  Evidence result;
  result.log_marginal_likelihood =
      posterior.log_likelihood() -
      0.5 * (terms.log_determinant - prior.log_determinant() + squares.sum());
  result.effective_parameters = prior.sizes() - terms.first;
  result.prior_gradient = 0.5 * (result.effective_parameters - squares);
  // log kappa = -2 log sigma + ...
  const double effective = result.effective_parameters.sum();
  if (regression)
    result.noise_gradient =
        2 * loss - static_cast<double>(posterior.data().observations) + effective;
  if (hessian == EvidenceHessian::None) return result;

  result.hessian = Matrix<double>::Zero(groups + 1, groups + 1);
  result.hessian.topLeftCorner(groups, groups) = -0.5 * terms.second;
  result.hessian.diagonal().head(groups) -= 0.5 * squares;
  if (regression) {
    const Vector<double> mixed = -terms.second.rowwise().sum();
    result.hessian.col(groups).head(groups) = mixed;
    result.hessian.row(groups).head(groups) = mixed.transpose();
    result.hessian(groups, groups) = -4 * loss + 2 * mixed.sum();
  }
  if (hessian == EvidenceHessian::FixedMean) return result;

  if (posterior.data().gradient.size() == 0)
    raise<StateError>("kfac::evidence: 'data' has no gradient, expected that of fit_laplace");
  // How the gradient of kappa loss + 1/2 delta (theta - mean)^2 changes with each hyperparameter.
  const Index columns = regression ? groups + 1 : groups;
  Matrix<S> change = Matrix<S>::Zero(posterior.parameters(), columns);
  prior.for_each([&](Index parameter, Index group) {
    change(parameter, group) =
        static_cast<S>(delta(group)) * (posterior.mean()(parameter) - prior.mean()(parameter));
  });
  if (regression) change.col(groups) = static_cast<S>(-2 * kappa) * posterior.data().gradient;
  Matrix<S> moved = change;
  for (Index j = 0; j < columns; ++j) posterior.multiply_covariance(moved.col(j));
  result.hessian.topLeftCorner(columns, columns) +=
      (change.transpose() * moved).template cast<double>();
  return result;
}

}  // namespace kfac
