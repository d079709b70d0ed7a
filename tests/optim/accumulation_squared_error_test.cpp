#include "optim/accumulation.hpp"

namespace kfac::test::accumulation_squared_error_test {

using namespace accumulation;

TEST_CASE(
    "Accumulation: squared errors give the step of the full batch, with all ways to reduce them") {
  for (const Reduction reduction : {Reduction::Mean, Reduction::Sum, Reduction::ExampleMean})
    for (const FisherType fisher :
         {FisherType::Type2, FisherType::MonteCarlo, FisherType::Empirical}) {
      Options options = kBase;
      options.fisher = fisher;
      check_slices(SquaredError({.reduction = reduction}), dense_network(), kDense, options);
    }
}

TEST_CASE("Accumulation: so do steps with a search for gamma, and with rejection") {
  Options options = kBase;
  options.adaptive_learning_rate = true;
  options.adaptive_momentum = true;
  options.damping_adaptation = {.every = 1};
  options.weight_decay = 1e-3;
  options.gamma_search = {.every = 2};
  check_slices(SquaredError(), dense_network(), kDense, options);

  options = kBase;
  options.learning_rate = 30;  // too far
  options.kl_clip = 0;
  options.damping_adaptation = {.every = 2};
  options.rejection = {.enabled = true, .shrinks = 2, .damping_factor = 2};
  check_slices(SquaredError(), dense_network(), kDense, options);
}

}  // namespace kfac::test::accumulation_squared_error_test
