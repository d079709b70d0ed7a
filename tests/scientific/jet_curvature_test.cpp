#include <vector>

#include <kfac/curvature/curvature_estimator.hpp>
#include <kfac/curvature/ggn.hpp>
#include <kfac/linalg/kronecker.hpp>
#include <kfac/loss/mean_squared_error.hpp>

#include "support/catch.hpp"
#include "support/exact.hpp"
#include "support/pinn_problem.hpp"

namespace kfac::test::jet_curvature_test {

TEST_CASE("K-FAC on jets: exact for the jets of a linear network, an approximation elsewhere") {
  Rng rng(4);
  const MeanSquaredError<double> loss({.reduction = Reduction::ExampleMean});
  const auto errors = [&](auto& network, const Matrix<double>& x) {
    CurvatureEstimator estimator(network, loss);
    const Matrix<double> outputs = network.forward(x);
    estimator.fit(x, outputs);
    const Matrix<double> full = Ggn(network, loss, x).dense();
    Index offset = 0;
    std::vector<double> result;
    for (const auto& layer : estimator.layers()) {
      const auto& block = static_cast<const KroneckerBlock<double>&>(*layer->blocks()[0]);
      const Matrix<double> dense =
          linalg::kronecker_product<double>(block.input_factor(), block.output_gradient_factor());
      const Matrix<double> exact = full.block(offset, offset, dense.rows(), dense.cols());
      result.push_back(relative_error(dense, exact));
      offset += dense.rows();
    }
    REQUIRE(offset == network.parameter_count());
    return result;
  };
  DynamicSequential<double> linear(
      {Linear<double>(2, 4, rng), Linear<double>(4, 3, rng), Linear<double>(3, 2, rng)});
  auto jets = jet_network(linear, JetSlots<double>::laplacian(2));
  for (const double error : errors(jets, normal<double>(2, 9, rng))) CHECK(error < 1e-12);

  PinnProblem problem(5);
  for (const double error : errors(problem.residual, problem.interior.inputs)) {
    WARN("relative error of a layer's K-FAC block for a tanh network's residual: " << error);
    CHECK(error > 1e-3);
    CHECK(error < 1);
  }
}

}  // namespace kfac::test::jet_curvature_test
