#include <kfac/curvature/ggn.hpp>
#include <kfac/curvature/kronecker_eigen_block.hpp>

#include "support/catch.hpp"
#include "support/eigensolver.hpp"
#include "support/networks.hpp"

namespace kfac::test::kfac_optimizer_lockstep_test {

TEST_CASE("KfacOptimizer: in lock-step with dense algebra on the exact GGN of a linear network") {
  // Type-2 K-FAC is the GGN block here, so a whole optimizer is checked against dense solves.
  Rng rng(1);
  Sequential model{Linear<double>(3, 4, rng), Linear<double>(4, 2, rng)};
  const MeanSquaredError<double> loss;
  constexpr double kRate = 0.7, kMomentum = 0.5, kDamping = 0.05, kDecay = 0.01, kClip = 0.02;
  KfacOptimizer optimizer(model, loss,
                          {.learning_rate = kRate,
                           .momentum = kMomentum,
                           .damping = kDamping,
                           .inverse_every = 1,
                           .factor_decay = 0.0,  // only the fresh factors, as the exact blocks are
                           .kl_clip = kClip,
                           .weight_decay = kDecay},
                          block_factory<KroneckerEigenBlock<double>>());
  Vector<double> theta = parameters(model);
  Vector<double> previous = Vector<double>::Zero(theta.size());
  bool clipped = false, unclipped = false;
  for (int step = 0; step < 8; ++step) {
    const Matrix<double> x = random_matrix(3, 6, rng);
    const Matrix<double> y = random_matrix(2, 6, rng);
    Ggn ggn(model, loss, x);
    const Matrix<double> exact = ggn.dense();
    const Vector<double> g =
        ggn.jacobian_transposed_product(loss.gradient(ggn.outputs(), y)) + kDecay * theta;
    Vector<double> v(g.size());
    for (const auto& [offset, size] : {std::pair<Index, Index>{0, 16}, {16, 10}}) {
      Matrix<double> block = exact.block(offset, offset, size, size);
      block.diagonal().array() += kDamping + kDecay;
      v.segment(offset, size) = block.llt().solve(g.segment(offset, size));
    }
    const double scale = std::min(1.0, std::sqrt(kClip / (kRate * kRate * v.dot(g))));
    (scale < 1 ? clipped : unclipped) = true;
    previous = kMomentum * previous - kRate * scale * v;
    theta += previous;

    const StepReport<double>& report = optimizer.step(x, y);
    REQUIRE(report.ok());
    CHECK(relative_error(parameters(model), theta) < 1e-10);
    CHECK(std::abs(report.kl_scale - scale) < 1e-10);
    CHECK(std::abs(report.gradient_norm - (g - kDecay * (theta - previous)).norm()) < 1e-10);
    CHECK(std::abs(report.step_norm - previous.norm()) < 1e-10);
    CHECK(std::abs(report.layer_step_norms[0] - previous.head(16).norm()) < 1e-10);
    CHECK(std::abs(report.layer_step_norms[1] - previous.tail(10).norm()) < 1e-10);
    CHECK(std::abs(report.loss - loss.value(ggn.outputs(), y)) < 1e-12);
  }
  CHECK(clipped);
}

}  // namespace kfac::test::kfac_optimizer_lockstep_test
