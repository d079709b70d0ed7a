/// A network written by hand in plain Eigen, trained with natural gradients: of kfac it uses the
/// Kronecker block (and the two moons to learn from), no layer, no loss and no optimizer.

#include <iostream>

#include <kfac/curvature/kronecker_block.hpp>
#include <kfac/data/two_moons.hpp>

int main() {
  constexpr int kHidden = 32;
  constexpr float kDamping = 1e-2f;
  constexpr float kLearningRate = 0.3f;

  kfac::Rng rng(42);
  const auto moons = kfac::datasets::two_moons<float>({.examples = 400, .noise = 0.12f}, rng);
  const Eigen::MatrixXf& x = moons.inputs;  // one column an example
  const Eigen::RowVectorXf target = moons.targets.transpose().cast<float>();
  const auto count = static_cast<float>(x.cols());

  // Class 1 has the probability sigmoid(w2 tanh(W1 x + b1) + b2).
  Eigen::MatrixXf w1(kHidden, 2), w2(1, kHidden);
  Eigen::VectorXf b1 = Eigen::VectorXf::Zero(kHidden), b2 = Eigen::VectorXf::Zero(1);
  rng.fill_uniform(w1, -0.7, 0.7);
  rng.fill_uniform(w2, -0.2, 0.2);

  kfac::KroneckerBlock<float> block1({.inputs = 2, .outputs = kHidden, .bias = true});
  kfac::KroneckerBlock<float> block2({.inputs = kHidden, .outputs = 1, .bias = true});

  for (int step = 0; step <= 30; ++step) {
    const Eigen::MatrixXf h = ((w1 * x).colwise() + b1).array().tanh();
    const Eigen::ArrayXXf z = (w2 * h).array() + b2(0);
    if (step % 5 == 0)
      std::cout << "step " << step << ": loss "
                << ((1 + z.abs().exp().inverse()).log() + z.max(0) - z * target.array()).mean()
                << '\n';

    // The gradients of the mean loss, with respect to what each layer's weights give.
    const Eigen::MatrixXf g2 = ((1 + (-z).exp()).inverse() - target.array()) / count;
    const Eigen::MatrixXf g1 = (w2.transpose() * g2).array() * (1 - h.array().square());
    Eigen::MatrixXf dw1 = g1 * x.transpose(), dw2 = g2 * h.transpose();
    Eigen::VectorXf db1 = g1.rowwise().sum(), db2 = g2.rowwise().sum();

    block1.accumulate(x, g1);
    block2.accumulate(h, g2);
    block1.refresh_inverse(kDamping);
    block2.refresh_inverse(kDamping);
    block1.precondition(dw1, db1);
    block2.precondition(dw2, db2);

    w1 -= kLearningRate * dw1;
    b1 -= kLearningRate * db1;
    w2 -= kLearningRate * dw2;
    b2 -= kLearningRate * db2;
  }
}
