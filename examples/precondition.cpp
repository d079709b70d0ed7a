/// Preconditions the gradients of a training loop of one's own: the step stays that of plain SGD.

#include <iostream>

#include <kfac/kfac.hpp>

int main() {
  kfac::Rng rng(42);
  const auto moons = kfac::datasets::two_moons<float>({.examples = 400, .noise = 0.12f}, rng);
  const auto [train, test] = kfac::split(moons, 0.8, rng);

  kfac::Sequential model(kfac::Linear<float>(2, 32, rng), kfac::ReLU<float>{},
                         kfac::Linear<float>(32, 2, rng));
  kfac::SoftmaxCrossEntropy<float> loss;
  kfac::Preconditioner preconditioner(model,
                                      {.damping = 1e-2f, .factor_every = 1, .inverse_every = 10});
  kfac::Sgd sgd(model, {.learning_rate = 0.1f, .momentum = 0.9f});

  for (int epoch = 0; epoch < 5; ++epoch) {
    for (const auto& [x, y] : kfac::batches(train, 64, rng)) {
      const auto& out = model.forward(x);
      model.backward(loss.gradient(out, y));  // the layers' hooks feed the covariance accumulators
      preconditioner.step();  // the model's gradients are now F^-1 times what they were
      sgd.step();
    }
    std::cout << "epoch " << epoch + 1 << ": loss " << kfac::dataset_loss(model, loss, train)
              << ", test accuracy " << kfac::accuracy(model, test) << '\n';
  }
}
