// clang-format off: before Eigen
#include "noalloc/warm.hpp"
// clang-format on

#include <stdexcept>

#include <kfac/curvature/kronecker_block.hpp>
#include <kfac/curvature/preconditioner.hpp>
#include <kfac/curvature/two_level.hpp>
#include <kfac/loss/softmax_cross_entropy.hpp>
#include <kfac/nn/activations.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/sequential.hpp>

using namespace kfac::test;

TEST_CASE("noalloc: a warm TwoLevel", "[noalloc]") {
  using kfac::CoarseForm;
  using kfac::CoarseSpace;
  for (const CoarseSpace space : {CoarseSpace::LayerAndBias, CoarseSpace::Spectral})
    for (const CoarseForm form : {CoarseForm::Additive, CoarseForm::Deflated}) {
      kfac::Rng rng(1);
      kfac::Sequential model{kfac::Linear<float>(kInputs, kHidden, rng), kfac::Tanh<float>{},
                             kfac::Linear<float>(kHidden, kOutputs, rng)};
      const kfac::SoftmaxCrossEntropy<float> loss;
      kfac::Preconditioner preconditioner(model, {.damping = 0.1f, .inverse_every = 2});
      kfac::TwoLevel<float> two_level(model.layers(), preconditioner.layers(),
                                      {.space = space, .form = form, .vectors = 2});
      kfac::Buffer<float> gradient;
      check_warm(kInputs, [&](const Batch& batch) {
        const auto outputs = model.forward(batch.x);
        auto grad_output = gradient.map(outputs.rows(), outputs.cols());
        loss.gradient(outputs, batch.y, grad_output);
        model.backward(grad_output);
        if (!preconditioner.step().ok()) throw std::runtime_error("the step failed");
        two_level.refresh_space();
        if (!two_level.update(model, loss)) throw std::runtime_error("the update failed");
        if (!two_level.precondition(0.1f, model.gradient(),
                                    [](kfac::VectorRef<float> v) { v *= 2; }))
          throw std::runtime_error("no second level");
      });
    }
}
