// clang-format off: before Eigen
#include "noalloc/training.hpp"
// clang-format on

#include <kfac/nn/activations.hpp>
#include <kfac/nn/conv.hpp>
#include <kfac/nn/flatten.hpp>
#include <kfac/nn/linear.hpp>
#include <kfac/nn/pooling.hpp>
#include <kfac/nn/sequential.hpp>

using kfac::Index;
using namespace kfac::test;

TEST_CASE("noalloc: warm training steps of a convolutional network", "[noalloc]") {
  kfac::Rng rng(1);
  constexpr Index kSide = 6;
  // Patches of as many examples as are wanted at once, of one, and of a few.
  const Index workspace = GENERATE(kfac::Conv2dOptions{}.workspace, Index{0}, Index{40000});
  check_training(
      kfac::Sequential{
          kfac::Unflatten<float>({2, kSide, kSide}),
          kfac::Conv2d<float>(
              {.in_channels = 2, .out_channels = 4, .padding = {1, 1}, .workspace = workspace},
              rng),
          kfac::ReLU<float>{}, kfac::MaxPool2d<float>(kfac::Pool2dOptions{}),
          kfac::Flatten<float>{}, kfac::Linear<float>(4 * kSide / 2 * kSide / 2, kOutputs, rng)},
      2 * kSide * kSide);
}
