#include "support/exact_curvature.hpp"

#include <kfac/curvature/fisher_operator.hpp>
#include <kfac/curvature/ggn.hpp>
#include <kfac/data/slices.hpp>

namespace examples {

Eigen::MatrixXd exact_curvature(const CurvatureProblem& problem) {
  constexpr kfac::Index kAtOnce = 500;
  const auto& [model, loss, data, fisher, samples] = problem;
  const auto slices = kfac::slices(data, kAtOnce);
  switch (fisher) {
    case kfac::FisherType::MonteCarlo:
      return kfac::MonteCarloFisher(model, loss, slices, samples).dense();
    case kfac::FisherType::Empirical:
      return kfac::EmpiricalFisher(model, loss, slices).dense();
    default:
      return kfac::Ggn(model, loss, slices).dense();
  }
}

}  // namespace examples
