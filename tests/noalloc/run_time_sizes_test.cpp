// clang-format off: before Eigen
#include "noalloc/training.hpp"
// clang-format on

#include <kfac/nn/activations.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/sequential.hpp>

using namespace kfac::test;

TEST_CASE("noalloc: warm training steps of a network of run-time sizes", "[noalloc]") {
  kfac::Rng rng(1);
  check_training(kfac::Sequential{kfac::Linear<float>(kInputs, kHidden, rng), kfac::Tanh<float>{},
                                  kfac::Linear<float>(kHidden, kOutputs, rng)},
                 kInputs);
}
