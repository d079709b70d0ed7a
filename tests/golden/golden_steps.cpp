#include <stdexcept>

#include <kfac/curvature/ekfac_block.hpp>
#include <kfac/curvature/kronecker_eigen_block.hpp>
#include <kfac/linalg/kronecker.hpp>
#include <kfac/optim/kfac_optimizer.hpp>

#include "golden_case.hpp"
#include "support/eigensolver.hpp"

namespace golden {
namespace {

/// The recipe in case.json is KfacOptimizer's without momentum and clip.
kfac::KfacOptions<double> options_of(const Json& json) {
  kfac::KfacOptions<double> options{.learning_rate = json["lr"].get<double>(),
                                    .momentum = 0,
                                    .damping = json["damping"].get<double>(),
                                    .inverse_every = 1,
                                    .kl_clip = 0};
  options.pi =
      json["damping_variant"] == "pi" ? kfac::FactorBalance::Trace : kfac::FactorBalance::None;
  const std::string fisher = json["fisher"].get<std::string>();
  if (fisher == "empirical")
    options.fisher = kfac::FisherType::Empirical;
  else if (fisher == "forward-only")
    options.fisher = kfac::FisherType::ForwardOnly;
  else if (fisher != "type-2")
    throw Skip("steps with fisher '" + fisher + "'");
  options.sharing =
      json["approx"] == "reduce" ? kfac::WeightSharing::Reduce : kfac::WeightSharing::Expand;
  return options;
}

template <class Block>
void take_steps(const Case& golden, Comparison& comparison) {
  const kfac::KfacOptions<double> options = options_of(golden.json);
  kfac::KfacOptimizer optimizer(golden.model, golden.loss, options, kfac::block_factory<Block>());
  for (int step = 1; step <= golden.json["steps"].get<int>(); ++step) {
    const std::string prefix = "step" + std::to_string(step) + ".";
    const auto layers = curved_layers(golden.model);
    std::vector<Matrix> before;
    for (const auto& layer : layers) before.push_back(augmented(layer, layer.parameters.data()));
    const auto& report = optimizer.step(golden.file.batch<double>(prefix + "input"),
                                        golden.targets(prefix + "target"));
    if (!report.ok()) throw std::runtime_error(describe(report.status));
    const Json& losses = golden.json["losses"];
    comparison.check(
        prefix + "loss", Matrix::Constant(1, 1, report.loss),
        Matrix::Constant(1, 1, losses[static_cast<std::size_t>(step - 1)].get<double>()));
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const std::string l = prefix + "l" + std::to_string(i) + ".";
      const Matrix after = augmented(layers[i], layers[i].parameters.data());
      const auto& block =
          static_cast<const Block&>(*optimizer.preconditioner().layers()[i]->blocks()[0]);
      comparison.check(
          l + "A_running (x) G_running",
          kfac::linalg::kronecker_product<double>(block.input_factor(),
                                                  block.output_gradient_factor()),
          kfac::linalg::kronecker_product<double>(golden.file.matrix<double>(l + "A_running"),
                                                  golden.file.matrix<double>(l + "G_running")));
      comparison.check(l + "direction", (before[i] - after) / options.learning_rate(0),
                       golden.file.matrix<double>(l + "direction"));
      comparison.check(l + "W", after, golden.file.matrix<double>(l + "W"));
    }
  }
}

}  // namespace

void run_steps(const Case& golden, Comparison& comparison) {
  const std::string variant = golden.json["damping_variant"].get<std::string>();
  if (variant == "pi" || variant == "plain_meanA")
    take_steps<kfac::KroneckerBlock<double>>(golden, comparison);
  else if (variant == "exact")
    take_steps<kfac::KroneckerEigenBlock<double>>(golden, comparison);
  else
    throw Skip("steps with damping '" + variant + "'");
}

}  // namespace golden
