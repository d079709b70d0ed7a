/// Trains a small network on two moons: the shortest complete program.

#include <iostream>

#include <kfac/kfac.hpp>

int main() {
  kfac::Rng rng(42);
  const auto moons = kfac::datasets::two_moons<float>({.examples = 400, .noise = 0.12f}, rng);
  const auto [train, test] = kfac::split(moons, 0.8, rng);

  kfac::Sequential model(kfac::Linear<float>(2, 32, rng), kfac::ReLU<float>{},
                         kfac::Linear<float>(32, 2, rng));
  kfac::SoftmaxCrossEntropy<float> loss;
  kfac::KfacOptimizer optimizer(model, loss,
                                {.learning_rate = 0.5f, .damping = 1e-2f, .inverse_every = 5});

  for (int epoch = 0; epoch < 5; ++epoch)
    for (const auto& [x, y] : kfac::batches(train, 64, rng)) optimizer.step(x, y);

  std::cout << kfac::accuracy(model, test) << '\n';
}
