#pragma once

#include <vector>

#include "support/eigensolver.hpp"
#include "support/networks.hpp"

/// What the tests of curvature blocks share: data made of known vectors, and the exact block that
/// they make, summed by hand.
namespace kfac::test {

/// Inputs and output gradients of a linear map at `positions` positions of `examples` examples, as
/// columns, an example's positions together.
struct MapData {
  Index inputs = 0, outputs = 0, positions = 0, examples = 0;
  bool bias = false;
  Matrix<double> x, g;

  MapData(Index inputs_, Index outputs_, Index positions_, Index examples_, bool bias_, Rng& rng)
      : inputs(inputs_),
        outputs(outputs_),
        positions(positions_),
        examples(examples_),
        bias(bias_),
        x(random_matrix(inputs, positions * examples, rng)),
        g(random_matrix(outputs, positions * examples, rng)) {}

  static MapData random(Rng& rng) {
    const Index inputs = 1 + rng.below(5), outputs = 1 + rng.below(5);
    return {inputs, outputs, 1 + rng.below(3), 1 + rng.below(12), rng.below(2) == 0, rng};
  }

  Index columns() const { return inputs + (bias ? 1 : 0); }
  BlockOptions<double> options() const {
    return {.inputs = inputs, .outputs = outputs, .bias = bias};
  }
  SharedBatch<double> input() const { return shared(x); }
  SharedBatch<double> gradient() const { return shared(g); }

  /// x with the bias's 1.
  Matrix<double> augmented() const {
    Matrix<double> result = Matrix<double>::Ones(columns(), x.cols());
    result.topRows(inputs) = x;
    return result;
  }
  /// P_n of each example.
  std::vector<Matrix<double>> gradients() const {
    std::vector<Matrix<double>> result;
    const Matrix<double> all = augmented();
    for (Index n = 0; n < examples; ++n)
      result.push_back(g.middleCols(n * positions, positions) *
                       all.middleCols(n * positions, positions).transpose());
    return result;
  }
  /// scale / N sum_n vec(P_n) vec(P_n)^T.
  Matrix<double> exact(double scale) const {
    Matrix<double> sum = Matrix<double>::Zero(outputs * columns(), outputs * columns());
    for (const Matrix<double>& p : gradients()) {
      const Vector<double> flat = p.reshaped();
      sum += scale / static_cast<double>(examples) * flat * flat.transpose();
    }
    return sum;
  }

  /// Feeds a block with as many passes as it wants.
  void fit(CurvatureBlock<double>& block, double scale) const {
    for (Index pass = 0; block.begin_pass(pass); ++pass) {
      block.add_input(input());
      block.add_output_gradient(input(), gradient(), 1.0);
      block.commit(scale);
    }
  }

 private:
  SharedBatch<double> shared(const Matrix<double>& values) const {
    return {values.data(), values.rows(), values.cols(), positions,
            SharedBatch<double>::Order::ColumnMajor};
  }
};

/// A block's undamped estimate.
inline Matrix<double> dense_of(const CurvatureBlock<double>& block) {
  return block.matrix(0.0)->dense();
}

}  // namespace kfac::test
