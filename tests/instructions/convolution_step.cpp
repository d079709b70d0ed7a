// Steps of K-FAC on a small convolutional network: 8x8, conv 3x3 to 8, ReLU, conv 3x3 to 16 with
// stride 2, ReLU, linear 5, batch 16, factors and inverses at every step.

#include <kfac/kfac.hpp>

namespace {

struct Training {
  kfac::Rng rng{1};
  kfac::Sequential<kfac::Conv2d<float>, kfac::ReLU<float>, kfac::Conv2d<float>, kfac::ReLU<float>,
                   kfac::Flatten<float>, kfac::Linear<float>>
      model{kfac::Conv2d<float>({.in_channels = 1, .out_channels = 8}, rng),
            kfac::ReLU<float>{},
            kfac::Conv2d<float>({.in_channels = 8, .out_channels = 16, .stride = {2, 2}}, rng),
            kfac::ReLU<float>{},
            kfac::Flatten<float>{},
            kfac::Linear<float>(64, 5, rng)};
  kfac::SoftmaxCrossEntropy<float> loss;
  kfac::KfacOptimizer<decltype(model), decltype(loss)> optimizer;
  kfac::Matrix<float> x{64, 16};
  kfac::Labels y{16};

  Training()
      : optimizer(model, loss,
                  {.learning_rate = 0.01F,
                   .damping = 0.1F,
                   .inverse_every = 1,
                   .fisher = kfac::FisherType::Empirical}) {
    rng.fill_normal(x);
    for (kfac::Index i = 0; i < y.size(); ++i) y(i) = static_cast<int>(rng.below(5));
  }
  bool step() { return optimizer.step(x, y, kfac::Shape{1, 8, 8}).ok(); }
};

}  // namespace

extern "C" bool counted_steps(Training& training);
bool counted_steps(Training& training) {
  bool ok = true;
  for (int i = 0; i < 20; ++i) ok = training.step() && ok;
  return ok;
}

int main() {
  Training training;
  for (int i = 0; i < 3; ++i)
    if (!training.step()) return 1;
  bool (*volatile steps)(Training&) = counted_steps;  // not inlined
  return steps(training) ? 0 : 1;
}
