// What a user of the library writes who has a network of their own, and only matrices for us.
#include <kfac/kfac.hpp>

int main() {
  kfac::Rng rng(1);
  kfac::Matrix<float> activations(6, 32);
  kfac::Matrix<float> output_gradients(3, 32);
  kfac::Matrix<float> weight_gradient(3, 6);
  kfac::Vector<float> bias_gradient(3);
  rng.fill_normal(activations);
  rng.fill_normal(output_gradients);
  rng.fill_normal(weight_gradient);
  rng.fill_normal(bias_gradient);

  kfac::KroneckerBlock<float> block({.inputs = 6, .outputs = 3, .bias = true});
  block.accumulate(activations, output_gradients);
  block.refresh_inverse(1e-2f);
  block.precondition(weight_gradient, bias_gradient);
  return weight_gradient.allFinite() && bias_gradient.allFinite() ? 0 : 1;
}
