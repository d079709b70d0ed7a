// Steps of K-FAC on the smallest network of the benchmarks, whose sizes are known to the compiler,
// that of the batch too: 2-32-2, ReLU, batch 64, factors and inverses at every step.

#include <kfac/kfac.hpp>

namespace {

constexpr kfac::Index kBatch = 64;

struct Training {
  kfac::Rng rng{1};
  kfac::StaticSequential<kBatch, kfac::Linear<float, 2, 32>, kfac::ReLU<float>,
                         kfac::Linear<float, 32, 2>>
      model = kfac::static_sequential<kBatch>(kfac::Linear<float, 2, 32>(rng), kfac::ReLU<float>{},
                                              kfac::Linear<float, 32, 2>(rng));
  kfac::SoftmaxCrossEntropy<float> loss;
  kfac::KfacOptimizer<decltype(model), decltype(loss)> optimizer;
  kfac::Matrix<float> x{2, kBatch};
  kfac::Labels y{kBatch};

  Training()
      : optimizer(model, loss,
                  {.learning_rate = 0.01F,
                   .damping = 0.1F,
                   .inverse_every = 1,
                   .fisher = kfac::FisherType::Empirical}) {
    rng.fill_normal(x);
    for (kfac::Index i = 0; i < y.size(); ++i) y(i) = static_cast<int>(rng.below(2));
  }
  bool step() { return optimizer.step(x, y).ok(); }
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
